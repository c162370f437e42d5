"""What all messages share: sadb_msg, the walk over extensions, alignment.

RFC 2367 sections 2.1 to 2.3. Lengths on the wire count 64-bit words, header included; byte order
is the host's.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL, EMSGSIZE
from typing import NamedTuple, Self

from pfkey.codec import U8, U16, U32, Format
from pfkey.const import HEADER_OCTETS, PF_KEY_V2, UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect, digits
from pfkey.errors import WireError

_HEADER = struct.Struct("=BBBBHHII")
_EXT = struct.Struct("=HH")
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


class Header(NamedTuple):
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
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Keep the octets of one whole extension."""
        words, number = extension_header(octets, at)
        if words * UNIT_OCTETS != len(octets):
            raise WireError("sadb_ext", f"{words} words do not fill {len(octets)} octets", at)
        return cls(exttype=dialect.extensions.ours(number), octets=octets)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """The octets as they came; WireError in another dialect, where they mean something else."""
        dialect.exttype(self.exttype)
        return self.octets


def header(octets: bytes, dialect: Dialect = LINUX, *, is_request: bool = True) -> Header:
    """Peek at the base header and hold it to the length of the record.

    Raises:
        WireError: a length that is not the record's (EMSGSIZE on Linux), no version or type of
            the dialect, and, in a request, a reserved field that must be zero or a length that
            the system does not take.
    """
    if len(octets) < HEADER_OCTETS:
        raise WireError(
            "sadb_msg", f"{len(octets)} octets, the least is {HEADER_OCTETS}", 0,
            dialect.length_errno,
        )  # fmt: skip
    version, number, errno, satype, words, reserved, seq, pid = _HEADER.unpack_from(octets)
    if version != PF_KEY_V2:
        raise WireError("sadb_msg", f"version {version}, this is {PF_KEY_V2}", 0)
    kind = dialect.messages.named.get(number)
    if not kind:
        raise WireError("sadb_msg", f"no message type {number}", 1)
    if is_request and reserved and dialect.checks_reserved:
        raise WireError("sadb_msg", f"reserved is {reserved}, not 0", 6)
    if words != len(octets) // UNIT_OCTETS or words * UNIT_OCTETS < HEADER_OCTETS:
        raise WireError(
            "sadb_msg", f"length of {words} words in {len(octets)} octets", 4,
            dialect.length_errno,
        )  # fmt: skip
    if dialect is LINUX:
        return Header(kind, satype, errno, seq, pid, reserved, words)
    longest, too_long = dialect.longest
    if is_request and len(octets) > longest:
        raise WireError("sadb_msg", f"{len(octets)} octets, the most is {longest}", 4, too_long)
    if kind not in dialect.not_satypes:
        satype = dialect.satypes.ours(satype)
    return Header(kind, satype, dialect.errnos.ours(errno), seq, pid, reserved, words)


def encode_header(
    kind: int, errno: int, satype: int, length_words: int, reserved: int, seq: int, pid: int,
    dialect: Dialect = LINUX,
) -> bytes:  # fmt: skip
    """The base header; `errno` is the system's own number.

    Raises:
        WireError: the dialect has no such message or SA type, or a value does not fit.
    """
    if dialect is not LINUX:
        if kind not in dialect.not_satypes:
            satype = dialect.satypes.theirs(satype)
        kind = dialect.messages.theirs(kind)
    return SADB_MSG.build(
        version=PF_KEY_V2, type=kind, errno=errno, satype=satype, len=length_words,
        reserved=reserved, seq=seq, pid=pid,
    )  # fmt: skip


def error_reply(request: bytes | Header, errno: int, dialect: Dialect = LINUX) -> bytes:
    """A refusal: the request's header, errno set, without a body; with it on NetBSD and FreeBSD.

    Works for any 16 octets or more, also those that `header` refuses. An errno that the dialect
    has no number for becomes EINVAL.
    """
    number = dialect.errnos.theirs(errno if dialect.errnos.says(errno) else EINVAL)
    if isinstance(request, Header):
        r = request
        return encode_header(r.type, number, r.satype, 2, 0, r.seq, r.pid, dialect)
    if len(request) < HEADER_OCTETS:
        raise WireError("sadb_msg", f"{len(request)} octets have no header", 0, EMSGSIZE)
    version, kind, _, satype, words, reserved, seq, pid = _HEADER.unpack_from(request)
    if dialect.echoes_request:
        head = _HEADER.pack(version, kind, number, satype, words, reserved, seq, pid)
        return head + request[HEADER_OCTETS:]
    return _HEADER.pack(version, kind, number, satype, 2, 0, seq, pid)


def extension_header(octets: bytes, at: int = 0) -> tuple[int, int]:
    """Length in words and the number of the type of the extension that starts here."""
    if len(octets) < _EXT.size:
        raise WireError("sadb_ext", f"{len(octets)} octets have no header", at)
    words, number = _EXT.unpack_from(octets)
    return words, number


def walk(
    octets: bytes, dialect: Dialect = LINUX, *, is_request: bool = False
) -> Iterator[tuple[int, int, int]]:
    """The extensions of a message as (number of the type, start, end), in octets, in order.

    Raises:
        WireError: a length of zero, a length past the end, type 0, a known type twice, fewer
            than four octets left over, or a type that the dialect refuses.
    """
    seen = 0
    start, total = HEADER_OCTETS, len(octets)
    named = dialect.extensions.named
    while start < total:
        if total - start < _EXT.size:
            raise WireError("sadb_ext", f"{total - start} octets are left over", start)
        words, number = _EXT.unpack_from(octets, start)
        end = start + words * UNIT_OCTETS
        if not number:
            raise WireError("sadb_ext", "type 0 is no extension", start + 2)
        if not words:
            raise WireError(_named("sadb_ext", number, dialect), "length of 0 words", start)
        if end > total:
            raise WireError(
                _named("sadb_ext", number, dialect),
                f"length of {words} words, {total - start} octets are left",
                start,
            )
        if number in named:
            if seen >> number & 1:
                raise WireError(_named("sadb_ext", number, dialect), "stands twice", start)
            if is_request and named[number] in dialect.never:
                raise WireError(_named("sadb_ext", number, dialect), "is never taken", start + 2)
            seen |= 1 << number
        elif not dialect.skips_unknown:
            raise WireError("sadb_ext", f"no extension has type {number}", start + 2)
        yield number, start, end
        start = end


def check_extension(
    fmt: Format,
    octets: bytes,
    at: int,
    exttypes: frozenset[int],
    dialect: Dialect,
    *,
    is_fixed: bool = False,
) -> int:
    """Hold one extension's header to its octets; returns the type, by our number.

    Raises:
        WireError: the type is none of `exttypes`, the length is not that of `octets`, shorter
            than the layout, or (`is_fixed`) longer.
    """
    if len(octets) < _EXT.size:
        raise WireError("sadb_ext", f"{len(octets)} octets have no header", at)
    words, number = _EXT.unpack_from(octets)
    exttype = dialect.extensions.named.get(number)
    if exttype is None or exttype not in exttypes:
        raise WireError(fmt.name, f"no extension of type {number}", at + 2)
    length: int = words * UNIT_OCTETS
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
    return f"{structure} ({_NAMES.get(exttype) or digits(exttype)})"


def _named(structure: str, number: int, dialect: Dialect) -> str:
    return part(structure, dialect.extensions.ours(number))


def words(octets: int) -> int:
    """64-bit words that hold so many octets."""
    return -(-octets // UNIT_OCTETS)


def pad(octets: bytes) -> bytes:
    """`octets` with zeros up to the next 64-bit word."""
    return octets + bytes(-len(octets) % UNIT_OCTETS)
