"""IP packets cut into fragments, and joined again, plainly (RFC 791, RFC 8200 4.5)."""

import struct
from collections.abc import Iterable, Iterator

from tests.support.wire import checksum

_FRAGMENT = 44
_OCTETS = 1400  # of each piece, a multiple of eight


def cut(packet: bytes, ident: int) -> Iterator[bytes]:
    """The fragments of a packet without options or extension headers; itself if it is small.

    `ident` is for IPv6; an IPv4 packet has one, which AH covers.
    """
    head = 20 if packet[0] >> 4 == 4 else 40
    body = packet[head:]
    if len(body) <= _OCTETS:
        yield packet
        return
    for at in range(0, len(body), _OCTETS):
        piece, is_more = body[at : at + _OCTETS], at + _OCTETS < len(body)
        if head == 40:
            piece = struct.pack(">BBHI", packet[6], 0, at | is_more, ident) + piece
            yield packet[:4] + struct.pack(">HB", len(piece), _FRAGMENT) + packet[7:40] + piece
            continue
        fixed = packet[:2] + struct.pack(
            ">H2sH", 20 + len(piece), packet[4:6], at // 8 | is_more << 13
        ) + packet[8:10] + bytes(2) + packet[12:20]  # fmt: skip
        yield fixed[:10] + checksum(fixed).to_bytes(2, "big") + fixed[12:] + piece


def joined(packets: Iterable[bytes]) -> list[bytes]:
    """The packets, those in fragments as one where the last piece arrives."""
    found: list[bytes] = []
    parts: dict[bytes, tuple[bytes, dict[int, bytes]]] = {}
    for packet in packets:
        if packet[0] >> 4 == 4:
            word, at = int.from_bytes(packet[6:8], "big") & 0x3FFF, 20
            offset, is_more, name = (word & 0x1FFF) * 8, word >> 13, packet[4:6] + packet[12:20]
            head = packet[:2] + bytes(2) + packet[4:6] + bytes(2) + packet[8:20]
        else:
            at = 48 if packet[6] == _FRAGMENT else 40
            word = int.from_bytes(packet[42:44], "big") if at == 48 else 0
            offset, is_more, name = word & 0xFFF8, word & 1, packet[44:48] + packet[8:40]
            head = packet[:4] + bytes(2) + packet[40:41] + packet[7:40]
        if not word:
            found.append(packet)
            continue
        first, pieces = parts.setdefault(name, (head, {}))
        pieces[offset] = packet[at:]
        if is_more:
            continue
        body = b"".join(pieces[one] for one in sorted(pieces))
        if first[0] >> 4 == 4:
            fixed = first[:2] + struct.pack(">H", 20 + len(body)) + first[4:10] + bytes(2)
            fixed += first[12:]
            first = fixed[:10] + checksum(fixed).to_bytes(2, "big") + fixed[12:]
        else:
            first = first[:4] + struct.pack(">H", len(body)) + first[6:]
        found.append(first + body)
        del parts[name]
    return found
