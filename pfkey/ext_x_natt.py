"""The NAT traversal extensions: encapsulation type and ports (KAME, RFC 3948).

Byte order: network for the port, host for the rest. The original address is in `ext_address`.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import BE16, R16, R24, U8, U16, Format
from pfkey.const import ExtType

SADB_X_NAT_T_TYPE = Format(
    "sadb_x_nat_t_type", "len" / U16, "exttype" / U16, "type" / U8, "reserved" / R24
)
SADB_X_NAT_T_PORT = Format(
    "sadb_x_nat_t_port", "len" / U16, "exttype" / U16, "port" / BE16, "reserved" / R16
)
_TYPE = frozenset({int(ExtType.X_NAT_T_TYPE)})
_PORTS = frozenset({int(ExtType.X_NAT_T_SPORT), int(ExtType.X_NAT_T_DPORT)})


@dataclass(frozen=True, slots=True, kw_only=True)
class NatTType:
    """The encapsulation: 2 for ESP in UDP, 1 for the older form without a marker, 0 for none."""

    exttype: ClassVar[ExtType] = ExtType.X_NAT_T_TYPE
    type: int

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read exactly 8 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_X_NAT_T_TYPE, octets, at, _TYPE, is_fixed=True)
        return cls(type=SADB_X_NAT_T_TYPE.parse(octets, at)["type"])

    def encode(self) -> bytes:
        """Build the 8 octets. A field out of range raises WireError."""
        return SADB_X_NAT_T_TYPE.build(len=1, exttype=self.exttype, type=self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatTPort:
    """The UDP port of the source (SPORT) or the destination (DPORT)."""

    exttype: int
    port: int

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read exactly 8 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_X_NAT_T_PORT, octets, at, _PORTS, is_fixed=True)
        return cls(exttype=exttype, port=SADB_X_NAT_T_PORT.parse(octets, at)["port"])

    def encode(self) -> bytes:
        """Build the 8 octets. A field out of range raises WireError."""
        return SADB_X_NAT_T_PORT.build(len=1, exttype=self.exttype, port=self.port)
