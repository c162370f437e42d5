"""The numbers in the bits of the packet mark that are ours, and what belongs to each.

0x4b           leads to the TUN device pfkey0
0x4c           on what the data path itself sends
0x50 and up    on a socket: the number of its pair of policies
half way up    on that socket's packets which lead to the device of its pair
"""

from dataclasses import dataclass

_PROTECT, _BYPASS, _SOCKETS = 0x4B, 0x4C, 0x50
PAIRS_MAX = 88  # of policies of sockets: what fits 8 bits


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in the bits of `mask`."""

    mask: int = 0xFF000000

    def __post_init__(self) -> None:
        bits = self._highest
        if not 0 < self.mask <= 0xFFFFFFFF or bits & (bits + 1) or bits < 0x7F:
            raise ValueError(f"mark mask {self.mask:#x}: 7 or more adjacent bits are needed")

    @property
    def _shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def _highest(self) -> int:
        return self.mask >> self._shift if self.mask else 0

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

    @property
    def pairs(self) -> int:
        """How many pairs of policies there can be."""
        return min(PAIRS_MAX, (self._highest - _SOCKETS + 1) // 2)

    def socket(self, number: int) -> int:
        """On the sockets with this pair of policies."""
        return _SOCKETS + number << self._shift

    def steered(self, number: int) -> int:
        """On their packets that lead to the device of the pair."""
        return self.socket(self.pairs + number)

    def pair(self, mark: int) -> int | None:
        """The number of the pair that a socket's mark says; None: no pair."""
        number = (mark & self.mask) - self.socket(0) >> self._shift
        return number if 0 <= number < self.pairs else None

    def merged(self, has: int, given: int) -> int:
        """What a socket with one mark gets when its program gives it another.

        A pair stays. Where there is none, no program makes itself one, nor a packet of ours.
        """
        ours = given & self.mask
        if self.pair(has) is not None:
            ours = has & self.mask
        elif ours in (self.protect, self.bypass) or ours >= self.socket(0):
            ours = 0
        return given & self.others | ours

    def with_pair(self, mark: int, number: int | None) -> int:
        """The mark of a socket that gets this pair, or none; bits that are not ours stay."""
        return mark & self.others | (0 if number is None else self.socket(number))
