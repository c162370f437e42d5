"""Traffic that tries every way out of a host, until it is ended: `traffic.py SRC DST DEVICE`.

Run in a host. Each round sends: plain UDP, UDP larger than the link, UDP and ICMP from sockets
bound to the device, UDP with IP_PKTINFO naming the device, a TCP connection attempt, octets on a
TCP connection that is open, and raw fragments. All payloads hold MARKER.
"""

import contextlib
import socket
import struct
import sys
import time

MARKER = b"in-clear-this-must-never-be-seen"
_SO_BINDTODEVICE = 25
_IP_PKTINFO = 8


def echo_request(sequence: int) -> bytes:
    """ICMP echo request with MARKER as its payload."""
    octets = struct.pack(">BBHHH", 8, 0, 0, 7, sequence & 0xFFFF) + MARKER
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return octets[:2] + struct.pack(">H", total) + octets[4:]


def fragments(src: str, dst: str, ident: int) -> list[bytes]:
    """A UDP datagram of two fragments, as whole IPv4 packets for IP_HDRINCL."""
    datagram = struct.pack(">HHHH", 7777, 9999, 8 + 1600, 0) + MARKER * 50
    made = []
    for offset, piece, more in ((0, datagram[:800], 0x2000), (100, datagram[800:], 0)):
        made.append(
            struct.pack(
                ">BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), ident & 0xFFFF, offset | more, 64, 17, 0,
                socket.inet_aton(src), socket.inet_aton(dst),
            )
            + piece
        )  # fmt: skip
    return made


def main(src: str, dst: str, device: str) -> None:
    """Send for ever."""
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp_bound = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp_bound.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for one in (plain, bound, icmp, icmp_bound, raw):
        one.setblocking(False)
    info = struct.pack("I4s4s", socket.if_nametoindex(device), socket.inet_aton(src), bytes(4))
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
            plain.sendmsg([MARKER], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, (dst, 9999))
        with refused:
            bound.sendto(MARKER, (dst, 9999))
        with refused:
            icmp.sendto(echo_request(sequence), (dst, 0))
        with refused:
            icmp_bound.sendto(echo_request(sequence), (dst, 0))
        for piece in fragments(src, dst, sequence):
            with refused:
                raw.sendto(piece, (dst, 0))
        with refused, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
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
