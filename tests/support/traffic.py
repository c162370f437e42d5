"""Traffic that tries every way out of a host, until it is ended: `traffic.py SRC DST DEVICE`.

Run in a host, over the family of the addresses. Each round sends: plain UDP, UDP larger than the
link, UDP and ICMP from sockets bound to the device, UDP with IP_PKTINFO naming the device, a TCP
connection attempt, octets on a TCP connection that is open, and raw fragments. All payloads hold
MARKER.
"""

import contextlib
import socket
import struct
import sys
import time

MARKER = b"in-clear-this-must-never-be-seen"
_SO_BINDTODEVICE = 25
_IP_PKTINFO = 8


def echo_request(sequence: int, *, is_ipv6: bool = False) -> bytes:
    """ICMP echo request with MARKER as its payload; the kernel sums ICMPv6 itself."""
    octets = struct.pack(">BBHHH", 128 if is_ipv6 else 8, 0, 0, 7, sequence & 0xFFFF) + MARKER
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return octets[:2] + struct.pack(">H", total) + octets[4:]


def fragments(src: str, dst: str, ident: int) -> list[bytes]:
    """A UDP datagram of two fragments, as whole IP packets for raw sockets."""
    datagram = struct.pack(">HHHH", 7777, 9999, 8 + 1600, 0) + MARKER * 50
    made = []
    for offset, piece, more in ((0, datagram[:800], True), (100, datagram[800:], False)):
        if ":" in src:
            head = struct.pack(">BBHI", 17, 0, offset * 8 | more, ident)
            fixed = struct.pack(">IHBB", 6 << 28, len(head + piece), 44, 64)
            ends = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst)
            made.append(fixed + ends + head + piece)
            continue
        made.append(
            struct.pack(
                ">BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), ident & 0xFFFF, offset | more << 13,
                64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst),
            )
            + piece
        )  # fmt: skip
    return made


def main(src: str, dst: str, device: str) -> None:
    """Send for ever."""
    is_ipv6 = ":" in src
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    echo = socket.IPPROTO_ICMPV6 if is_ipv6 else socket.IPPROTO_ICMP
    plain = socket.socket(family, socket.SOCK_DGRAM)
    bound = socket.socket(family, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    icmp = socket.socket(family, socket.SOCK_RAW, echo)
    icmp_bound = socket.socket(family, socket.SOCK_RAW, echo)
    icmp_bound.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for one in (plain, bound, icmp, icmp_bound, raw):
        one.setblocking(False)
    index = socket.if_nametoindex(device)
    if is_ipv6:
        info = socket.inet_pton(family, src) + struct.pack("I", index)
        named = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)
    else:
        info = struct.pack("I4s4s", index, socket.inet_aton(src), bytes(4))
        named = (socket.IPPROTO_IP, _IP_PKTINFO, info)
    open_tcp: socket.socket | None = None
    sequence = 0
    while True:
        sequence += 1
        refused = contextlib.suppress(OSError)
        with refused:
            plain.sendto(MARKER, (dst, 9999))
        with refused:
            plain.sendto(MARKER * 94, (dst, 9999))
        with refused:
            plain.sendmsg([MARKER], [named], 0, (dst, 9999))
        with refused:
            bound.sendto(MARKER, (dst, 9999))
        with refused:
            icmp.sendto(echo_request(sequence, is_ipv6=is_ipv6), (dst, 0))
        with refused:
            icmp_bound.sendto(echo_request(sequence, is_ipv6=is_ipv6), (dst, 0))
        for piece in fragments(src, dst, sequence):
            with refused:
                raw.sendto(piece, (dst, 0))
        with refused, socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setblocking(False)
            attempt.connect_ex((dst, 9998))
        try:
            if open_tcp is None:
                open_tcp = socket.create_connection((dst, 9997), timeout=0.05)
                open_tcp.setblocking(False)
            open_tcp.send(MARKER * 100)
        except BlockingIOError:
            pass
        except OSError:
            if open_tcp is not None:
                open_tcp.close()
            open_tcp = None
        time.sleep(0.003)


if __name__ == "__main__":
    main(*sys.argv[1:])
