"""Putting fragments together: RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722, RFC 3168 5.3.

The kernel does this for what comes off the wire and for what applications send. Left for us are
fragments that came out of a tunnel and are protected once more, and fragments on their way into
a transport mode SA, or under policies that select by ports, which only the first one shows.

Bounded in datagrams, octets, pieces and time; the oldest go first. Pieces that overlap spoil their
datagram (RFC 5722, for IPv4 as well): who sends such wants two readers to see two things.
"""

from bisect import bisect
from collections.abc import Callable, Hashable

from keyd.packet import ip, ip6
from keyd.packet.datagram import Head

DATAGRAMS_MAX = 256
OCTETS_MAX = 4 << 20
PIECES_MAX = 1024
SECONDS = 15.0
_CE = 3
_Key = tuple[Hashable, bytes, bytes, int, int]  # context, addresses, protocol, identification


class _Datagram:
    """The pieces of one, or what is known to be spoilt."""

    __slots__ = ("ecn", "end", "first", "is_spoilt", "octets", "pieces", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.pieces: list[tuple[int, int, bytes]] = []  # start, end, data; by start
        self.first = b""  # headers as the first piece has them
        self.end = -1  # of the whole, once the last piece is there
        self.octets = 0
        self.ecn: set[int] = set()
        self.is_spoilt = False

    def spoil(self) -> int:
        """Forget the pieces; how many those were."""
        lost = len(self.pieces)
        self.is_spoilt = True
        self.pieces, self.first, self.octets = [], b"", 0
        return lost


class Fragments:
    """Collects fragments of both versions.

    Args:
        drop: is told how many fragments were given up.
    """

    def __init__(self, drop: Callable[[int], None]) -> None:
        self._drop = drop
        self._waiting: dict[_Key, _Datagram] = {}  # oldest first
        self._octets = 0

    def add(self, packet: bytes, head: Head, context: Hashable, now: float) -> bytes | None:
        """The whole packet, once its last missing piece is this one.

        `context` keeps apart what must not be joined: pieces under another protection.
        """
        self._expire(now)
        is_v4 = packet[0] >> 4 == 4
        if is_v4:
            offset, more, _ = ip.frag(packet)
            ident, ecn = ip.identification(packet), packet[1] & _CE
            key = (context, head.src, head.dst, head.proto, ident)
            start, before = ip.header_length(packet), packet[: ip.header_length(packet)]
        else:
            chain = ip6.walk(packet)
            if chain is None or not chain.fragment_at:
                self._drop(1)
                return None
            offset, more, ident = ip6.frag(packet, chain)
            ecn = ip6.traffic_class(packet) & _CE
            key = (context, head.src, head.dst, 0, ident)
            start, before = chain.fragment_at + ip6.FRAGMENT_OCTETS, packet[: chain.fragment_at]
            before = _unlinked(before, packet[chain.fragment_at])
        data = packet[start : head.total]
        datagram = self._waiting.get(key)
        if datagram is None:
            datagram = self._waiting[key] = _Datagram(now)
        if datagram.is_spoilt or not _fits(datagram, offset, len(data), more, len(before)):
            self._spoil(datagram, 1)
            return None
        place = bisect(datagram.pieces, (offset, offset + len(data), b""))
        around = datagram.pieces[max(place - 1, 0) : place + 1]
        if any((at, end) == (offset, offset + len(data)) for at, end, _ in around):
            self._drop(1)  # sent twice
            return None
        if any(at < offset + len(data) and offset < end for at, end, _ in around):
            self._spoil(datagram, 1)
            return None
        datagram.pieces.insert(place, (offset, offset + len(data), data))
        datagram.octets += len(data)
        datagram.ecn.add(ecn)
        self._octets += len(data)
        if not offset:
            datagram.first = before
        if not more:
            datagram.end = offset + len(data)
        if datagram.octets == datagram.end and datagram.first:
            return self._joined(key, datagram, is_v4)
        self._shrink()
        return None

    def forget(self, context: Hashable) -> None:
        """Give up all that waits in this context."""
        for key in [key for key in self._waiting if key[0] is context]:
            self._give_up(key, self._waiting[key])

    def _joined(self, key: _Key, datagram: _Datagram, is_v4: bool) -> bytes | None:
        del self._waiting[key]
        self._octets -= datagram.octets
        header = bytearray(datagram.first)
        marks = datagram.ecn
        is_marked_wrong = _CE in marks and 0 in marks  # though its sender knows no marks
        if is_marked_wrong or len(header) + datagram.end > ip.PACKET_MAX:
            self._drop(len(datagram.pieces))
            return None
        payload = b"".join(data for _, _, data in datagram.pieces)
        if is_v4:
            header[6:8] = bytes(2)
            if _CE in marks:
                header[1] |= _CE
            return ip.rebuild(header, header[9], len(payload)) + payload
        if _CE in marks:
            header[1] |= _CE << 4
        header[4:6] = (len(header) - ip6.HEADER_OCTETS + len(payload)).to_bytes(2, "big")
        return bytes(header) + payload

    def _spoil(self, datagram: _Datagram, more: int) -> None:
        self._octets -= datagram.octets
        self._drop(datagram.spoil() + more)

    def _expire(self, now: float) -> None:
        while self._waiting:
            key, oldest = next(iter(self._waiting.items()))
            if 0 <= now - oldest.since < SECONDS:
                return
            self._give_up(key, oldest)

    def _shrink(self) -> None:
        while len(self._waiting) > DATAGRAMS_MAX or self._octets > OCTETS_MAX:
            self._give_up(*next(iter(self._waiting.items())))

    def _give_up(self, key: _Key, datagram: _Datagram) -> None:
        del self._waiting[key]
        self._octets -= datagram.octets
        self._drop(len(datagram.pieces))


def _fits(datagram: _Datagram, offset: int, octets: int, more: bool, header: int) -> bool:
    """Whether the lengths of a piece agree with those of the others."""
    end = offset + octets
    if not octets or (more and octets % ip.FRAGMENT_UNIT) or end + header > ip.PACKET_MAX:
        return False
    if len(datagram.pieces) >= PIECES_MAX:
        return False
    last = max(end, datagram.pieces[-1][1]) if datagram.pieces else end
    if datagram.end >= 0 and last > datagram.end:
        return False
    return more or (last == end and datagram.end in (-1, end))


def _unlinked(before: bytes, next_header: int) -> bytes:
    """An IPv6 header without the fragment header that would follow."""
    fresh = bytearray(before)
    fresh[ip6.last_nh_at(before)] = next_header
    return bytes(fresh)
