"""The Address extensions, sadb_address and a sockaddr (RFC 2367 section 2.3.3; Linux NAT_T_OA).

Byte order: network for port, address and flow label, host for the rest.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import (
    FAMILY_OF_SIZE,
    SOCKADDR_IN6_FIELDS,
    SOCKADDR_IN_FIELDS,
    address_text,
    check_extension,
    family_in,
    family_of,
    part,
)
from pfkey.codec import R16, R32, U8, U16, Format
from pfkey.const import AF_INET, AF_INET6, UNIT_OCTETS, ExtType
from pfkey.errors import WireError

_FIELDS = (
    "len" / U16,
    "exttype" / U16,
    "proto" / U8,
    "prefixlen" / U8,
    "reserved" / R16,
)
SADB_ADDRESS = Format("sadb_address", *_FIELDS)
# With the sockaddr behind it and its padding, so that one pass reads both.
_WHOLE = {
    AF_INET: Format("sadb_address", *_FIELDS, *SOCKADDR_IN_FIELDS),
    AF_INET6: Format("sadb_address", *_FIELDS, *SOCKADDR_IN6_FIELDS, "padding" / R32),
}
_TYPES = frozenset(
    {
        int(ExtType.ADDRESS_SRC),
        int(ExtType.ADDRESS_DST),
        int(ExtType.ADDRESS_PROXY),
        int(ExtType.X_NAT_T_OA),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address, packed, with a prefix length in bits, an upper protocol and a port."""

    exttype: int
    address: bytes
    prefixlen: int
    proto: int = 0
    port: int = 0
    flowinfo: int = 0
    scope_id: int = 0

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return FAMILY_OF_SIZE[len(self.address)]

    @property
    def text(self) -> str:
        """The address for people, without prefix and port."""
        return address_text(self.address)

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read 3 words (IPv4) or 5 words (IPv6); `at` is their offset in the message.

        Raises:
            WireError: another family, a length that is not the family's, or more prefix bits
                than the address has.
        """
        exttype = check_extension(SADB_ADDRESS, octets, at, _TYPES)
        family = family_in(octets, SADB_ADDRESS.size)
        fmt = _WHOLE.get(family)
        if fmt is None:
            raise WireError(
                part("sadb_address", exttype), f"address family {family}", at + SADB_ADDRESS.size
            )
        if len(octets) != fmt.size:
            raise WireError(
                part("sadb_address", exttype),
                f"{len(octets)} octets, address family {family} takes {fmt.size}",
                at,
            )
        raw = fmt.parse(octets, at)
        address, prefixlen = raw["address"], raw["prefixlen"]
        if prefixlen > 8 * len(address):
            raise WireError(
                part("sadb_address", exttype),
                f"prefix of {prefixlen} bits, the address has {8 * len(address)}",
                at + 5,
            )
        if family == AF_INET:
            return cls(
                exttype=exttype, address=address, prefixlen=prefixlen, proto=raw["proto"],
                port=raw["port"],
            )  # fmt: skip
        return cls(
            exttype=exttype, address=address, prefixlen=prefixlen, proto=raw["proto"],
            port=raw["port"], flowinfo=raw["flowinfo"], scope_id=raw["scope_id"],
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build 24 or 40 octets. A field out of range raises WireError."""
        family = family_of(self.address, part("sadb_address", self.exttype))
        if not 0 <= self.prefixlen <= 8 * len(self.address):
            raise WireError(part("sadb_address", self.exttype), f"prefix of {self.prefixlen} bits")
        fmt = _WHOLE[family]
        fields = {
            "len": fmt.size // UNIT_OCTETS, "exttype": self.exttype, "proto": self.proto,
            "prefixlen": self.prefixlen, "family": family, "port": self.port,
            "address": self.address,
        }  # fmt: skip
        if family == AF_INET6:
            fields |= {"flowinfo": self.flowinfo, "scope_id": self.scope_id}
        return fmt.build(**fields)
