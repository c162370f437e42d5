"""Socket addresses inside extensions: sockaddr_in and sockaddr_in6, alone and in pairs.

The BSDs begin with a length of one octet and the family in one, Linux with the family in two; the
numbers of families differ (`pfkey.dialect`). Byte order: network for port, address and flow label,
host for the rest.
"""

import struct
import sys
from collections.abc import Mapping
from ipaddress import ip_address

from pfkey.base import pad, words
from pfkey.codec import BE16, BE32, OCTETS4, OCTETS16, R64, U8, U16, U32, Fields, Format
from pfkey.const import AF_INET, AF_INET6, UNIT_OCTETS
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.errors import WireError

_FAMILY = struct.Struct("=H")
_IN: Fields = ("port" / BE16, "address" / OCTETS4, "zero" / R64)
_IN6: Fields = ("port" / BE16, "flowinfo" / BE32, "address" / OCTETS16, "scope_id" / U32)
# How a sockaddr begins, by variant.
_BEGIN: Mapping[str, Fields] = {
    "": ("family" / U16,),
    "bsd": ("sa_len" / U8, "family" / U8),
}
# Fields of sockaddr_in and sockaddr_in6 by the octets of the address, by variant.
SOCKADDR_FIELDS: Mapping[str, Mapping[int, Fields]] = {
    variant: {4: (*begin, *_IN), 16: (*begin, *_IN6)} for variant, begin in _BEGIN.items()
}
SOCKADDRS = {
    variant: {
        4: Format("sockaddr_in", *fields[4], variant=variant),
        16: Format("sockaddr_in6", *fields[16], variant=variant),
    }
    for variant, fields in SOCKADDR_FIELDS.items()
}
FAMILY_OF_SIZE = {4: AF_INET, 16: AF_INET6}
SIZE_OF_FAMILY = {AF_INET: 4, AF_INET6: 16}

_SIZES = {
    name: {family: size for size, family in dialect.families.items()}
    for name, dialect in DIALECTS.items()
}


def family_in(octets: bytes, offset: int = 0) -> int:
    """Linux's number of the family of the sockaddr that starts at `offset`; 0 where none fits."""
    if offset + _FAMILY.size > len(octets):
        return 0
    family: int = _FAMILY.unpack_from(octets, offset)[0]
    return family


def octets_in(octets: bytes, offset: int, dialect: Dialect) -> int:
    """How many octets the address has of the sockaddr that starts at `offset`; 0 if it is none."""
    if dialect is LINUX:
        return SIZE_OF_FAMILY.get(family_in(octets, offset), 0)
    if offset + _FAMILY.size > len(octets):
        return 0
    size = _SIZES[dialect.name].get(octets[offset + 1], 0)
    if size and octets[offset] != SOCKADDRS[dialect.sockaddr][size].size:
        return 0
    return size


def no_sockaddr(octets: bytes, offset: int, structure: str, at: int, dialect: Dialect) -> WireError:
    """Why `octets_in` says 0: no family of the dialect, or a length that is not the family's."""
    length, family = (*octets[offset : offset + 2], 0, 0)[:2]
    if not dialect.sockaddr:
        family = int.from_bytes(octets[offset : offset + 2], sys.byteorder)
    elif family in _SIZES[dialect.name]:
        return WireError(structure, f"sa_len {length} with address family {family}", at + offset)
    return WireError(structure, f"address family {family}", at + offset, dialect.family_errno)


def check_address(address: bytes, structure: str) -> None:
    """Refuse what is no packed address."""
    if len(address) not in FAMILY_OF_SIZE:
        raise WireError(structure, f"an address of {len(address)} octets")


def address_text(address: bytes) -> str:
    """A packed address for people."""
    return str(ip_address(address))


def encode_sockaddr(address: bytes, port: int = 0, dialect: Dialect = LINUX) -> bytes:
    """A sockaddr_in (16 octets) or sockaddr_in6 (28), unpadded, without flow label and scope."""
    size = len(address)
    if size not in FAMILY_OF_SIZE:
        check_address(address, "sockaddr")
    fmt = SOCKADDRS[dialect.sockaddr][size]
    values = {"family": dialect.families[size], "port": port, "address": address}
    if dialect.sockaddr:
        values["sa_len"] = fmt.size
    if size == 16:
        values |= {"flowinfo": 0, "scope_id": 0}
    return fmt.build(**values)


def decode_sockaddr(
    octets: bytes, structure: str, at: int, dialect: Dialect = LINUX
) -> tuple[bytes, int]:
    """Read address and port from exactly one sockaddr and its padding.

    Raises:
        WireError: an unknown family, or another number of octets than its sockaddr takes.
    """
    size = octets_in(octets, 0, dialect)
    if not size:
        raise no_sockaddr(octets, 0, structure, at, dialect)
    fmt = SOCKADDRS[dialect.sockaddr][size]
    if len(octets) != words(fmt.size) * UNIT_OCTETS:
        raise WireError(structure, f"{len(octets)} octets are no {fmt.name}", at)
    raw = fmt.parse(octets, at)
    return raw["address"], raw["port"]


def encode_pair(
    src: bytes, dst: bytes, src_port: int = 0, dst_port: int = 0, dialect: Dialect = LINUX
) -> bytes:
    """Two sockaddrs of one family, not padded between, padded at the end."""
    if len(src) != len(dst):
        raise WireError("sockaddr pair", "the families differ")
    return pad(encode_sockaddr(src, src_port, dialect) + encode_sockaddr(dst, dst_port, dialect))


def decode_pair(
    octets: bytes, structure: str, at: int, dialect: Dialect = LINUX
) -> tuple[bytes, bytes, int, int]:
    """Read what `encode_pair` writes: source, destination and their ports.

    Raises:
        WireError: an unknown family, two families, or too few octets.
    """
    size = octets_in(octets, 0, dialect)
    if not size:
        raise no_sockaddr(octets, 0, structure, at, dialect)
    fmt = SOCKADDRS[dialect.sockaddr][size]
    if len(octets) < words(2 * fmt.size) * UNIT_OCTETS:
        raise WireError(structure, f"{len(octets)} octets hold no pair of {fmt.name}", at)
    if octets_in(octets, fmt.size, dialect) != size:
        raise WireError(structure, "the second sockaddr is not like the first", at + fmt.size)
    src = fmt.parse(octets, at)
    dst = fmt.parse(octets[fmt.size :], at + fmt.size)
    return src["address"], dst["address"], src["port"], dst["port"]
