"""The second Association extension of KAME, sadb_x_sa2: mode and request id.

Byte order: host. Clients leave stack octets in the reserved fields, so those are ignored.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import R8, R16, U8, U16, U32, Format
from pfkey.const import ExtType

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
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read exactly 16 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_X_SA2, octets, at, _TYPES, is_fixed=True)
        raw = SADB_X_SA2.parse(octets, at)
        return cls(mode=raw["mode"], reqid=raw["reqid"], sequence=raw["sequence"])

    def encode(self) -> bytes:
        """Build the 16 octets. A field out of range raises WireError."""
        return SADB_X_SA2.build(
            len=2, exttype=self.exttype, mode=self.mode, sequence=self.sequence, reqid=self.reqid
        )
