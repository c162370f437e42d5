"""The knobs, with NetBSD's names and defaults; each is read where it has its effect.

Held to `specs/tables/sysctls.toml` in both directions. A few names of NetBSD's have no number:
counters (`OPAQUE`, the shell answers) and dumps (a client makes them of SADB_DUMP and SPDDUMP).
"""

from collections.abc import Sequence
from errno import EINVAL, ENOENT, EPERM
from typing import NamedTuple, Self

from pfkey.errors import SadbError

_U32 = range(2**32)
_YEAR = range(1, 366 * 86400 + 1)
_TRIES = range(1, 1_000_001)
_SWITCH = (0, 1)
_DEFLEVS = ("esp_trans_deflev", "esp_net_deflev", "ah_trans_deflev", "ah_net_deflev")


class Row(NamedTuple):
    """One knob.

    `values` is what may be written, none for a name that can only be read. `shares` names the row
    whose value this is another name of. `why` says why there are no other values.
    """

    name: str
    default: int
    values: Sequence[int] = _SWITCH
    shares: str = ""
    why: str = ""


ROWS: tuple[Row, ...] = (
    Row("net.key.debug", 0, _U32),
    Row("net.key.spi_try", 1000, _TRIES),
    Row("net.key.spi_min_value", 0x100, _U32[1:]),
    Row("net.key.spi_max_value", 0x0FFFFFFF, _U32[1:]),
    Row("net.key.random_int", 60, (60,), why="chance comes from the system, which sees to itself"),
    Row("net.key.larval_lifetime", 30, _YEAR),
    Row("net.key.blockacq_count", 10, range(1_000_001)),
    Row("net.key.blockacq_lifetime", 20, _YEAR),
    Row("net.key.esp_keymin", 256, range(0x10000)),
    Row("net.key.esp_auth", 0),
    Row("net.key.ah_keymin", 128, range(0x10000)),
    Row("net.key.prefered_oldsa", 0),
    Row("net.key.allow_different_idtype", 0),
    Row("net.inet.ipsec.def_policy", 1),
    *(Row(f"net.inet.ipsec.{name}", 1, (1, 2)) for name in _DEFLEVS),
    Row("net.inet.ipsec.enabled", 1, (0, 1, 2)),
    Row("net.inet.ipsec.used", 0, ()),
    Row("net.inet.ipsec.ah_cleartos", 1),
    Row("net.inet.ipsec.ah_offsetmask", 0, range(0x10000)),
    Row("net.inet.ipsec.dfbit", 2, (0, 1, 2)),
    Row("net.inet.ipsec.ecn", 1, (-1, 0, 1)),
    Row("net.inet.ipsec.debug", 0),
    Row("net.inet.ipsec.ipip_spoofcheck", 1),
    Row("net.inet.ipsec.ah_enable", 1),
    Row("net.inet.ipsec.esp_enable", 1),
    Row("net.inet.ipsec.ipcomp_enable", 1),
    Row("net.inet.ipsec.crypto_support", 0, (-1, 0), why="there is no cryptographic hardware"),
    Row("net.inet.ipsec.test_replay", 0),
    Row("net.inet.ipsec.test_integrity", 0),
    Row("net.inet6.ipsec6.def_policy", 1),
    *(Row(f"net.inet6.ipsec6.{name}", 1, (1, 2)) for name in _DEFLEVS),
    Row("net.inet6.ipsec6.enabled", 1, (0, 1, 2), shares="net.inet.ipsec.enabled"),
    Row("net.inet6.ipsec6.used", 0, (), shares="net.inet.ipsec.used"),
    Row("net.inet6.ipsec6.ecn", 1, (-1, 0, 1)),
    Row("net.inet6.ipsec6.debug", 0, shares="net.inet.ipsec.debug"),
)
OPAQUE = ("net.key.stats", "net.inet.ipsec.ipsecstats", "net.inet6.ipsec6.stats")
DUMPS = ("net.key.dumpsa", "net.key.dumpsp")


class Sysctls:
    """The values as they are now."""

    __slots__ = ("_rows", "_values")

    def __init__(self) -> None:
        self._rows = {row.name: row for row in ROWS}
        self._values = {row.name: row.default for row in ROWS}

    def copy(self) -> Self:
        """Another one with the same values."""
        twin = type(self)()
        twin._values = dict(self._values)
        return twin

    def __getitem__(self, name: str) -> int:
        """The value of a name that is in `ROWS`."""
        return self._values[self._rows[name].shares or name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def check(self, name: str, value: int) -> None:
        """Whether a value may be written.

        Raises:
            SadbError: ENOENT for a name that is none, EPERM for one that can only be read, EINVAL
                for a value that is not in its range.
        """
        row = self._rows.get(name)
        if row is None:
            raise SadbError(ENOENT, f"there is no {name}")
        if not row.values:
            raise SadbError(EPERM, f"{name} can only be read")
        if value not in row.values:
            reason = f": {row.why}" if row.why else ""
            raise SadbError(EINVAL, f"{name} takes {_text(row.values)}, not {value}{reason}")

    def set(self, name: str, value: int) -> None:
        """Change a value; the checks are `check`'s."""
        self.check(name, value)
        self._values[self._rows[name].shares or name] = value


def _text(values: Sequence[int]) -> str:
    if isinstance(values, range):
        return f"{values[0]} to {values[-1]}"
    few = [str(value) for value in values]
    return few[0] if len(few) == 1 else f"{', '.join(few[:-1])} or {few[-1]}"
