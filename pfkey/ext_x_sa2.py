"""The second Association extension of KAME, sadb_x_sa2: mode and request id.

Byte order: host. Clients leave stack octets in the reserved fields, so those are ignored.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import R8, R16, U8, U16, U32, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect

SADB_X_SA2 = Format(
    "sadb_x_sa2",
    "len" / U16,
    "exttype" / U16,
    "mode" / U8,
    "reserved1" / R8,
    "reserved2" / R16,
    "sequence" / U32,
    "reqid" / U32,
)
_TYPES = frozenset({int(ExtType.X_SA2)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sa2:
    """Mode, request id, and in replies of some systems the last sequence number sent."""

    exttype: ClassVar[ExtType] = ExtType.X_SA2
    mode: int = 0
    reqid: int = 0
    sequence: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 16 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_X_SA2, octets, at, _TYPES, dialect, is_fixed=True)
        raw = SADB_X_SA2.parse(octets, at)
        mode = raw["mode"] if dialect is LINUX else dialect.modes.ours(raw["mode"])
        return cls(mode=mode, reqid=raw["reqid"], sequence=raw["sequence"])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 16 octets. What does not fit or has no number raises WireError."""
        mode = self.mode if dialect is LINUX else dialect.modes.theirs(self.mode)
        return SADB_X_SA2.build(
            len=2, exttype=dialect.exttype(self.exttype), mode=mode, sequence=self.sequence,
            reqid=self.reqid,
        )  # fmt: skip
