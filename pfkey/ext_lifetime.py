"""The Lifetime extensions, sadb_lifetime (RFC 2367 section 2.3.2). Byte order: host."""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension
from pfkey.codec import U16, U32, U64, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect

SADB_LIFETIME = Format(
    "sadb_lifetime",
    "len" / U16,
    "exttype" / U16,
    "allocations" / U32,
    "bytes" / U64,
    "addtime" / U64,
    "usetime" / U64,
)
_TYPES = frozenset(
    {
        int(ExtType.LIFETIME_CURRENT),
        int(ExtType.LIFETIME_HARD),
        int(ExtType.LIFETIME_SOFT),
        int(ExtType.X_LFT_CUR_SW_OFFL),
        int(ExtType.X_LFT_CUR_HW_OFFL),
        int(ExtType.X_LIFETIME_LASTUSE),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """Limits (HARD, SOFT; 0 does not limit) or what happened so far (all others).

    `addtime` and `usetime` are seconds: spans in limits, wall-clock time in the others. FreeBSD
    counts what ran in software and in hardware apart, OpenBSD tells the last use in `usetime`.
    """

    exttype: int
    allocations: int = 0
    octets: int = 0
    addtime: int = 0
    usetime: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 32 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_LIFETIME, octets, at, _TYPES, dialect, is_fixed=True)
        raw = SADB_LIFETIME.parse(octets, at)
        return cls(
            exttype=exttype, allocations=raw["allocations"], octets=raw["bytes"],
            addtime=raw["addtime"], usetime=raw["usetime"],
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 32 octets. A field out of range raises WireError."""
        return SADB_LIFETIME.build(
            len=4, exttype=dialect.exttype(self.exttype), allocations=self.allocations,
            bytes=self.octets, addtime=self.addtime, usetime=self.usetime,
        )  # fmt: skip
