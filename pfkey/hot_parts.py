"""What the frequent records are made of: segments of a record's one struct, and their values.

Shared by `hot`, `hot_events` and `hot_bsd`. Addresses are packed; SPI and ports are plain numbers
here and in network order on the wire.
"""

import struct
from typing import NamedTuple

from pfkey.base import pad
from pfkey.const import PF_KEY_V2, UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.sockaddr import FAMILY_OF_SIZE, SOCKADDRS

Segment = tuple[str, tuple[int | bytes | None, ...]]
Limits = tuple[int, int, int, int]  # allocations, octets, addtime, usetime
NO_LIMITS: Limits = (0, 0, 0, 0)
# Plain numbers: to look up a member of an enumeration takes longer than to compare it.
KEY_AUTH, KEY_ENCRYPT = int(ExtType.KEY_AUTH), int(ExtType.KEY_ENCRYPT)
KEY = struct.Struct("=HHHxx")


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


def _address(exttype: int, size: int, dialect: Dialect) -> Segment:
    """Values: proto, prefixlen (not on OpenBSD), port (2 octets), address. No label, no scope."""
    slots: tuple[int | bytes | None, ...] = (dialect.families[size],)
    begin = "H"
    if dialect.sockaddr:
        begin, slots = "BB", (SOCKADDRS[dialect.sockaddr][size].size, *slots)
    rest, words = ("2s4s8x", 3) if size == 4 else ("2sI16sI4x", 5)
    values: tuple[int | bytes | None, ...] = (None, None) if size == 4 else (None, 0, None, 0)
    if dialect.address:
        return f"HHxxxx{begin}{rest}", (words, exttype, *slots, *values)
    return f"HHBBxx{begin}{rest}", (words, exttype, None, None, *slots, *values)


def pair_segments(size: int, dialect: Dialect = LINUX) -> tuple[Segment, Segment]:
    """Source and destination; `size` is 4 or 16 octets."""
    return (
        _address(ExtType.ADDRESS_SRC, size, dialect), _address(ExtType.ADDRESS_DST, size, dialect)
    )  # fmt: skip


LIMITS = (
    lifetime_segment(ExtType.LIFETIME_HARD),
    lifetime_segment(ExtType.LIFETIME_SOFT),
    lifetime_segment(ExtType.LIFETIME_CURRENT),
)
# Values: length in words, type, dir, id, priority
POLICY: Segment = ("HHHBxII", (None, ExtType.X_POLICY, None, None, None, None))


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


def is_whole(octets: bytes, words: int) -> bool:
    """Whether the base header's length is the record's."""
    return words * UNIT_OCTETS == len(octets)


def encode_key(exttype: int, bits: int, key: bytes) -> bytes:
    """A key extension; WireError when `bits` and the octets do not agree."""
    if len(key) != (bits + 7) // 8:
        raise WireError("sadb_key", f"{bits} bits in {len(key)} octets")
    body = pad(key)
    if bits > 0xFFFF:
        raise WireError("sadb_key", f"{bits} bits do not fit")
    return KEY.pack(1 + len(body) // UNIT_OCTETS, exttype, bits) + body


def read_keys(octets: bytes, start: int, end: int) -> dict[int, tuple[int, bytes]] | None:
    """The key extensions that fill the octets from `start` to `end`: bits and key by type."""
    keys: dict[int, tuple[int, bytes]] = {}
    for exttype in (KEY_AUTH, KEY_ENCRYPT):
        if start + KEY.size > end:
            break
        words, found, bits = KEY.unpack_from(octets, start)
        if found != exttype:
            continue
        if words != 1 + (bits + 63) // 64:
            return None
        first = start + KEY.size
        keys[exttype] = (bits, octets[first : first + (bits + 7) // 8])
        start += words * UNIT_OCTETS
    return keys if start == end else None
