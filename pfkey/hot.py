"""The records that come by the thousand, by precompiled struct: those of dump and get.

Same octets as `message.Message` builds, in the order in which Linux writes the extensions; a
property test holds both to each other. `decode` returns None for any record that is not exactly
of that form: then take `Message.decode`. Addresses are packed; SPI and ports are plain numbers
here and in network order on the wire.
"""

import struct
from typing import NamedTuple, Self

from pfkey.base import pad
from pfkey.codec import Layout
from pfkey.const import PF_KEY_V2, UNIT_OCTETS, ExtType, MsgType
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from pfkey.sockaddr import FAMILY_OF_SIZE

Segment = tuple[str, tuple[int | bytes | None, ...]]
Limits = tuple[int, int, int, int]  # allocations, octets, addtime, usetime
NO_LIMITS: Limits = (0, 0, 0, 0)


class Place(NamedTuple):
    """An address as extensions carry it: packed, prefix length in bits, protocol, port."""

    address: bytes
    prefixlen: int
    proto: int = 0
    port: int = 0


# Values: type, errno, satype, length in words, reserved, seq, pid
BASE: Segment = ("BBBBHHII", (PF_KEY_V2, None, None, None, None, None, None, None))
# Values: SPI (4 octets), replay, state, auth, encrypt, flags
SA: Segment = ("HH4sBBBBI", (2, ExtType.SA, None, None, None, None, None, None))
# Values: mode, sequence, reqid
SA2: Segment = ("HHBxxxII", (2, ExtType.X_SA2, None, None, None))


def lifetime_segment(exttype: int) -> Segment:
    """Values: allocations, octets, addtime, usetime."""
    return ("HHIQQQ", (4, exttype, None, None, None, None))


def _address(exttype: int, size: int) -> Segment:
    """Values: proto, prefixlen, port (2 octets), address. No flow label, no scope."""
    family = FAMILY_OF_SIZE[size]
    if size == 4:
        return ("HHBBxxH2s4s8x", (3, exttype, None, None, family, None, None))
    return ("HHBBxxH2sI16sI4x", (5, exttype, None, None, family, None, 0, None, 0))


def pair_segments(size: int) -> tuple[Segment, Segment]:
    """Source and destination; `size` is 4 or 16 octets."""
    return _address(ExtType.ADDRESS_SRC, size), _address(ExtType.ADDRESS_DST, size)


LIMITS = (
    lifetime_segment(ExtType.LIFETIME_HARD),
    lifetime_segment(ExtType.LIFETIME_SOFT),
    lifetime_segment(ExtType.LIFETIME_CURRENT),
)
# Values: length in words, type, dir, id, priority
POLICY: Segment = ("HHHBxII", (None, ExtType.X_POLICY, None, None, None, None))

_SA_HEAD = {size: Layout(BASE, SA, *LIMITS, *pair_segments(size)) for size in FAMILY_OF_SIZE}
_SA_TAIL = Layout(SA2)
_POLICY_HEAD = {
    size: Layout(BASE, *pair_segments(size), *LIMITS, POLICY) for size in FAMILY_OF_SIZE
}
_KEY = struct.Struct("=HHHxx")
_SA_TYPES = frozenset(
    {MsgType.DUMP, MsgType.GET, MsgType.ADD, MsgType.UPDATE, MsgType.DELETE, MsgType.GETSPI}
)
_POLICY_TYPES = frozenset(
    {MsgType.X_SPDDUMP, MsgType.X_SPDGET, MsgType.X_SPDADD, MsgType.X_SPDUPDATE,
     MsgType.X_SPDDELETE, MsgType.X_SPDDELETE2, MsgType.X_SPDSETIDX, MsgType.X_SPDEXPIRE}
)  # fmt: skip


def big_endian(value: int, octets: int) -> bytes:
    """A number in network order; WireError when it does not fit."""
    try:
        return value.to_bytes(octets, "big")
    except OverflowError as error:
        raise WireError("sadb_msg", f"{value} does not fit {octets} octets") from error


def flat(place: Place) -> tuple[int, int, bytes, bytes]:
    """The four values of an address segment."""
    return place.proto, place.prefixlen, big_endian(place.port, 2), place.address


def place(proto: int, prefixlen: int, port: bytes, address: bytes) -> Place | None:
    """The place that four values say; None for a prefix longer than the address."""
    if prefixlen > 8 * len(address):
        return None
    return Place(address, prefixlen, proto, int.from_bytes(port, "big"))


def size(src: Place, dst: Place) -> int:
    """Octets of both addresses, which picks the layout."""
    if len(src.address) != len(dst.address) or len(src.address) not in FAMILY_OF_SIZE:
        raise WireError("sadb_address", "the families differ or are unknown")
    return len(src.address)


def addresses(src: Place, dst: Place) -> tuple[Extension, Extension]:
    """Both address extensions, for the reference."""
    return (
        Address(exttype=ExtType.ADDRESS_SRC, **src._asdict()),
        Address(exttype=ExtType.ADDRESS_DST, **dst._asdict()),
    )


def lifetime_extension(exttype: int, limits: Limits) -> Lifetime:
    """A lifetime extension, for the reference."""
    allocations, octets, addtime, usetime = limits
    return Lifetime(
        exttype=exttype, allocations=allocations, octets=octets, addtime=addtime, usetime=usetime
    )


def is_whole(octets: bytes, words: int) -> bool:
    """Whether the base header's length is the record's."""
    return words * UNIT_OCTETS == len(octets)


def _encode_key(exttype: int, bits: int, key: bytes) -> bytes:
    if len(key) != (bits + 7) // 8:
        raise WireError("sadb_key", f"{bits} bits in {len(key)} octets")
    body = pad(key)
    if bits > 0xFFFF:
        raise WireError("sadb_key", f"{bits} bits do not fit")
    return _KEY.pack(1 + len(body) // UNIT_OCTETS, exttype, bits) + body


class SaRecord(NamedTuple):
    """A DUMP or GET record, and the echo of ADD and UPDATE. A key of None is no extension."""

    satype: int
    spi: int
    src: Place
    dst: Place
    type: int = MsgType.DUMP
    seq: int = 0
    pid: int = 0
    replay: int = 0
    state: int = 0
    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    hard: Limits = NO_LIMITS
    soft: Limits = NO_LIMITS
    current: Limits = NO_LIMITS
    auth_bits: int = 0
    auth_key: bytes | None = None
    encrypt_bits: int = 0
    encrypt_key: bytes | None = None
    mode: int = 0
    reqid: int = 0
    sequence: int = 0

    def __repr__(self) -> str:
        return f"SaRecord(satype={self.satype}, spi={self.spi:#010x}, seq={self.seq}, keys=…)"

    def encode(self) -> bytes:
        """Build the record. A value out of range raises WireError."""
        keys = b""
        if self.auth_key is not None:
            keys += _encode_key(ExtType.KEY_AUTH, self.auth_bits, self.auth_key)
        if self.encrypt_key is not None:
            keys += _encode_key(ExtType.KEY_ENCRYPT, self.encrypt_bits, self.encrypt_key)
        head = _SA_HEAD[size(self.src, self.dst)]
        length = (head.size + len(keys) + _SA_TAIL.size) // UNIT_OCTETS
        return (
            head.pack(
                self.type, 0, self.satype, length, 0, self.seq, self.pid,
                big_endian(self.spi, 4), self.replay, self.state, self.auth, self.encrypt,
                self.flags, *self.hard, *self.soft, *self.current,
                *flat(self.src), *flat(self.dst),
            )
            + keys
            + _SA_TAIL.pack(self.mode, self.sequence, self.reqid)
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes) -> Self | None:
        """Read the record, or None when it has another form."""
        for head in _SA_HEAD.values():
            if (v := head.unpack(octets)) is not None:
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[25:29]), place(*v[29:33])
        tail = _SA_TAIL.unpack(octets[-_SA_TAIL.size :])
        if kind not in _SA_TYPES or errno or reserved or tail is None:
            return None
        if src is None or dst is None:
            return None
        keys: dict[int, tuple[int, bytes]] = {}
        start, end = head.size, len(octets) - _SA_TAIL.size
        for exttype in (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT):
            if start + _KEY.size > end:
                break
            key_words, found, bits = _KEY.unpack_from(octets, start)
            if found != exttype:
                continue
            if key_words != 1 + (bits + 63) // 64:
                return None
            first = start + _KEY.size
            keys[exttype] = (bits, octets[first : first + (bits + 7) // 8])
            start += key_words * UNIT_OCTETS
        if start != end or not is_whole(octets, words):
            return None
        auth_bits, auth_key = keys.get(ExtType.KEY_AUTH, (0, None))
        encrypt_bits, encrypt_key = keys.get(ExtType.KEY_ENCRYPT, (0, None))
        return cls(
            satype=satype, spi=int.from_bytes(v[7], "big"), src=src, dst=dst, type=kind, seq=seq,
            pid=pid, replay=v[8], state=v[9], auth=v[10], encrypt=v[11], flags=v[12],
            hard=v[13:17], soft=v[17:21], current=v[21:25], auth_bits=auth_bits,
            auth_key=auth_key, encrypt_bits=encrypt_bits, encrypt_key=encrypt_key, mode=tail[0],
            sequence=tail[1], reqid=tail[2],
        )  # fmt: skip

    def message(self) -> Message:
        """The same by way of the extensions: the reference."""
        extensions: list[Extension] = [
            Sa(spi=self.spi, replay=self.replay, state=self.state, auth=self.auth,
               encrypt=self.encrypt, flags=self.flags),
            lifetime_extension(ExtType.LIFETIME_HARD, self.hard),
            lifetime_extension(ExtType.LIFETIME_SOFT, self.soft),
            lifetime_extension(ExtType.LIFETIME_CURRENT, self.current),
            *addresses(self.src, self.dst),
        ]  # fmt: skip
        if self.auth_key is not None:
            extensions.append(Key(exttype=ExtType.KEY_AUTH, bits=self.auth_bits, key=self.auth_key))
        if self.encrypt_key is not None:
            extensions.append(
                Key(exttype=ExtType.KEY_ENCRYPT, bits=self.encrypt_bits, key=self.encrypt_key)
            )
        extensions.append(Sa2(mode=self.mode, reqid=self.reqid, sequence=self.sequence))
        return Message(
            type=self.type, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=tuple(extensions),
        )  # fmt: skip


class PolicyRecord(NamedTuple):
    """An SPDDUMP or SPDGET record. `refcount` goes into the reserved field, as on Linux."""

    src: Place
    dst: Place
    policy_type: int
    dir: int
    id: int
    priority: int = 0
    requests: tuple[IpsecRequest, ...] = ()
    type: int = MsgType.X_SPDDUMP
    seq: int = 0
    pid: int = 0
    refcount: int = 1
    hard: Limits = NO_LIMITS
    soft: Limits = NO_LIMITS
    current: Limits = NO_LIMITS

    def _policy(self) -> Policy:
        return Policy(
            type=self.policy_type, dir=self.dir, id=self.id, priority=self.priority,
            requests=self.requests,
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build the record. A value out of range raises WireError."""
        body = pad(b"".join(request.encode() for request in self.requests))
        head = _POLICY_HEAD[size(self.src, self.dst)]
        return (
            head.pack(
                self.type, 0, 0, (head.size + len(body)) // UNIT_OCTETS, self.refcount, self.seq,
                self.pid, *flat(self.src), *flat(self.dst), *self.hard, *self.soft,
                *self.current, 2 + len(body) // UNIT_OCTETS, self.policy_type, self.dir, self.id,
                self.priority,
            )
            + body
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes) -> Self | None:
        """Read the record, or None when it has another form."""
        for head in _POLICY_HEAD.values():
            if (v := head.unpack(octets)) is not None:
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[7:11]), place(*v[11:15])
        start = head.size - 2 * UNIT_OCTETS
        if kind not in _POLICY_TYPES or errno or satype or not is_whole(octets, words):
            return None
        if src is None or dst is None:
            return None
        if start + v[27] * UNIT_OCTETS != len(octets):
            return None
        try:
            requests = Policy.decode(octets[start:], start).requests if v[27] > 2 else ()
        except WireError:
            return None
        return cls(
            src, dst, v[28], v[29], v[30], v[31], requests, kind, seq, pid, reserved,
            v[15:19], v[19:23], v[23:27],
        )  # fmt: skip

    def message(self) -> Message:
        """The same by way of the extensions: the reference."""
        return Message(
            type=self.type, seq=self.seq, pid=self.pid, reserved=self.refcount,
            extensions=(
                *addresses(self.src, self.dst),
                lifetime_extension(ExtType.LIFETIME_HARD, self.hard),
                lifetime_extension(ExtType.LIFETIME_SOFT, self.soft),
                lifetime_extension(ExtType.LIFETIME_CURRENT, self.current),
                self._policy(),
            ),
        )  # fmt: skip
