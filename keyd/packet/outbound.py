"""The outbound pipeline: what was read from the TUN device becomes sealed packets.

Sans-IO: clock, chance and what the system knows of addresses are handed in; results are collected
in `Batch`. RFC 4301 section 5.1. The steps, in the order of the functions:

1. `process`: read one frame, well formed or dropped.
   `_joined`: fragments wait for each other, unless a tunnel takes them as they are.
2. `_flow`: the flow cache, by header octets; emptied whenever policies or SAs change.
3. `_decide`: the first matching policy (of an ICMP error, if need be the one for an answer to
   what it quotes), then an SA for each of its requests; a flow that lacks one waits for it
   (`keyd.packet.waiting`) while somebody is asked, and `resume`s.
4. `_watch`: TCP that does not get on, and flows whose packets are said not to arrive.
5. `keyd.packet.protect`: cut, seal, fragment.

Every packet ends in one counter; a super-packet that is dropped before it is cut counts as one.
"""

from collections.abc import Iterable

from keyd.model import Need, PolicySpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, icmp, segment
from keyd.packet.association import OutSa
from keyd.packet.classify import Classifier
from keyd.packet.datagram import Head
from keyd.packet.flow import Flow, flow_key
from keyd.packet.icmp import Verdict
from keyd.packet.ipcomp import Patience
from keyd.packet.layers import Chain, Layer
from keyd.packet.protect import ROOM_MIN
from keyd.packet.segment import Frame
from keyd.packet.tallies import Tally
from keyd.packet.troubles import next_rung
from keyd.packet.trunk import Trunk
from keyd.packet.waiting import Waiting, can_be_met, need_of
from pfkey.const import Level, Mode, PolicyType

FLOWS_MAX = 8192
_SMALL = 536  # octets of TCP that pass everywhere (RFC 9293 3.7.1)


class Outbound:
    """The outbound half of the data path.

    Args:
        trunk: what it shares with other pipelines.
        policy: what decides of every packet; None: those of `update_policies`.
    """

    def __init__(self, trunk: Trunk, policy: PolicySpec | None = None) -> None:
        self._trunk = trunk
        self._policy = policy
        self._counters = trunk.counters
        self._link_mtu = trunk.link_mtu
        self._is_local = trunk.is_local
        self._policies = Classifier()
        self._sad, self._paths, self._troubles = trunk.sad, trunk.paths, trunk.troubles
        self._flows: dict[bytes, Flow] = {}
        self.tallies = trunk.tallies
        self.waiting = Waiting(trunk.counters, trunk.tallies, trunk.room)
        self.batch = trunk.protector.batch
        self.follow(trunk.settings)
        trunk.pipelines.append(self)

    def branch(self, policy: PolicySpec) -> "Outbound":
        """One more pipeline over the same SAs, of whose packets this policy decides."""
        return Outbound(self._trunk, policy)

    def end(self) -> None:
        """Drop and count what waits; a branch that was made is no more."""
        self._trunk.pipelines.remove(self)
        self.waiting.tune(Settings())
        self._trunk.fragments.forget(self)

    # ---------------------------------------------------------------- databases

    def stir(self, src: bytes, dst: bytes) -> None:
        """There is another SA between these addresses."""
        self._flows.clear()
        self.waiting.stir((src, dst))

    def forget_flows(self) -> None:
        """There is one less."""
        self._flows.clear()

    def follow(self, settings: Settings) -> None:
        """Settings are others."""
        self.waiting.tune(settings)
        self._flows.clear()

    def install(self, sa: OutSa) -> None:
        """Put an SA into all pipelines, or replace the one with its slot."""
        self._trunk.install(sa)

    def remove(self, slot: int) -> None:
        """Take the SA with this slot out of all pipelines, if it is there."""
        self._trunk.remove(slot)

    def tune(self, settings: Settings) -> None:
        """Have all pipelines follow a change of what the engine says beside SAs and policies."""
        self._trunk.tune(settings)

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the outbound policies."""
        self._policies.update(added, removed)
        self._flows.clear()
        self.waiting.stir_all()

    # ---------------------------------------------------------------- the pipeline

    def process(self, octets: bytes, now_us: int) -> None:
        """Handle one read from the TUN device; results are added to `batch`."""
        self._counters[count.TUN_READS] += 1
        self._trunk.now = now_us / 1e6
        self._handle(octets, now_us)

    def resume(self, now_us: int) -> None:
        """Send what waited and may go now, after changes; drop what waited too long."""
        self._trunk.now = now_us / 1e6
        for key, octets in self.waiting.ripe():
            frame = segment.read(octets)
            flow = self._flow(frame) if frame else None
            if flow and flow.needs and flow.drop == count.OUT_NOSA:
                self.waiting.keep(key, flow.needs)
                continue
            for packet in self.waiting.take(key):
                self._handle(packet, now_us)
        self.waiting.expire(self._trunk.now)

    def _handle(self, octets: bytes, now_us: int) -> None:
        counters = self._counters
        frame = segment.read(octets)
        if frame is None:
            counters[count.TUN_SHORT] += 1
            return
        flow = self._flow(frame)
        if flow.joins and frame.is_fragment:
            frame = self._joined(frame)
            if frame is None:
                return
            octets = segment.PLAIN + frame.packet
            flow = self._flow(frame)
        self.tallies.busy.add(flow.tally)
        if flow.needs and self.waiting.is_asking:
            self.waiting.needs.note(flow.needs, self._trunk.now)
            if flow.drop == count.OUT_NOSA:
                self.waiting.put(flow_key(frame), flow.needs, octets, self._trunk.now)
                return
        if flow.drop >= 0:
            counters[count.TUN_SEGMENTS] += 1
            counters[flow.drop] += 1
            flow.tally.drop(flow.drop)
        elif flow.chain.layers:
            if self._troubles or frame.proto == segment.TCP:
                self._watch(frame, flow)
            self._trunk.protector.protect(frame, flow, now_us)
        else:
            self._trunk.protector.clear(frame, flow)

    def _joined(self, frame: Frame) -> Frame | None:
        """The whole datagram, once all its fragments are there."""
        counters = self._counters
        counters[count.TUN_SEGMENTS] += 1
        counters[count.FRAG_HELD] += 1
        head = datagram.read(frame.packet)
        packet = (
            self._trunk.fragments.add(frame.packet, head, self, self._trunk.now) if head else None
        )
        if packet is None:
            return None
        counters[count.FRAG_JOINED] += 1
        whole = segment.read(segment.PLAIN + packet)
        if whole is None:
            counters[count.TUN_SHORT] += 1
            return None
        whole.was_cut = True
        return whole

    def _flow(self, frame: Frame) -> Flow:
        self._counters[count.SPDCACHELOOKUP] += 1
        key = flow_key(frame)
        flow = self._flows.get(key)
        if flow is None:
            self._counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            flow = self._decide(frame.packet)
            if flow.is_lasting:
                self._flows[key] = flow
        return flow

    def _decide(self, packet: bytes) -> Flow:
        head = datagram.read(packet)
        if head is None:
            return Flow(self.tallies.nobody, drop=count.TUN_SHORT)
        src, dst = head.src, head.dst
        ports = (0, 0) if head.is_fragment else head.ports
        policy = self._policy or self._policies.match(src, dst, head.proto, *ports)
        if head.is_fragment and self._policies.is_vague(src, dst, head.proto, policy):
            # only the whole shows which policy is meant
            return Flow(self.tallies.nobody, joins=True)
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            if icmp.is_error(head):
                return self._of_error(packet, head)
            # steering does not send such: somebody else did
            return Flow(self.tallies.nobody, drop=count.FOREIGN)
        return self._under(policy, src, dst)

    def _of_error(self, packet: bytes, head: Head) -> Flow:
        """An ICMP error goes where what it quotes is answered (RFC 4301 section 6.2).

        In transport mode only the host that was meant can say so; what a policy does not protect
        leaves as it is, for steering looks at addresses alone. Each error is looked at for itself.
        """
        told = icmp.answered(packet, head)
        policy = self._policies.protecting(*told) if told and self._policy is None else None
        flow = Flow(self.tallies.nobody)
        if policy is not None and told is not None:
            is_tunnel = bool(policy.requests) and policy.requests[0].mode == Mode.TUNNEL
            if is_tunnel or (told.src, told.dst) == (head.src, head.dst):
                flow = self._under(policy, head.src, head.dst)
            else:
                flow = Flow(self.tallies.of(policy.id), drop=count.OUT_NOSA)
        flow.is_lasting = False
        return flow

    def _under(self, policy: PolicySpec, src: bytes, dst: bytes) -> Flow:
        """What a policy that does not let pass has to say."""
        tally = self.tallies.of(policy.id)
        if policy.is_hold:
            return Flow(tally, drop=count.HOLD_DROPPED)
        if policy.type != PolicyType.IPSEC:
            return Flow(tally, drop=count.OUT_POLVIO)
        return self._bundle(tally, policy, src, dst)

    def _bundle(self, tally: Tally, policy: PolicySpec, src: bytes, dst: bytes) -> Flow:
        """An SA for each request, as far as there is one."""
        chosen: list[Layer] = []
        needs: list[Need] = []
        required: list[Need] = []
        for request in policy.requests:
            if request.proto in self._trunk.settings.disabled:
                return Flow(tally, drop=count.OF_DISABLED[request.proto])
            is_tunnel = request.mode == Mode.TUNNEL
            if is_tunnel and (not request.src or not request.dst):
                return Flow(tally, drop=count.OUT_INVAL)
            ends = (request.src or b"", request.dst or b"") if is_tunnel else (b"", b"")
            sa = self._sad.choose(request, *(ends if is_tunnel else (src, dst)))
            if sa is not None:
                chosen.append(Layer(sa, *ends, Patience() if sa.comp is not None else None))
            else:
                needs.append(need_of(policy, request, *(ends if is_tunnel else (src, dst))))
                if request.level == Level.USE:
                    continue
                required.append(needs[-1])
            src, dst = ends if is_tunnel else (src, dst)
        is_tunnel = chosen[0].is_tunnel if chosen else policy.requests[0].mode == Mode.TUNNEL
        lacking = tuple(need for need in needs if can_be_met(need, self._is_local))
        if not required:
            return Flow(tally, chosen, needs=lacking, joins=not is_tunnel)
        if not set(required) <= set(lacking):
            return Flow(tally, drop=count.OUT_NOSA)
        return Flow(tally, drop=count.OUT_NOSA, needs=lacking, joins=not is_tunnel)

    @property
    def has_mappings(self) -> bool:
        """Whether there is anything for `keepalives` to do, now or later."""
        return bool(self._trunk.keepalives)

    def keepalives(self, now_us: int) -> None:
        """Add what keeps NATs' mappings alive to `batch`; to be called every few seconds."""
        for packet in self._trunk.keepalives.due(now_us):
            self._counters[count.NATT_KEEPALIVES_OUT] += 1
            (self.batch.sealed if packet[0] >> 4 == 4 else self.batch.sealed6).append(packet)

    # ---------------------------------------------------------------- the path

    def _watch(self, frame: Frame, flow: Flow) -> None:
        if (
            len(frame.transport) > _SMALL
            and frame.proto == segment.TCP
            and not frame.is_fragment
            and flow.progress.is_stuck(frame)
        ):
            self._suspect(frame, flow.chain)
        if not self._troubles or segment.may_open_connection(frame):
            return  # an error would end what only begins
        for layer in flow.chain.layers:
            since = self._troubles.since(layer.sa.spec.slot, self._trunk.now)
            if since > flow.told_trouble and icmp.may_answer(frame.packet):
                flow.told_trouble = since
                self._counters[count.ICMP_RELAYED] += 1
                self.batch.back.append(segment.PLAIN + icmp.unreachable(frame.packet))

    def _suspect(self, frame: Frame, chain: Chain) -> None:
        """A black hole: try smaller segments on this path, if these were large."""
        dst = chain.dst or datagram.dst(frame.packet)
        mtu = self._trunk.mtu(dst)
        rung = next_rung(4 if len(dst) == 4 else 6, mtu)
        largest = chain.rooms(frame.header, rung)[0] - len(frame.header) if rung else 0
        sent = min(len(frame.transport), frame.gso_size or len(frame.transport))
        if rung and sent > largest:
            self._paths.learn(dst, rung, self._trunk.now)
            self._counters[count.BLACK_HOLES] += 1

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
            sa = self._sad.sender((src, dst), spi, seq)
            if sa is not None and says is Verdict.LOST:
                self._troubles.learn(sa.spec.slot, now)
                counters[count.ICMP_ACCEPTED] += 1
                return
            if sa and says is Verdict.TOO_BIG and ROOM_MIN <= mtu < self._link_mtu(dst):
                self._paths.learn(dst, mtu, now)
                counters[count.ICMP_ACCEPTED] += 1
                return
        counters[count.ICMP_IGNORED] += 1
