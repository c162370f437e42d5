"""The Address extensions, sadb_address and a sockaddr (RFC 2367 section 2.3.3, and additions).

Byte order: network for port, address and flow label, host for the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension, part
from pfkey.codec import R16, R32, U8, U16, Fields, Format
from pfkey.const import UNIT_OCTETS, UNSPEC_PROTO, ExtType
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.errors import WireError
from pfkey.sockaddr import (
    FAMILY_OF_SIZE,
    SOCKADDR_FIELDS,
    SOCKADDRS,
    address_text,
    check_address,
    no_sockaddr,
    octets_in,
)

_LEAD: Fields = ("len" / U16, "exttype" / U16)
_FIELDS: Mapping[str, Fields] = {
    "": (*_LEAD, "proto" / U8, "prefixlen" / U8, "reserved" / R16),
    "openbsd": (*_LEAD, "reserved" / R32),
}
SADB_ADDRESS = Format("sadb_address", *_FIELDS[""])
SADB_ADDRESS_OPENBSD = Format("sadb_address", *_FIELDS["openbsd"], variant="openbsd")
# With the sockaddr behind it and its padding, so that one pass reads both: by dialect and the
# octets of the address.
_WHOLE = {
    name: {
        4: Format("sadb_address", *_FIELDS[d.address], *SOCKADDR_FIELDS[d.sockaddr][4]),
        16: Format(
            "sadb_address", *_FIELDS[d.address], *SOCKADDR_FIELDS[d.sockaddr][16], "padding" / R32
        ),
    }
    for name, d in DIALECTS.items()
}
_TYPES = frozenset(
    int(exttype)
    for exttype in (
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.ADDRESS_PROXY, ExtType.X_NAT_T_OA,
        ExtType.X_NAT_T_OAI, ExtType.X_NAT_T_OAR, ExtType.X_NEW_ADDRESS_SRC,
        ExtType.X_NEW_ADDRESS_DST, ExtType.X_SRC_MASK, ExtType.X_DST_MASK, ExtType.X_SRC_FLOW,
        ExtType.X_DST_FLOW, ExtType.X_DST2,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address, packed, with a prefix length in bits, an upper protocol and a port.

    On OpenBSD an address extension has neither prefix nor protocol: masks are extensions of
    their own, in which address and port are those of the mask.
    """

    exttype: int
    address: bytes
    prefixlen: int
    proto: int = 0
    port: int = 0
    flowinfo: int = 0
    scope_id: int = 0

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6, as Linux counts."""
        return FAMILY_OF_SIZE[len(self.address)]

    @property
    def text(self) -> str:
        """The address for people, without prefix and port."""
        return address_text(self.address)

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read 3 words (IPv4) or 5 words (IPv6); `at` is their offset in the message.

        Raises:
            WireError: another family, a length that is not the family's, or more prefix bits
                than the address has.
        """
        exttype = check_extension(SADB_ADDRESS, octets, at, _TYPES, dialect)
        size = octets_in(octets, SADB_ADDRESS.size, dialect)
        if not size:
            where = part("sadb_address", exttype)
            raise no_sockaddr(octets, SADB_ADDRESS.size, where, at, dialect)
        fmt = _WHOLE[dialect.name][size]
        if len(octets) != fmt.size:
            raise WireError(
                part("sadb_address", exttype),
                f"{len(octets)} octets, address family {dialect.families[size]} takes {fmt.size}",
                at,
            )
        raw = fmt.parse(octets, at)
        if dialect.address:
            proto, prefixlen = 0, 8 * size
        else:
            proto, prefixlen = raw["proto"], raw["prefixlen"]
            if prefixlen > 8 * size:
                raise WireError(
                    part("sadb_address", exttype),
                    f"prefix of {prefixlen} bits, the address has {8 * size}",
                    at + 5,
                )
        if size == 4:
            return cls(
                exttype=exttype, address=raw["address"], prefixlen=prefixlen, proto=proto,
                port=raw["port"],
            )  # fmt: skip
        return cls(
            exttype=exttype, address=raw["address"], prefixlen=prefixlen, proto=proto,
            port=raw["port"], flowinfo=raw["flowinfo"], scope_id=raw["scope_id"],
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build 24 or 40 octets.

        Raises:
            WireError: a field out of range, or on OpenBSD a prefix or protocol: neither can be
                said there.
        """
        size = len(self.address)
        if size not in FAMILY_OF_SIZE or not 0 <= self.prefixlen <= 8 * size:
            where = part("sadb_address", self.exttype)
            check_address(self.address, where)
            raise WireError(where, f"prefix of {self.prefixlen} bits")
        fmt = _WHOLE[dialect.name][size]
        fields = {
            "len": fmt.size // UNIT_OCTETS, "exttype": dialect.exttype(self.exttype),
            "proto": self.proto, "prefixlen": self.prefixlen, "family": dialect.families[size],
            "port": self.port, "address": self.address,
        }  # fmt: skip
        if dialect.sockaddr:
            fields["sa_len"] = SOCKADDRS[dialect.sockaddr][size].size
        if dialect.address:
            if self.prefixlen not in (0, 8 * size) or self.proto not in (0, UNSPEC_PROTO):
                raise WireError(
                    part("sadb_address", self.exttype),
                    f"prefix of {self.prefixlen} bits, protocol {self.proto}: a mask says it",
                )
            del fields["proto"], fields["prefixlen"]
        if size == 16:
            fields |= {"flowinfo": self.flowinfo, "scope_id": self.scope_id}
        return fmt.build(**fields)
