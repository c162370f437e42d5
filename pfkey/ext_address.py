"""The Address extensions, sadb_address and a sockaddr (RFC 2367 section 2.3.3; Linux NAT_T_OA).

Byte order: network for port, address and flow label, host for the rest.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import (
    FAMILY_OF_SIZE,
    SOCKADDRS,
    address_text,
    check_extension,
    encode_sockaddr,
    pad,
    part,
    words,
)
from pfkey.codec import R16, U8, U16, Format
from pfkey.const import AF_INET6, UNIT_OCTETS, ExtType
from pfkey.errors import WireError

SADB_ADDRESS = Format(
    "sadb_address",
    "len" / U16,
    "exttype" / U16,
    "proto" / U8,
    "prefixlen" / U8,
    "reserved" / R16,
    # the family of the sockaddr that follows, so that one pass reads both
    "family" / U16,
)
_HEAD = 8
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
        raw = SADB_ADDRESS.parse(octets, at)
        fmt = SOCKADDRS.get(raw.family)
        if fmt is None:
            raise WireError(
                part("sadb_address", exttype), f"address family {raw.family}", at + _HEAD
            )
        expected = (_HEAD // UNIT_OCTETS) + words(fmt.size)
        if raw.len != expected:
            raise WireError(
                part("sadb_address", exttype),
                f"{raw.len} words, a {fmt.name} takes {expected}",
                at,
            )
        sockaddr = fmt.parse(octets[_HEAD:], at + _HEAD)
        if raw.prefixlen > 8 * len(sockaddr.address):
            raise WireError(
                part("sadb_address", exttype),
                f"prefix of {raw.prefixlen} bits, the address has {8 * len(sockaddr.address)}",
                at + 5,
            )
        is_v6 = raw.family == AF_INET6
        return cls(
            exttype=exttype, address=sockaddr.address, prefixlen=raw.prefixlen, proto=raw.proto,
            port=sockaddr.port, flowinfo=sockaddr.flowinfo if is_v6 else 0,
            scope_id=sockaddr.scope_id if is_v6 else 0,
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build 24 or 40 octets. A field out of range raises WireError."""
        sockaddr = encode_sockaddr(self.address, self.port, self.flowinfo, self.scope_id)
        if not 0 <= self.prefixlen <= 8 * len(self.address):
            raise WireError(part("sadb_address", self.exttype), f"prefix of {self.prefixlen} bits")
        head = SADB_ADDRESS.build(
            len=words(_HEAD + len(sockaddr)), exttype=self.exttype, proto=self.proto,
            prefixlen=self.prefixlen, family=self.family,
        )  # fmt: skip
        return pad(head[:_HEAD] + sockaddr)
