"""Fragments put together, for those who only look on (RFC 791, RFC 8200 4.5).

A core: packets in, whole ones out. No timer: the datagrams begun last are remembered, a bounded
number of them with a bounded number of octets each. What overlaps is taken as it comes: who looks
on cannot know what the receiver made of it.
"""

from dataclasses import dataclass, field

_BEGUN_MAX = 64
_OCTETS_MAX = 1 << 16
_IPV4_HEADER, _IPV6_HEADER, _FRAGMENT_HEADER = 20, 40, 8
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60)


@dataclass(slots=True)
class _Begun:
    """A datagram of which some fragments came."""

    head: bytes = b""
    size: int = -1
    parts: dict[int, bytes] = field(default_factory=dict)


class Pieces:
    """Datagrams that are not whole yet."""

    def __init__(self) -> None:
        self._begun: dict[bytes, _Begun] = {}

    def add(self, packet: bytes) -> bytes | None:
        """The datagram that this fragment makes whole; None while it does not, or is none."""
        found = _fragment(packet)
        if found is None:
            return None
        name, head, offset, is_last, payload = found
        one = self._begun.pop(name, None) or _Begun()
        self._begun[name] = one  # the latest
        if len(self._begun) > _BEGUN_MAX:
            del self._begun[next(iter(self._begun))]
        one.parts[offset] = payload
        if offset == 0:
            one.head = head
        if is_last:
            one.size = offset + len(payload)
        whole = _whole(one)
        if whole is not None or sum(map(len, one.parts.values())) > _OCTETS_MAX:
            del self._begun[name]
        return whole

    def start(self, packet: bytes) -> bytes:
        """What the datagram of a fragment begins with, as far as that has come."""
        found = _fragment(packet)
        one = self._begun.get(found[0]) if found else None
        return one.parts.get(0, b"") if one else b""


def _whole(one: _Begun) -> bytes | None:
    """The datagram, with its length in the header; None while something is missing."""
    if one.size < 0 or not one.head:
        return None
    body = bytearray()
    for offset in sorted(one.parts):
        if offset > len(body):
            return None
        body[offset:] = one.parts[offset]
    if len(body) != one.size:
        return None
    head = bytearray(one.head)
    if head[0] >> 4 == 4:
        head[2:4] = min(len(head) + len(body), 0xFFFF).to_bytes(2, "big")
    else:
        head[4:6] = min(len(head) - _IPV6_HEADER + len(body), 0xFFFF).to_bytes(2, "big")
    return bytes(head + body)


def _fragment(packet: bytes) -> tuple[bytes, bytes, int, bool, bytes] | None:
    """(what names the datagram, the header of a whole one, offset, whether it is the last,
    payload) of a fragment; None for another packet."""
    if len(packet) >= _IPV4_HEADER and packet[0] >> 4 == 4:
        word = int.from_bytes(packet[6:8], "big")
        size = (packet[0] & 15) * 4
        if not word & 0x3FFF or size < _IPV4_HEADER:
            return None
        head = packet[:6] + (word & 0xC000).to_bytes(2, "big") + packet[8:size]
        name = packet[4:6] + packet[9:10] + packet[12:20]
        end = int.from_bytes(packet[2:4], "big")
        return name, head, (word & 0x1FFF) * 8, not word & 0x2000, packet[size:end]
    if len(packet) < _IPV6_HEADER or packet[0] >> 4 != 6:
        return None
    at, named = _IPV6_HEADER, 6  # where the next header stands, and its number
    while packet[named] in _EXTENSIONS and len(packet) >= at + _FRAGMENT_HEADER:
        at, named = at + (packet[at + 1] + 1) * 8, at
    if packet[named] != _FRAGMENT or len(packet) < at + _FRAGMENT_HEADER:
        return None
    word = int.from_bytes(packet[at + 2 : at + 4], "big")
    head = packet[:named] + packet[at : at + 1] + packet[named + 1 : at]
    end = _IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    name = packet[at + 4 : at + 8] + packet[8:40]
    return name, head, word & 0xFFF8, not word & 1, packet[at + _FRAGMENT_HEADER : end]
