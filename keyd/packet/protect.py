"""What becomes of a packet whose fate is decided: cut, sealed layer by layer, fragmented.

Sans-IO. RFC 4301 section 5.1. The steps, in the order of the functions:

1. `protect`: all layers of a policy around the packets of one read.
2. `_cut`: into packets that fit the path after sealing; what may not be cut is answered by ICMP.
3. `_wrapped`: a tunnel's outer header; what is too long is fragmented before the first tunnel,
   else at the end (transport mode protects datagrams, not fragments), after IPComp (RFC 3173 2).
4. `clear`: what `use` lets out without an SA.

IPComp does not count in what fits: what does not shrink must fit as well. IPv6 shows nowhere
whether its source minds fragments, so it is cut and its source told as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from keyd.model import Settings
from keyd.packet import counters as count
from keyd.packet import datagram, icmp, ip, ip6, segment, tunnel
from keyd.packet.drop import Drop
from keyd.packet.faults import FaultySealer
from keyd.packet.flow import Flow
from keyd.packet.layers import Chain, Layer, Stream
from keyd.packet.sealer import Sealer
from keyd.packet.segment import Frame, Payload
from keyd.packet.tallies import Tally

_DF = 0x40
_NO_LAYERS = Chain()
ROOM_MIN = 68  # the least MTU of IPv4 (RFC 791)


@dataclass(slots=True)
class Batch:
    """What is to be written, in this order. IP packets for the sockets of their version."""

    sealed: list[bytes] = field(default_factory=list)
    sealed6: list[bytes] = field(default_factory=list)
    clear: list[bytes] = field(default_factory=list)
    clear6: list[bytes] = field(default_factory=list)
    back: list[bytes] = field(default_factory=list)  # frames for the TUN device


class _Cut(Enum):
    """What becomes of packets that are longer than what fits."""

    FITS = 0
    ANYWHERE = 1  # fragment as early as can be
    OUTSIDE = 2  # fragment what is sent: IPv6 asks a link for 1280 octets (RFC 2473 7.1)


class Protector:
    """Fills a `Batch`. See `keyd.packet.trunk.Trunk` for the arguments.

    Args:
        path_mtu: the MTU of the way to a packed destination address, and
        link_mtu: of the link that leads there.
    """

    def __init__(
        self,
        counters: memoryview,
        path_mtu: Callable[[bytes], int],
        link_mtu: Callable[[bytes], int],
        random: Callable[[int], bytes],
        is_local: Callable[[bytes], bool],
    ) -> None:
        self.batch = Batch()
        self._counters = counters
        self._path_mtu = path_mtu
        self._link_mtu = link_mtu
        self._random = random
        self._is_local = is_local
        self._tally = Tally(0)  # of the flow at hand
        self._lost = 0  # of its packets
        self._sealer = Sealer(counters, random, self._drop)
        # one for all tunnels: what may be cut on the way must not be joined wrongly (RFC 6864 4.3)
        self._ident = int.from_bytes(random(2), "big")

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        self._sealer = Sealer(self._counters, self._random, self._drop)
        if settings.repeats_numbers or settings.spoils_icvs:
            self._sealer = FaultySealer(
                self._counters, self._random, self._drop, repeats=settings.repeats_numbers,
                spoils=settings.spoils_icvs,
            )  # fmt: skip

    def protect(self, frame: Frame, flow: Flow, now_us: int) -> None:
        """Seal what one read brought."""
        self._tally, self._lost = flow.tally, 0
        header, chain = frame.header, flow.chain
        layers = chain.layers
        mtu = self._path_mtu(chain.dst or datagram.dst(frame.packet))
        rooms = chain.rooms(header, mtu)
        payloads, how = self._cut(frame, rooms[0] - len(header), chain)
        if not payloads:
            return
        if how is not _Cut.FITS and header[0] >> 4 == 6:
            self._tell(flow, frame, len(header) + len(payloads[0]), rooms[0], now_us / 1e6)
        stream = Stream(header, frame.proto, payloads)
        if how is not _Cut.FITS:  # only then can one be too long for any IP packet
            stream = self._holdable(stream, chain, how)
        streams = [stream] if stream.payloads else []
        for layer, room in zip(layers, rooms, strict=True):
            if layer.src:
                cut_at = room if how is _Cut.ANYWHERE else 0
                how = _Cut.FITS if cut_at else how
                streams = [inner for one in streams for inner in self._wrapped(layer, one, cut_at)]
            if len(streams) == 1:
                streams = self._sealer.seal(layer, streams[0], now_us)
            else:
                streams = [
                    done for one in streams for done in self._sealer.seal(layer, one, now_us)
                ]
        for stream in streams:
            if len(layers) > 1:
                self._counters[count.OUT_BUNDLESA] += (len(layers) - 1) * len(stream.payloads)
            packets = segment.packets(*stream)
            if how is not _Cut.FITS:
                packets = self._sealer.fragments(packets, mtu)
            if stream.header[0] >> 4 == 4:
                self.batch.sealed += packets
            else:
                self.batch.sealed6 += packets
        self._note(header, payloads)

    def _drop(self, row: int, packets: int) -> None:
        """Packets of the flow at hand end in this counter."""
        self._counters[row] += packets
        self._tally.drop(row, packets)
        self._lost += packets

    def _note(self, header: bytes, payloads: Sequence[Payload]) -> None:
        """The flow's policy has passed these, without those that were lost since."""
        if self._lost:  # the last ones of a stream go first
            payloads = payloads[: max(len(payloads) - self._lost, 0)]
        self._tally.packets += len(payloads)
        self._tally.octets += len(payloads) * len(header) + sum(map(len, payloads))

    def _cut(self, frame: Frame, room: int, chain: Chain) -> tuple[Sequence[Payload], _Cut]:
        """The payloads, and whether what becomes of them must be fragmented; none: counted."""
        counters = self._counters
        payloads: Sequence[Payload] | None = segment.cut(frame, room)
        how = _Cut.FITS
        if payloads is None:
            how = self._may_fragment(frame, chain)
            if how is not _Cut.FITS:
                payloads = segment.cut(frame, ip.PACKET_MAX)
        if payloads is not None:
            counters[count.TUN_SEGMENTS] += len(payloads)
            if len(payloads) > 1:
                counters[count.SUPERPACKET_IN] += 1
            return payloads, how
        counters[count.TUN_SEGMENTS] += 1
        fits = len(frame.header) + room
        if how is not _Cut.FITS or not ROOM_MIN <= fits < ip.PACKET_MAX:
            self._drop(count.OUT_INVAL, 1)
            return (), how
        self._tally.drop(count.ICMP_TOOBIG_SENT)
        self._answer(frame, fits)
        return (), how

    def _answer(self, frame: Frame, fits: int) -> None:
        self._counters[count.ICMP_TOOBIG_SENT] += 1
        self.batch.back.append(segment.PLAIN + icmp.too_big(frame.packet, fits))

    def _tell(self, flow: Flow, frame: Frame, octets: int, fits: int, now: float) -> None:
        """What fits, for the source of packets that are fragmented and would fit the bare link.

        Those for which its kernel allows no fragments are refused there from now on; larger ones
        are fragmented for the source anyway.
        """
        is_small = frame.was_cut or len(frame.packet) <= ip6.MTU_MIN  # none can be told less
        is_large = octets > self._link_mtu(ip6.dst(frame.packet))
        if is_small or is_large or flow.told_until - icmp.AGE_SECONDS <= now < flow.told_until:
            return
        flow.told_until = now + icmp.AGE_SECONDS
        self._answer(frame, fits)

    def _may_fragment(self, frame: Frame, chain: Chain) -> _Cut:
        """Whether anybody but the sender may cut this packet, and where.

        What transport mode made is not cut inside of a tunnel: its receiver would have to join it
        before it can open it, and others than us do not.
        """
        where = (
            _Cut.OUTSIDE if chain.has_tunnel and not chain.layers[0].is_tunnel else _Cut.ANYWHERE
        )
        if frame.packet[0] >> 4 == 4:
            return _Cut.FITS if frame.header[6] & _DF else where
        if len(frame.packet) <= ip6.MTU_MIN or frame.was_cut:
            return _Cut.OUTSIDE
        # IPv6 is cut by its source only (RFC 8200 4.5), which may be us, and once
        is_source = not frame.is_fragment and self._is_local(ip6.src(frame.packet))
        return where if is_source else _Cut.FITS

    def _holdable(self, stream: Stream, chain: Chain, how: _Cut) -> Stream:
        """Without what would not fit the longest packet that can be, once sealed."""
        if how is _Cut.ANYWHERE and chain.has_tunnel:
            return stream  # cut before it is sealed
        header = stream.header
        room = chain.rooms(header, datagram.largest(header[0] >> 4))[0] - len(header)
        fitting = [payload for payload in stream.payloads if len(payload) <= room]
        if lost := len(stream.payloads) - len(fitting):
            self._drop(chain.layers[0].sa.drops[Drop.TOOBIG], lost)
        return stream._replace(payloads=fitting)

    def _wrapped(self, layer: Layer, stream: Stream, cut_at: int) -> list[Stream]:
        """The packets as payloads of a tunnel, before that cut to `cut_at` octets if not 0."""
        packets = segment.packets(*stream)
        if cut_at:
            packets = self._sealer.fragments(packets, cut_at)
            if not packets:
                return []
        ident, self._ident = self._ident, (self._ident + len(packets)) & 0xFFFF
        outer = tunnel.outer(packets[0], layer.src, layer.dst, knobs=layer.sa.knobs, ident=ident)
        if isinstance(outer, Drop):
            self._drop(layer.sa.drops[outer], len(packets))
            return []
        return [Stream(outer, tunnel.next_header(packets[0]), packets)]

    def clear(self, frame: Frame, flow: Flow) -> None:
        """Let out what one read brought."""
        self._tally, self._lost = flow.tally, 0
        mtu = self._path_mtu(datagram.dst(frame.packet))
        payloads, how = self._cut(frame, mtu - len(frame.header), _NO_LAYERS)
        self._counters[count.CLEAR_OUT] += len(payloads)
        packets = segment.packets(frame.header, frame.proto, payloads)
        if how is not _Cut.FITS:
            packets = self._sealer.fragments(packets, mtu)
        if frame.packet[0] >> 4 == 4:
            self.batch.clear += packets
        else:
            self.batch.clear6 += packets
        self._note(frame.header, payloads)
