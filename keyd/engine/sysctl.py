"""The knobs, with NetBSD's names and defaults; each is read where it has its effect."""

from errno import EINVAL, ENOENT
from typing import NamedTuple

from pfkey.errors import SadbError

_U32 = 2**32 - 1
_YEAR = 366 * 86400


class Row(NamedTuple):
    """One knob: a whole number within bounds, both included."""

    name: str
    default: int
    low: int
    high: int


ROWS: tuple[Row, ...] = (
    Row("net.key.spi_try", 1000, 1, 1_000_000),
    Row("net.key.spi_min_value", 0x100, 1, _U32),
    Row("net.key.spi_max_value", 0x0FFFFFFF, 1, _U32),
    Row("net.key.larval_lifetime", 30, 1, _YEAR),
    Row("net.key.blockacq_count", 10, 0, 1_000_000),
    Row("net.key.blockacq_lifetime", 20, 1, _YEAR),
    Row("net.key.prefered_oldsa", 0, 0, 1),
    Row("net.key.esp_keymin", 256, 0, 0xFFFF),
    Row("net.key.esp_auth", 0, 0, 1),
    Row("net.key.ah_keymin", 128, 0, 0xFFFF),
)


class Sysctls:
    """The values as they are now."""

    __slots__ = ("_rows", "_values")

    def __init__(self) -> None:
        self._rows = {row.name: row for row in ROWS}
        self._values = {row.name: row.default for row in ROWS}

    def __getitem__(self, name: str) -> int:
        """The value of a name that is in `ROWS`."""
        return self._values[name]

    def set(self, name: str, value: int) -> None:
        """Change a value.

        Raises:
            SadbError: ENOENT for a name that is none, EINVAL for a value out of its range.
        """
        row = self._rows.get(name)
        if row is None:
            raise SadbError(ENOENT, f"there is no {name}")
        if not row.low <= value <= row.high:
            raise SadbError(EINVAL, f"{name} takes {row.low} to {row.high}, not {value}")
        self._values[name] = value
