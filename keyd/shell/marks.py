"""The bits of a packet's mark that are ours."""

from dataclasses import dataclass

_PROTECT, _BYPASS = 0x4B, 0x4C


@dataclass(frozen=True, slots=True)
class Marks:
    """The two marks in the bits of the packet mark that are ours."""

    mask: int = 0xFF000000

    def __post_init__(self) -> None:
        bits = self.mask >> self._shift if self.mask else 0
        if not 0 < self.mask <= 0xFFFFFFFF or bits & (bits + 1) or bits < 0x7F:
            raise ValueError(f"mark mask {self.mask:#x}: 7 or more adjacent bits are needed")

    @property
    def _shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def protect(self) -> int:
        """Leads to the TUN."""
        return _PROTECT << self._shift

    @property
    def bypass(self) -> int:
        """On what the data path itself sends."""
        return _BYPASS << self._shift

    @property
    def others(self) -> int:
        """The bits that are not ours."""
        return ~self.mask & 0xFFFFFFFF
