"""The outbound pipeline: what was read from the TUN device becomes sealed packets.

Sans-IO: clock, chance and what the system knows of addresses are handed in; results are collected
in `Batch`. RFC 4301 section 5.1. The steps, in the order of the functions:

1. `process`: read one frame, well formed or dropped; only tunnels take fragments.
2. `_flow`: the flow cache, by header octets; emptied whenever policies or SAs change.
3. `_decide`: the first matching policy, then an SA for each of its requests; a flow that lacks
   one waits for it (`keyd.packet.waiting`) while somebody is asked, and `resume`s.
4. `_cut`: into packets that fit the path after sealing; what may not be cut is answered by ICMP.
   IPv6 shows nowhere whether its source minds fragments, so it is cut and its source told as well.
5. `_protect`: through all layers (`keyd.packet.sealer`); what is too long is fragmented before
   the first tunnel, else at the end (transport mode protects datagrams, not fragments), as it is
   where one host opens both a tunnel and a transport mode layer inside it.
6. `_clear`: what `use` lets out without an SA.

Every packet ends in one counter; a super-packet that is dropped before it is cut counts as one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from keyd.model import Need, PolicySpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, icmp, ip, ip6, layers, segment, tunnel
from keyd.packet.association import OutSa
from keyd.packet.classify import Classifier
from keyd.packet.drop import Drop
from keyd.packet.faults import FaultySealer
from keyd.packet.flow import Flow, flow_key
from keyd.packet.icmp import PathMtu
from keyd.packet.layers import Layer, Stream
from keyd.packet.outsad import OutSad
from keyd.packet.sealer import Sealer
from keyd.packet.segment import Frame, Payload
from keyd.packet.used import Used
from keyd.packet.waiting import Waiting, can_be_met, need_of
from pfkey.const import Level, Mode, PolicyType

FLOWS_MAX = 8192
_DF = 0x40
_ROOM_MIN = 68  # the least MTU of IPv4 (RFC 791)
_MTU_MIN = 128  # what is cut for less would be mostly header


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


class Outbound:
    """The outbound half of the data path.

    Args:
        counters: u64s in the order of `keyd.packet.counters.ROWS`.
        link_mtu: the MTU of the link towards a packed destination address.
        random: so many unforeseeable octets.
        is_local: whether a packed address is one of this host's own.
        policy: what decides of every packet; None: those of `update_policies`.
    """

    def __init__(
        self,
        counters: memoryview,
        link_mtu: Callable[[bytes], int],
        random: Callable[[int], bytes],
        is_local: Callable[[bytes], bool],
        policy: PolicySpec | None = None,
    ) -> None:
        self._policy = policy
        self._counters = counters
        self._link_mtu = link_mtu
        self._random = random
        self._sealer = Sealer(counters, random)
        self._is_local = is_local
        self._policies = Classifier()
        self._sad = OutSad()
        self._flows: dict[bytes, Flow] = {}
        self._paths = PathMtu()
        self._now = 0.0
        self._settings = Settings()
        self.used = Used()
        self.waiting = Waiting(counters)
        self.batch = Batch()

    # ---------------------------------------------------------------- databases

    def share(self, main: "Outbound") -> None:
        """Use another's SAs, and add to its batch."""
        self._sad, self._paths = main._sad, main._paths
        self.batch = main.batch

    def stir(self, src: bytes, dst: bytes) -> None:
        """The SAs between these addresses are others."""
        self._flows.clear()
        self.waiting.stir((src, dst))

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self._sad.install(sa)
        self.stir(sa.spec.src, sa.spec.dst)

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        self._sad.remove(slot)
        self._flows.clear()

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the outbound policies."""
        self._policies.update(added, removed)
        self._flows.clear()
        self.waiting.stir_all()

    def tune(self, settings: Settings) -> None:
        """Follow a change of what the engine says beside SAs and policies."""
        self.waiting.tune(settings)
        self._settings = settings
        self._sad.tune(settings)
        self._flows.clear()
        self._sealer = Sealer(self._counters, self._random)
        if settings.repeats_numbers or settings.spoils_icvs:
            self._sealer = FaultySealer(
                self._counters, self._random, repeats=settings.repeats_numbers,
                spoils=settings.spoils_icvs,
            )  # fmt: skip

    # ---------------------------------------------------------------- the pipeline

    def process(self, octets: bytes, now_us: int) -> None:
        """Handle one read from the TUN device; results are added to `batch`."""
        self._counters[count.TUN_READS] += 1
        self._now = now_us / 1e6
        self._handle(octets, now_us)

    def resume(self, now_us: int) -> None:
        """Send what waited and may go now, after changes; drop what waited too long."""
        self._now = now_us / 1e6
        for key, octets in self.waiting.ripe():
            frame = segment.read(octets)
            flow = self._flow(frame) if frame else None
            if flow and flow.needs and flow.drop == count.OUT_NOSA:
                self.waiting.keep(key, flow.needs)
                continue
            for packet in self.waiting.take(key):
                self._handle(packet, now_us)
        self.waiting.expire(self._now)

    def _handle(self, octets: bytes, now_us: int) -> None:
        counters = self._counters
        frame = segment.read(octets)
        if frame is None:
            counters[count.TUN_SHORT] += 1
            return
        flow = self._flow(frame)
        self.used.ids.add(flow.policy)
        drop = flow.drop
        if drop < 0 and frame.is_fragment and not flow.takes_fragments:
            drop = count.FRAG_DROPPED
        if flow.needs and self.waiting.is_asking:
            self.waiting.needs.note(flow.needs, self._now)
            if drop == count.OUT_NOSA:
                self.waiting.put(flow_key(frame), flow.needs, octets, self._now)
                return
        if drop >= 0:
            counters[count.TUN_SEGMENTS] += 1
            counters[drop] += 1
        elif flow.layers:
            self._protect(frame, flow, now_us)
        else:
            self._clear(frame)

    def _flow(self, frame: Frame) -> Flow:
        self._counters[count.SPDCACHELOOKUP] += 1
        key = flow_key(frame)
        flow = self._flows.get(key)
        if flow is None:
            self._counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            flow = self._flows[key] = self._decide(frame.packet)
        return flow

    def _decide(self, packet: bytes) -> Flow:
        head = datagram.read(packet)
        if head is None:
            return Flow(drop=count.TUN_SHORT)
        src, dst = head.src, head.dst
        policy = self._policy or self._policies.match(src, dst, head.proto, *head.ports)
        if head.is_fragment and self._policies.is_vague(src, dst, head.proto, policy):
            return Flow(drop=count.FRAG_DROPPED)
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return Flow(drop=count.FOREIGN)  # steering does not send such: somebody else did
        if policy.is_hold:
            return Flow(drop=count.HOLD_DROPPED)
        if policy.type != PolicyType.IPSEC:
            return Flow(drop=count.OUT_POLVIO)
        flow = self._bundle(policy, src, dst)
        flow.policy = policy.id
        return flow

    def _bundle(self, policy: PolicySpec, src: bytes, dst: bytes) -> Flow:
        """An SA for each request, as far as there is one."""
        chosen: list[Layer] = []
        needs: list[Need] = []
        required: list[Need] = []
        for request in policy.requests:
            if request.proto in self._settings.disabled:
                return Flow(drop=count.OF_DISABLED[request.proto])
            is_tunnel = request.mode == Mode.TUNNEL
            if is_tunnel and (not request.src or not request.dst):
                return Flow(drop=count.OUT_INVAL)
            ends = (request.src or b"", request.dst or b"") if is_tunnel else (b"", b"")
            sa = self._sad.choose(request, *(ends if is_tunnel else (src, dst)))
            if sa is not None:
                chosen.append(Layer(sa, *ends))
            else:
                needs.append(need_of(policy, request, *(ends if is_tunnel else (src, dst))))
                if request.level == Level.USE:
                    continue
                required.append(needs[-1])
            src, dst = ends if is_tunnel else (src, dst)
        first = chosen[0].is_tunnel if chosen else policy.requests[0].mode == Mode.TUNNEL
        lacking = tuple(need for need in needs if can_be_met(need, self._is_local))
        if not required:
            return Flow(tuple(chosen), needs=lacking, takes_fragments=first)
        if not set(required) <= set(lacking):
            return Flow(drop=count.OUT_NOSA)
        return Flow(drop=count.OUT_NOSA, needs=lacking, takes_fragments=first)

    def _cut(self, frame: Frame, room: int) -> tuple[Sequence[Payload], _Cut]:
        """The payloads, and whether what becomes of them must be fragmented; none: counted."""
        counters = self._counters
        payloads: Sequence[Payload] | None = segment.cut(frame, room)
        how = _Cut.FITS
        if payloads is None:
            how = self._may_fragment(frame)
            if how is not _Cut.FITS:
                payloads = segment.cut(frame, ip.PACKET_MAX)
        if payloads is not None:
            counters[count.TUN_SEGMENTS] += len(payloads)
            if len(payloads) > 1:
                counters[count.SUPERPACKET_IN] += 1
            return payloads, how
        counters[count.TUN_SEGMENTS] += 1
        fits = len(frame.header) + room
        if how is not _Cut.FITS or not _ROOM_MIN <= fits < ip.PACKET_MAX:
            counters[count.OUT_INVAL] += 1
            return (), how
        self._answer(frame, fits)
        return (), how

    def _answer(self, frame: Frame, fits: int) -> None:
        self._counters[count.ICMP_TOOBIG_SENT] += 1
        self.batch.back.append(segment.PLAIN + icmp.too_big(frame.packet, fits))

    def _tell(self, flow: Flow, frame: Frame, payload: Payload, fits: int) -> None:
        """What fits, for the source of packets that are fragmented and would fit the bare link.

        Those for which its kernel allows no fragments are refused there from now on; larger ones
        are fragmented for the source anyway.
        """
        octets = len(frame.header) + len(payload)
        is_large = octets > self._link_mtu(ip6.dst(frame.packet))
        if is_large or flow.told_until - icmp.AGE_SECONDS <= self._now < flow.told_until:
            return
        flow.told_until = self._now + icmp.AGE_SECONDS
        self._answer(frame, fits)

    def _may_fragment(self, frame: Frame) -> _Cut:
        """Whether anybody but the sender may cut this packet, and where."""
        if frame.packet[0] >> 4 == 4:
            return _Cut.FITS if frame.header[6] & _DF else _Cut.ANYWHERE
        if len(frame.packet) <= ip6.MTU_MIN:
            return _Cut.OUTSIDE
        # IPv6 is cut by its source only (RFC 8200 4.5), which may be us, and once
        is_source = not frame.is_fragment and self._is_local(ip6.src(frame.packet))
        return _Cut.ANYWHERE if is_source else _Cut.FITS

    def _protect(self, frame: Frame, flow: Flow, now_us: int) -> None:
        header, chain = frame.header, flow.layers
        mtu = self._mtu(layers.destination(chain, frame.packet))
        rooms = layers.rooms(chain, header, mtu)
        payloads, how = self._cut(frame, rooms[0] - len(header))
        if not payloads:
            return
        if how is _Cut.ANYWHERE and header[0] >> 4 == 6:
            self._tell(flow, frame, payloads[0], rooms[0])
        stream = Stream(header, frame.proto, payloads)
        if how is not _Cut.FITS:  # only then can one be too long for any IP packet
            if _ends_together(chain, datagram.dst(frame.packet)):
                how = _Cut.OUTSIDE
            stream = self._holdable(stream, chain, how)
        for layer, room in zip(chain, rooms, strict=True):
            if layer.is_tunnel and stream.payloads:
                packets = segment.packets(*stream)
                if how is _Cut.ANYWHERE:
                    packets, how = self._sealer.fragments(packets, room), _Cut.FITS
                outer = tunnel.outer(packets[0], layer.src, layer.dst, knobs=layer.sa.knobs)
                if isinstance(outer, Drop):
                    self._counters[count.OF_DROP[outer]] += len(packets)
                    return
                stream = Stream(outer, tunnel.next_header(packets[0]), packets)
            stream = self._sealer.seal(layer, stream, now_us)
        if not stream.payloads:
            return
        self._counters[count.OUT_BUNDLESA] += (len(chain) - 1) * len(stream.payloads)
        packets = segment.packets(*stream)
        if how is not _Cut.FITS:
            packets = self._sealer.fragments(packets, mtu)
        if stream.header[0] >> 4 == 4:
            self.batch.sealed += packets
        else:
            self.batch.sealed6 += packets

    def _holdable(self, stream: Stream, chain: tuple[Layer, ...], how: _Cut) -> Stream:
        """Without what would not fit the longest packet that can be, once sealed."""
        if how is _Cut.ANYWHERE and any(layer.is_tunnel for layer in chain):
            return stream  # cut before it is sealed
        header = stream.header
        room = layers.rooms(chain, header, datagram.largest(header[0] >> 4))[0] - len(header)
        fitting = [payload for payload in stream.payloads if len(payload) <= room]
        drops = count.OF_AH_DROP if chain[0].sa.ah is not None else count.OF_DROP
        self._counters[drops[Drop.TOOBIG]] += len(stream.payloads) - len(fitting)
        return stream._replace(payloads=fitting)

    def _clear(self, frame: Frame) -> None:
        mtu = self._mtu(datagram.dst(frame.packet))
        payloads, how = self._cut(frame, mtu - len(frame.header))
        self._counters[count.CLEAR_OUT] += len(payloads)
        packets = segment.packets(frame.header, frame.proto, payloads)
        if how is not _Cut.FITS:
            packets = self._sealer.fragments(packets, mtu)
        if frame.packet[0] >> 4 == 4:
            self.batch.clear += packets
        else:
            self.batch.clear6 += packets

    # ---------------------------------------------------------------- the path

    def _mtu(self, dst: bytes) -> int:
        return max(self._paths.limit(dst, self._link_mtu(dst), self._now), _MTU_MIN)

    def icmp_error(self, kind: int, code: int, mtu: int, quoted: bytes, now_us: int) -> None:
        """Believe an ICMP error if it quotes a packet we sent; only the path MTU matters.

        Unreachable hosts and ports stay what they are, a moment's trouble: anybody on the path
        can claim them (RFC 4301 section 8.2, RFC 5927).
        """
        told = icmp.quoted(quoted)
        if told is None or (kind, code) != _TOO_BIG[len(told[0])]:
            self._counters[count.ICMP_IGNORED] += 1
            return
        src, dst, spi, seq = told
        ours = self._sad.has_sent((src, dst), spi, seq)
        if not ours or not _ROOM_MIN <= mtu < self._link_mtu(dst):
            self._counters[count.ICMP_IGNORED] += 1
            return
        self._paths.learn(dst, mtu, now_us / 1e6)
        self._counters[count.ICMP_ACCEPTED] += 1


def _ends_together(chain: tuple[Layer, ...], dst: bytes) -> bool:
    """Whether a tunnel around a transport mode layer ends where that does: nobody joins pieces."""
    first = next((number for number, layer in enumerate(chain) if layer.is_tunnel), 0)
    return first > 0 and chain[first].dst == dst


# type and code that tell of a path's MTU, by the octets of an address
_TOO_BIG = {4: (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED), 16: (icmp.PACKET_TOO_BIG, 0)}
