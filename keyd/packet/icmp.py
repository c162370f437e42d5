"""ICMP and the path MTU: RFC 792, RFC 1191, RFC 4303 3.3.4 and RFC 4301 section 8.

Two directions: we tell local senders what fits after sealing (`fragmentation_needed`), and we
learn from routers what fits on the way (`quoted_esp`, `PathMtu`). Numbers are in network order.
"""

from struct import Struct

from keyd.packet import ip
from keyd.packet.checksum import checksum
from pfkey.const import IPPROTO_ESP

UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
MTU_FLOOR = 576
AGE_SECONDS = 600.0  # RFC 1191 section 6.3 asks for ten minutes
DESTINATIONS_MAX = 4096
_ANSWER_OCTETS = 576  # RFC 1812 4.3.2.3: quote as much as fits
_ICMP = Struct("!BBHHH")
_IP = Struct("!BBHHHBBH4s4s")
_TTL = 64


def fragmentation_needed(packet: bytes, mtu: int) -> bytes:
    """The answer to the sender of an IPv4 packet that is too big: an IP packet.

    Its source is the destination that was asked for. A local address would be a martian to the
    kernel that reads this from the TUN device, and nothing looks at the source of such an error.
    """
    quoted = packet[: _ANSWER_OCTETS - ip.HEADER_MIN - _ICMP.size]
    body = bytearray(_ICMP.pack(UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, mtu) + quoted)
    body[2:4] = checksum(body).to_bytes(2, "big")
    head = bytearray(
        _IP.pack(
            0x45, 0xC0, ip.HEADER_MIN + len(body), 0, 0, _TTL, ip.ICMP, 0,
            ip.dst(packet), ip.src(packet),
        )
    )  # fmt: skip
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head + body)


def quoted_esp(quoted: bytes) -> tuple[bytes, bytes, int, int] | None:
    """(source, destination, SPI, sequence) of the ESP packet that an error quotes."""
    if len(quoted) < ip.HEADER_MIN or quoted[0] >> 4 != 4 or quoted[9] != IPPROTO_ESP:
        return None
    at = ip.header_length(quoted)
    if at < ip.HEADER_MIN or len(quoted) < at + 8 or ip.frag(quoted)[0]:
        return None
    spi, seq = Struct("!II").unpack_from(quoted, at)
    return ip.src(quoted), ip.dst(quoted), spi, seq


class PathMtu:
    """What routers said, per destination, for ten minutes."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, float]] = {}

    def learn(self, dst: bytes, mtu: int, now: float) -> None:
        """A router can pass on `mtu` octets at most; less than 576 is taken for 576."""
        if len(self._known) >= DESTINATIONS_MAX:
            del self._known[next(iter(self._known))]
        self._known.pop(dst, None)
        self._known[dst] = (max(mtu, MTU_FLOOR), now + AGE_SECONDS)

    def limit(self, dst: bytes, link_mtu: int, now: float) -> int:
        """The MTU to a destination, given that of the link on the way to it."""
        entry = self._known.get(dst)
        if entry is None:
            return link_mtu
        mtu, until = entry
        if not until - AGE_SECONDS <= now < until:  # too old, or the clock was set back
            del self._known[dst]
            return link_mtu
        return min(mtu, link_mtu)
