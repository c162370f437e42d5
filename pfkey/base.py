"""What all messages share: sadb_msg, the walk over extensions, sockaddrs, alignment.

RFC 2367 sections 2.1 to 2.3. Lengths on the wire count 64-bit words, header included; byte order
is the host's, except ports, addresses and flow labels, which are in network order.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EMSGSIZE
from ipaddress import ip_address
from typing import Self

from pfkey.codec import BE16, BE32, OCTETS4, OCTETS16, R64, U8, U16, U32, Format
from pfkey.const import AF_INET, AF_INET6, HEADER_OCTETS, PF_KEY_V2, UNIT_OCTETS, ExtType, MsgType
from pfkey.errors import WireError

EXT_MAX = max(ExtType)
_HEADER = struct.Struct("=BBBBHHII")
_EXT = struct.Struct("=HH")
_FAMILY = struct.Struct("=H")
_NAMES = {int(t): t.name for t in ExtType}

SADB_MSG = Format(
    "sadb_msg",
    "version" / U8,
    "type" / U8,
    "errno" / U8,
    "satype" / U8,
    "len" / U16,
    "reserved" / U16,
    "seq" / U32,
    "pid" / U32,
)
SADB_EXT = Format("sadb_ext", "len" / U16, "type" / U16)
SOCKADDR_IN_FIELDS = ("family" / U16, "port" / BE16, "address" / OCTETS4, "zero" / R64)
SOCKADDR_IN6_FIELDS = (
    "family" / U16,
    "port" / BE16,
    "flowinfo" / BE32,
    "address" / OCTETS16,
    "scope_id" / U32,
)
SOCKADDR_IN = Format("sockaddr_in", *SOCKADDR_IN_FIELDS)
SOCKADDR_IN6 = Format("sockaddr_in6", *SOCKADDR_IN6_FIELDS)
SOCKADDRS = {AF_INET: SOCKADDR_IN, AF_INET6: SOCKADDR_IN6}
FAMILY_OF_SIZE = {4: AF_INET, 16: AF_INET6}


@dataclass(frozen=True, slots=True)
class Header:
    """The base header. `length_words` counts 64-bit words."""

    type: int
    satype: int
    errno: int
    seq: int
    pid: int
    reserved: int = 0
    length_words: int = 2

    @property
    def length_octets(self) -> int:
        """The whole message's length."""
        return self.length_words * UNIT_OCTETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An extension whose type this dialect does not know, kept as it came, header included."""

    exttype: int
    octets: bytes

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Keep the octets of one whole extension."""
        words, exttype = extension_header(octets, at)
        if words * UNIT_OCTETS != len(octets):
            raise WireError("sadb_ext", f"{words} words do not fill {len(octets)} octets", at)
        return cls(exttype=exttype, octets=octets)

    def encode(self) -> bytes:
        """The octets as they came."""
        return self.octets


def header(octets: bytes, *, is_request: bool = True) -> Header:
    """Peek at the base header and hold it to the length of the record.

    Raises:
        WireError: EMSGSIZE for a length that is not the record's, EINVAL for version, type or,
            in a request, a reserved field that is not zero (Linux uses it in replies).
    """
    if len(octets) < HEADER_OCTETS:
        raise WireError(
            "sadb_msg", f"{len(octets)} octets, the least is {HEADER_OCTETS}", 0, EMSGSIZE
        )
    version, kind, errno, satype, words, reserved, seq, pid = _HEADER.unpack_from(octets)
    if version != PF_KEY_V2:
        raise WireError("sadb_msg", f"version {version}, this is {PF_KEY_V2}", 0)
    if not MsgType.RESERVED < kind <= MsgType.X_MIGRATE:
        raise WireError("sadb_msg", f"no message type {kind}", 1)
    if is_request and reserved:
        raise WireError("sadb_msg", f"reserved is {reserved}, not 0", 6)
    if words != len(octets) // UNIT_OCTETS or words * UNIT_OCTETS < HEADER_OCTETS:
        raise WireError("sadb_msg", f"length of {words} words in {len(octets)} octets", 4, EMSGSIZE)
    return Header(kind, satype, errno, seq, pid, reserved, words)


def error_reply(request: bytes | Header, errno: int) -> bytes:
    """The 16 octets with which Linux refuses: the request's header, errno set, no body.

    Works for any 16 octets or more, also those that `header` refuses.
    """
    if isinstance(request, Header):
        r = request
        return _HEADER.pack(PF_KEY_V2, r.type, errno, r.satype, 2, 0, r.seq, r.pid)
    if len(request) < HEADER_OCTETS:
        raise WireError("sadb_msg", f"{len(request)} octets have no header", 0, EMSGSIZE)
    version, kind, _, satype, _, _, seq, pid = _HEADER.unpack_from(request)
    return _HEADER.pack(version, kind, errno, satype, 2, 0, seq, pid)


def extension_header(octets: bytes, at: int = 0) -> tuple[int, int]:
    """Length in words and type of the extension that starts here."""
    if len(octets) < _EXT.size:
        raise WireError("sadb_ext", f"{len(octets)} octets have no header", at)
    words, exttype = _EXT.unpack_from(octets)
    return words, exttype


def walk(octets: bytes) -> Iterator[tuple[int, int, int]]:
    """The extensions of a message as (type, start, end) in octets, in their order.

    Raises:
        WireError: a length of zero, a length past the end, type 0, a known type twice, or
            fewer than four octets left over.
    """
    seen = 0
    start, total = HEADER_OCTETS, len(octets)
    while start < total:
        if total - start < _EXT.size:
            raise WireError("sadb_ext", f"{total - start} octets are left over", start)
        words, exttype = _EXT.unpack_from(octets, start)
        end = start + words * UNIT_OCTETS
        if not exttype:
            raise WireError("sadb_ext", "type 0 is no extension", start + 2)
        if not words:
            raise WireError(part("sadb_ext", exttype), "length of 0 words", start)
        if end > total:
            raise WireError(
                part("sadb_ext", exttype),
                f"length of {words} words, {total - start} octets are left",
                start,
            )
        if exttype <= EXT_MAX:
            if seen >> exttype & 1:
                raise WireError(part("sadb_ext", exttype), "stands twice", start)
            seen |= 1 << exttype
        yield exttype, start, end
        start = end


def check_extension(
    fmt: Format, octets: bytes, at: int, exttypes: frozenset[int], *, is_fixed: bool = False
) -> int:
    """Hold one extension's header to its octets; returns the type.

    Raises:
        WireError: the type is none of `exttypes`, the length is not that of `octets`, shorter
            than the layout, or (`is_fixed`) longer.
    """
    words, exttype = extension_header(octets, at)
    if exttype not in exttypes:
        raise WireError(fmt.name, f"no extension of type {exttype}", at + 2)
    length = words * UNIT_OCTETS
    if length != len(octets):
        raise WireError(
            part(fmt.name, exttype), f"length of {words} words in {len(octets)} octets", at
        )
    if length < fmt.size or (is_fixed and length != fmt.size):
        least = "" if is_fixed else "at least "
        raise WireError(part(fmt.name, exttype), f"{length} octets, must be {least}{fmt.size}", at)
    return exttype


def part(structure: str, exttype: int) -> str:
    """How errors name an extension: `sadb_key (KEY_ENCRYPT)`."""
    return f"{structure} ({_NAMES.get(exttype, exttype)})"


def words(octets: int) -> int:
    """64-bit words that hold so many octets."""
    return -(-octets // UNIT_OCTETS)


def pad(octets: bytes) -> bytes:
    """`octets` with zeros up to the next 64-bit word."""
    return octets + bytes(-len(octets) % UNIT_OCTETS)


def family_in(octets: bytes, offset: int = 0) -> int:
    """The address family of the sockaddr that starts at `offset`; 0 where none fits."""
    if offset + _FAMILY.size > len(octets):
        return 0
    family: int = _FAMILY.unpack_from(octets, offset)[0]
    return family


def family_of(address: bytes, structure: str) -> int:
    """AF_INET or AF_INET6 of a packed address."""
    family = FAMILY_OF_SIZE.get(len(address))
    if family is None:
        raise WireError(structure, f"an address of {len(address)} octets")
    return family


def address_text(address: bytes) -> str:
    """A packed address for people."""
    return str(ip_address(address))


def encode_sockaddr(address: bytes, port: int = 0, flowinfo: int = 0, scope_id: int = 0) -> bytes:
    """A sockaddr_in (16 octets) or sockaddr_in6 (28), unpadded."""
    if family_of(address, "sockaddr") == AF_INET:
        return SOCKADDR_IN.build(family=AF_INET, port=port, address=address)
    return SOCKADDR_IN6.build(
        family=AF_INET6, port=port, flowinfo=flowinfo, address=address, scope_id=scope_id
    )


def encode_pair(src: bytes, dst: bytes, src_port: int = 0, dst_port: int = 0) -> bytes:
    """Two sockaddrs of one family, not padded between, padded at the end."""
    if len(src) != len(dst):
        raise WireError("sockaddr pair", "the families differ")
    return pad(encode_sockaddr(src, src_port) + encode_sockaddr(dst, dst_port))


def decode_pair(octets: bytes, structure: str, at: int) -> tuple[bytes, bytes, int, int]:
    """Read what `encode_pair` writes: source, destination and their ports.

    Raises:
        WireError: an unknown family, two families, or too few octets.
    """
    family = family_in(octets)
    fmt = SOCKADDRS.get(family)
    if fmt is None:
        raise WireError(structure, f"address family {family}", at)
    if len(octets) < words(2 * fmt.size) * UNIT_OCTETS:
        raise WireError(structure, f"{len(octets)} octets hold no pair of {fmt.name}", at)
    src = fmt.parse(octets, at)
    dst = fmt.parse(octets[fmt.size :], at + fmt.size)
    if dst["family"] != family:
        raise WireError(structure, f"families {family} and {dst['family']} differ", at + fmt.size)
    return src["address"], dst["address"], src["port"], dst["port"]
