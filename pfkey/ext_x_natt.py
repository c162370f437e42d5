"""The NAT traversal extensions: type, ports, size of fragments (KAME, OpenBSD, RFC 3948).

Byte order: network for the port, host for the rest. The original address is in `ext_address`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import BE16, R16, R24, U8, U16, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.ext_fixed import FixedExtension

SADB_X_NAT_T_TYPE = Format(
    "sadb_x_nat_t_type", "len" / U16, "exttype" / U16, "type" / U8, "reserved" / R24
)
SADB_X_NAT_T_PORT = Format(
    "sadb_x_nat_t_port", "len" / U16, "exttype" / U16, "port" / BE16, "reserved" / R16
)
SADB_X_NAT_T_FRAG = Format(
    "sadb_x_nat_t_frag", "len" / U16, "exttype" / U16, "fraglen" / U16, "reserved" / R16
)
SADB_X_UDPENCAP = Format(
    "sadb_x_udpencap", "len" / U16, "exttype" / U16, "port" / BE16, "reserved" / R16
)
_PORT_FORMATS = {
    ExtType.X_NAT_T_SPORT: SADB_X_NAT_T_PORT,
    ExtType.X_NAT_T_DPORT: SADB_X_NAT_T_PORT,
    ExtType.X_UDPENCAP: SADB_X_UDPENCAP,
}
_PORTS = frozenset(map(int, _PORT_FORMATS))


@dataclass(frozen=True, slots=True, kw_only=True)
class NatTType(FixedExtension):
    """The encapsulation: 2 for ESP in UDP, 1 without a marker (older), 0 for none. 8 octets."""

    exttype: ClassVar[ExtType] = ExtType.X_NAT_T_TYPE
    layout: ClassVar[Format] = SADB_X_NAT_T_TYPE
    values: ClassVar[Mapping[str, str]] = {"type": "type"}
    type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NatTPort:
    """The UDP port of the source (SPORT), the destination (DPORT) or OpenBSD's peer (UDPENCAP)."""

    exttype: int
    port: int

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 8 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_X_NAT_T_PORT, octets, at, _PORTS, dialect, is_fixed=True)
        return cls(exttype=exttype, port=_PORT_FORMATS[ExtType(exttype)].parse(octets, at)["port"])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 8 octets. A field out of range raises WireError."""
        fmt = _PORT_FORMATS[ExtType(self.exttype)]
        return fmt.build(len=1, exttype=dialect.exttype(self.exttype), port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatTFrag(FixedExtension):
    """To fragments of how many octets IP packets are cut before they become ESP in UDP."""

    exttype: ClassVar[ExtType] = ExtType.X_NAT_T_FRAG
    layout: ClassVar[Format] = SADB_X_NAT_T_FRAG
    values: ClassVar[Mapping[str, str]] = {"octets": "fraglen"}
    octets: int
