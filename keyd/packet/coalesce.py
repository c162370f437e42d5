"""Joining runs of opened TCP segments into super-packets for one write to the TUN device.

Joined are segments of one flow that follow each other without a gap, that differ in nothing but
sequence number, data, PSH and FIN of the last, and whose own checksums hold: as GRO does. All but
the last are equally long. The order of packets within a flow stays; flows may overtake each other
within one batch. What is not joined goes up as it is, and the kernel checks its checksum.
"""

from collections.abc import Sequence
from struct import Struct

from keyd.packet import datagram, ip, ip6, segment
from keyd.packet.checksum import checksum, finish, partial
from keyd.packet.segment import FIN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, PLAIN, PSH, TCP

Frame = Sequence[bytes | bytearray | memoryview]  # for writev

SEGMENTS_MAX = 64
_VNET = Struct("=BBHHHH")
_U16 = Struct("!H")
_U32 = Struct("!I")
_ACK = 0x10
_TCP_CSUM = 16
# flags that a joined segment may have; everything else goes up alone
_PLAIN_FLAGS = frozenset((_ACK, _ACK | PSH))
_ENDING_FLAGS = frozenset((_ACK | PSH, _ACK | FIN, _ACK | FIN | PSH))


class _Run:
    """Segments to be joined: the first one whole, of the others the data."""

    __slots__ = ("data", "first", "head_octets", "ip_octets", "next_seq", "octets", "same", "size")

    def __init__(self, packet: bytes, ip_octets: int, head_octets: int, same: bytes) -> None:
        self.first = packet
        self.ip_octets = ip_octets
        self.head_octets = head_octets  # IP and TCP header
        self.same = same
        self.data: list[memoryview] = []
        self.size = len(packet) - head_octets
        self.octets = len(packet)
        seq = _U32.unpack_from(packet, ip_octets + 4)[0]
        self.next_seq = (seq + self.size) & 0xFFFFFFFF


class Coalescer:
    """Collects the packets of one batch; `flush` gives the frames to write."""

    def __init__(self) -> None:
        self._order: list[_Run | bytes] = []
        self._open: dict[bytes, _Run] = {}

    def add(self, packet: bytes, flow: bytes, is_authentic: bool) -> None:
        """One opened packet, well formed, and its `ip.flow_key`.

        Without an authenticator it is never joined.
        """
        is_tcp = datagram.proto(packet) == TCP  # of IPv6: without extension headers
        is_v4 = packet[0] >> 4 == 4
        if not is_authentic or not is_tcp or (is_v4 and ip.is_fragment(packet)):
            # it may belong to an open run's flow (an SA without authenticator does not mix)
            if is_tcp:
                self._open.pop(flow, None)
            self._order.append(packet)
            return
        at = (packet[0] & 0x0F) * 4 if is_v4 else ip6.HEADER_OCTETS
        view = memoryview(packet)
        octets = segment.tcp_header_octets(view[at:])
        head = at + octets
        if not octets or len(packet) == head:
            self._open.pop(flow, None)
            self._order.append(packet)
            return
        flags = packet[at + 13]
        run = self._open.get(flow)
        if run is not None:
            if self._joins(run, packet, at, head, flags):
                run.data.append(view[head:])
                run.octets += len(packet) - head
                run.next_seq = (run.next_seq + len(packet) - head) & 0xFFFFFFFF
                if flags in _ENDING_FLAGS:
                    run.same = run.same[:-1] + bytes((flags,))
                    del self._open[flow]
                elif len(packet) - head < run.size:
                    del self._open[flow]
                return
            del self._open[flow]
        if flags == _ACK and self._sums(packet, at):
            run = _Run(packet, at, head, _same(packet, at, head) + bytes((flags,)))
            self._open[flow] = run
            self._order.append(run)
        else:
            self._order.append(packet)

    def _joins(self, run: _Run, packet: bytes, at: int, head: int, flags: int) -> bool:
        data = len(packet) - head
        return (
            (flags in _PLAIN_FLAGS or flags in _ENDING_FLAGS)
            and head == run.head_octets
            and data <= run.size
            and run.octets + data <= ip.PACKET_MAX
            and len(run.data) + 1 < SEGMENTS_MAX
            and _U32.unpack_from(packet, at + 4)[0] == run.next_seq
            and _same(packet, at, head) == run.same[:-1]
            and self._sums(packet, at)
        )

    @staticmethod
    def _sums(packet: bytes, at: int) -> bool:
        """Whether the segment's checksum holds."""
        view = memoryview(packet)
        if packet[0] >> 4 == 6:  # the addresses stand right before it: one sum for both
            total = partial(view[8:])
        elif at == ip.HEADER_MIN:
            total = partial(view[12:])
        else:
            total = partial(view[12:20]) + partial(view[at:])
        return finish(total + TCP + len(packet) - at) == 0

    def flush(self) -> list[tuple[int, Frame]]:
        """(segments in it, buffers for one writev) of each frame, and begin anew."""
        frames: list[tuple[int, Frame]] = []
        for item in self._order:
            if isinstance(item, bytes):
                frames.append((1, (PLAIN, item)))
            elif not item.data:
                frames.append((1, (PLAIN, item.first)))
            else:
                frames.append((1 + len(item.data), _joined(item)))
        self._order = []
        self._open = {}
        return frames


def _same(packet: bytes, at: int, head: int) -> bytes:
    """What must be equal in all segments of a run, beside the flow."""
    if packet[0] >> 4 == 6:  # class, flow label and hop limit
        fixed: tuple[bytes, ...] = (packet[:4], packet[7:8])
    else:  # TOS, DF, TTL, options
        fixed = (packet[:2], packet[6:9], packet[20:at])
    return b"".join((
        *fixed,
        packet[at + 8 : at + 13], packet[at + 14 : at + 16], packet[at + 18 : head],
    ))  # fmt: skip


def _joined(run: _Run) -> Frame:
    at, head_octets = run.ip_octets, run.head_octets
    head = bytearray(run.first[:head_octets])
    is_v4 = head[0] >> 4 == 4
    if is_v4:
        _U16.pack_into(head, 2, run.octets)
        head[10:12] = bytes(2)
        _U16.pack_into(head, 10, checksum(head[:at]))
    else:
        _U16.pack_into(head, 4, run.octets - at)
    head[at + 13] = run.same[-1]
    # NEEDS_CSUM: the field holds the sum of the pseudo header, not its complement
    length = run.octets - at
    pseudo = partial(datagram.addresses(head)) + TCP + length
    _U16.pack_into(head, at + _TCP_CSUM, pseudo % 65535)
    gso = GSO_TCPV4 if is_v4 else GSO_TCPV6
    vnet = _VNET.pack(NEEDS_CSUM, gso, head_octets, run.size, at, _TCP_CSUM)
    return (vnet, head, memoryview(run.first)[head_octets:], *run.data)
