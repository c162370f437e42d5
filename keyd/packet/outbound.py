"""The outbound pipeline: what was read from the TUN device becomes sealed packets.

Sans-IO: clock, chance and what the system knows of addresses are handed in; results are collected
in `Batch`. RFC 4301 section 5.1. The steps, in the order of the functions:

1. `process`: read one frame, well formed or dropped.
   `_joined`: fragments wait for each other, unless a tunnel takes them as they are.
2. `_flow`: the flow cache, by header octets; emptied whenever policies or SAs change.
3. `_decide`: the first matching policy, then an SA for each of its requests.
4. `_watch`: TCP that does not get on, and flows whose packets are said not to arrive.
5. `keyd.packet.protect`: cut, seal, fragment.

Every packet ends in one counter; a super-packet that is dropped before it is cut counts as one.
"""

from collections.abc import Callable, Iterable, Sequence

from keyd.model import PolicySpec, Request
from keyd.packet import counters as count
from keyd.packet import datagram, icmp, segment
from keyd.packet.association import OutSa
from keyd.packet.classify import Classifier
from keyd.packet.fragments import Fragments
from keyd.packet.icmp import PathMtu, Verdict
from keyd.packet.ipcomp import Patience
from keyd.packet.keepalives import Keepalives
from keyd.packet.layers import Chain, Layer
from keyd.packet.protect import ROOM_MIN, Protector
from keyd.packet.segment import Frame
from keyd.packet.troubles import Progress, Troubles, next_rung
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Level, Mode, PolicyType

FLOWS_MAX = 8192
_SMALL = 536  # octets of TCP that pass everywhere (RFC 9293 3.7.1)
_MTU_MIN = 128  # what is cut for less would be mostly header
_PROTOS = frozenset((IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP))


class _Flow:
    """What to do with a flow's packets: drop and count, seal, or, without layers, let out.

    `joins`: its fragments are put together first.
    """

    __slots__ = ("chain", "drop", "joins", "progress", "told")

    def __init__(
        self, layers: Sequence[Layer] = (), drop: int = -1, *, joins: bool = False
    ) -> None:
        self.chain = Chain(layers)
        self.drop = drop
        self.joins = joins
        self.progress = Progress()
        self.told = 0.0  # which trouble its sender was told of, by its time


class Outbound:
    """The outbound half of the data path.

    Args:
        counters: u64s in the order of `keyd.packet.counters.ROWS`.
        link_mtu: the MTU of the link towards a packed destination address.
        random: so many unforeseeable octets.
        is_local: whether a packed address is one of this host's own.
    """

    def __init__(
        self,
        counters: memoryview,
        link_mtu: Callable[[bytes], int],
        random: Callable[[int], bytes],
        is_local: Callable[[bytes], bool],
    ) -> None:
        self._counters = counters
        self._link_mtu = link_mtu
        self._policies = Classifier()
        self._by_slot: dict[int, OutSa] = {}
        self._by_pair: dict[tuple[bytes, bytes], list[OutSa]] = {}
        self._flows: dict[bytes, _Flow] = {}
        self._paths = PathMtu()
        self._keepalives = Keepalives()
        self._fragments = Fragments(self._give_up)
        self._troubles = Troubles()
        self._now = 0.0
        self._protector = Protector(counters, self._mtu, random, is_local)
        self.batch = self._protector.batch

    # ---------------------------------------------------------------- databases

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self.remove(sa.spec.slot)
        self._by_slot[sa.spec.slot] = sa
        self._keepalives.insert(sa)
        pair = self._by_pair.setdefault((sa.spec.src, sa.spec.dst), [])
        pair.append(sa)
        pair.sort(key=lambda one: (one.spec.is_dying, -one.spec.order))
        self._flows.clear()

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        sa = self._by_slot.pop(slot, None)
        self._keepalives.remove(slot)
        self._troubles.forget(slot)
        if sa is not None:
            pair = (sa.spec.src, sa.spec.dst)
            self._by_pair[pair].remove(sa)
            if not self._by_pair[pair]:
                del self._by_pair[pair]
        self._flows.clear()

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the outbound policies."""
        self._policies.update(added, removed)
        self._flows.clear()

    # ---------------------------------------------------------------- the pipeline

    def process(self, octets: bytes, now_us: int) -> None:
        """Handle one read from the TUN device; results are added to `batch`."""
        counters = self._counters
        counters[count.TUN_READS] += 1
        self._now = now_us / 1e6
        frame = segment.read(octets)
        if frame is None:
            counters[count.TUN_SHORT] += 1
            return
        flow = self._flow(frame)
        if flow.joins and frame.is_fragment:
            frame = self._joined(frame)
            if frame is None:
                return
            flow = self._flow(frame)
        if flow.drop >= 0:
            counters[count.TUN_SEGMENTS] += 1
            counters[flow.drop] += 1
        elif flow.chain.layers:
            if self._troubles or frame.proto == segment.TCP:
                self._watch(frame, flow)
            self._protector.protect(frame, flow.chain, now_us)
        else:
            self._protector.clear(frame)

    def _joined(self, frame: Frame) -> Frame | None:
        """The whole datagram, once all its fragments are there."""
        counters = self._counters
        counters[count.TUN_SEGMENTS] += 1
        counters[count.FRAG_HELD] += 1
        head = datagram.read(frame.packet)
        packet = self._fragments.add(frame.packet, head, (), self._now) if head else None
        if packet is None:
            return None
        counters[count.FRAG_JOINED] += 1
        whole = segment.read(segment.PLAIN + packet)
        if whole is None:
            counters[count.TUN_SHORT] += 1
            return None
        whole.was_cut = True
        return whole

    def _give_up(self, fragments: int) -> None:
        self._counters[count.FRAG_DROPPED] += fragments

    def _flow(self, frame: Frame) -> _Flow:
        self._counters[count.SPDCACHELOOKUP] += 1
        key = datagram.flow_key(frame.packet)
        if frame.is_fragment:  # a later one shows no ports, which is not the same as port 0
            key += b"f"
        flow = self._flows.get(key)
        if flow is None:
            self._counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            flow = self._flows[key] = self._decide(frame.packet)
        return flow

    def _decide(self, packet: bytes) -> _Flow:
        head = datagram.read(packet)
        if head is None:
            return _Flow(drop=count.TUN_SHORT)
        src, dst = head.src, head.dst
        ports = (0, 0) if head.is_fragment else head.ports
        policy = self._policies.match(src, dst, head.proto, *ports)
        if head.is_fragment and self._policies.is_vague(src, dst, head.proto, policy):
            return _Flow(joins=True)  # only the whole shows which policy is meant
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return _Flow(drop=count.FOREIGN)  # steering does not send such: somebody else did
        if policy.is_hold:
            return _Flow(drop=count.HOLD_DROPPED)
        if policy.type != PolicyType.IPSEC:
            return _Flow(drop=count.OUT_POLVIO)
        chosen: list[Layer] = []
        for request in policy.requests:
            is_tunnel = request.mode == Mode.TUNNEL
            if is_tunnel and (not request.src or not request.dst):
                return _Flow(drop=count.OUT_INVAL)
            ends = (request.src or b"", request.dst or b"") if is_tunnel else (b"", b"")
            sa = self._choose(request, *(ends if is_tunnel else (src, dst)))
            if sa is not None:
                chosen.append(Layer(sa, *ends, Patience() if sa.comp is not None else None))
                src, dst = ends if is_tunnel else (src, dst)
            elif request.level != Level.USE:
                return _Flow(drop=count.OUT_NOSA)
        is_tunnel = chosen[0].is_tunnel if chosen else policy.requests[0].mode == Mode.TUNNEL
        return _Flow(chosen, joins=not is_tunnel)

    def _choose(self, request: Request, src: bytes, dst: bytes) -> OutSa | None:
        """The newest SA that serves a request; one past its soft limit only for want of others."""
        if request.proto not in _PROTOS or request.mode == Mode.BEET:
            return None
        mode = request.mode or Mode.TRANSPORT
        for sa in self._by_pair.get((src, dst), ()):
            spec = sa.spec
            if (
                spec.proto == request.proto
                and spec.mode in (Mode.ANY, mode)
                and request.reqid in (0, spec.reqid)
            ):
                return sa
        return None

    def keepalives(self, now_us: int) -> None:
        """Add what keeps NATs' mappings alive to `batch`; to be called every few seconds."""
        for packet in self._keepalives.due(now_us):
            self._counters[count.NATT_KEEPALIVES_OUT] += 1
            (self.batch.sealed if packet[0] >> 4 == 4 else self.batch.sealed6).append(packet)

    # ---------------------------------------------------------------- the path

    def _watch(self, frame: Frame, flow: _Flow) -> None:
        if (
            len(frame.transport) > _SMALL
            and frame.proto == segment.TCP
            and not frame.is_fragment
            and flow.progress.is_stuck(frame)
        ):
            self._suspect(frame, flow.chain)
        if not self._troubles or segment.opens_connection(frame):
            return  # an error would end what only begins
        for layer in flow.chain.layers:
            since = self._troubles.since(layer.sa.spec.slot, self._now)
            if since > flow.told and icmp.may_answer(frame.packet):
                flow.told = since
                self._counters[count.ICMP_RELAYED] += 1
                self.batch.back.append(segment.PLAIN + icmp.unreachable(frame.packet))

    def _suspect(self, frame: Frame, chain: Chain) -> None:
        """A black hole: try smaller segments on this path, if these were large."""
        dst = chain.dst or datagram.dst(frame.packet)
        mtu = self._mtu(dst)
        rung = next_rung(4 if len(dst) == 4 else 6, mtu)
        largest = chain.rooms(frame.header, rung)[0] - len(frame.header) if rung else 0
        sent = min(len(frame.transport), frame.gso_size or len(frame.transport))
        if rung and sent > largest:
            self._paths.learn(dst, rung, self._now)
            self._counters[count.BLACK_HOLES] += 1

    def _mtu(self, dst: bytes) -> int:
        return max(self._paths.limit(dst, self._link_mtu(dst), self._now), _MTU_MIN)

    def icmp_error(self, kind: int, code: int, mtu: int, quoted: bytes, now_us: int) -> None:
        """Believe an ICMP error if it quotes a packet we sent.

        Unreachable hosts, ports and the like stay what they are, a moment's trouble: anybody on
        the path can claim them (RFC 4301 section 8.2, RFC 5927).
        """
        counters, now = self._counters, now_us / 1e6
        told = icmp.quoted(quoted)
        if told is not None:
            src, dst, spi, seq = told
            says = icmp.verdict(4 if len(dst) == 4 else 6, kind, code)
            for sa in self._by_pair.get((src, dst), ()):
                if sa.spec.spi != spi or not sa.has_sent(seq):
                    continue
                if says is Verdict.LOST:
                    self._troubles.learn(sa.spec.slot, now)
                elif says is Verdict.TOO_BIG and ROOM_MIN <= mtu < self._link_mtu(dst):
                    self._paths.learn(dst, mtu, now)
                else:
                    break
                counters[count.ICMP_ACCEPTED] += 1
                return
        counters[count.ICMP_IGNORED] += 1
