"""IP packets made by hand, and scapy as the judge of their checksums."""

import struct

from scapy.layers.inet import IP

from keyd.packet import segment
from keyd.packet.checksum import checksum, partial

A, B = bytes((10, 1, 1, 1)), bytes((20, 1, 1, 1))
A6, B6 = (bytes.fromhex("fd00" + "00" * 13 + f"{n:02x}") for n in (1, 2))


def ipv4(
    proto: int, payload: bytes, *, src: bytes = A, dst: bytes = B, df: bool = True,
    ident: int = 1, options: bytes = b"", more: bool = False, offset: int = 0, ttl: int = 64,
) -> bytes:  # fmt: skip
    octets = 20 + len(options)
    head = bytearray(
        struct.pack(
            "!BBHHHBBH4s4s", 0x40 | octets // 4, 0, octets + len(payload), ident,
            df << 14 | more << 13 | offset // 8, ttl, proto, 0, src, dst,
        ) + options
    )  # fmt: skip
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head) + payload


def tcp(
    data: bytes, *, seq: int = 1000, flags: int = 0x10, options: bytes = b"", sport: int = 4000,
    dport: int = 80, ack: int = 5, window: int = 500, src: bytes = A, dst: bytes = B,
    unfinished: bool = False,
) -> bytes:  # fmt: skip
    octets = 20 + len(options)
    head = bytearray(
        struct.pack("!HHIIBBHHH", sport, dport, seq, ack, octets * 4, flags, window, 0, 0) + options
    )
    return _summed(6, head, data, 16, src, dst, unfinished)


def udp(
    data: bytes, *, sport: int = 4000, dport: int = 53, src: bytes = A, dst: bytes = B,
    unfinished: bool = False,
) -> bytes:  # fmt: skip
    head = bytearray(struct.pack("!HHHH", sport, dport, 8 + len(data), 0))
    return _summed(17, head, data, 6, src, dst, unfinished)


def _summed(
    proto: int, head: bytearray, data: bytes, at: int, src: bytes, dst: bytes, unfinished: bool
) -> bytes:
    pseudo = src + dst + struct.pack("!HH", proto, len(head) + len(data))
    value = partial(pseudo) if unfinished else checksum(pseudo + head + data)
    head[at : at + 2] = value.to_bytes(2, "big")
    return bytes(head) + data


def frame(
    packet: bytes, *, gso: int = 0, gso_size: int = 0, csum: tuple[int, int] = (0, 0)
) -> bytes:
    """What a read from the TUN device returns; `csum` is (start, offset) or nothing."""
    flags = segment.NEEDS_CSUM if csum[0] else 0
    return struct.pack("=BBHHHH", flags, gso, 0, gso_size, *csum) + packet


def sums_hold(packet: bytes) -> bool:
    """Whether scapy computes the same checksums, in IP and in TCP, UDP or ICMP."""
    told, again = IP(packet), IP(packet)
    layer: object = again
    while layer:
        for name in ("chksum", "len"):
            if name in getattr(layer, "fields", {}):
                delattr(layer, name)
        layer = getattr(layer, "payload", None)
    return bool(bytes(told) == bytes(IP(bytes(again))))


def ipv6(
    proto: int, payload: bytes, src: bytes = A6, dst: bytes = B6, before: bytes = b""
) -> bytes:
    head = 6 << 28 | 0xABCDE
    length = len(before) + len(payload)
    return b"".join(
        (head.to_bytes(4, "big"), length.to_bytes(2, "big"), bytes((proto, 60)), src, dst, before,
         payload)
    )  # fmt: skip
