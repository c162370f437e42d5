"""The outbound pipeline: what was read from the TUN device becomes sealed packets.

Sans-IO: clock, chance and the link's MTU are handed in; results are collected in `Batch`. RFC 4301
section 5.1, transport mode. The steps, in the order of the functions:

1. `process`: read one frame, well formed or dropped; fragments are not for transport mode.
2. `_flow`: the flow cache, by header octets; emptied whenever policies or SAs change.
3. `_decide`: the first matching policy, then an SA for each of its requests.
4. `_cut`: into packets that fit the path after sealing; what may not be cut is answered by ICMP.
5. `_seal`: take sequence numbers, seal all at once, and put IP headers before them.
6. `_clear`: what `use` lets out without an SA.

Every packet ends in one counter; a super-packet that is dropped before it is cut counts as one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import counters as count
from keyd.packet import icmp, ip, segment
from keyd.packet.classify import Classifier
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS
from keyd.packet.esp import SEQ_MAX, EspSa
from keyd.packet.icmp import PathMtu
from keyd.packet.segment import Frame
from pfkey.const import IPPROTO_ESP, UNSPEC_PROTO, Level, Mode, PolicyType

FLOWS_MAX = 8192
_DF = 0x40
_ROOM_MIN = 68  # the least MTU of IPv4 (RFC 791)
_MTU_MIN = 128  # what is cut for less would be mostly header


@dataclass(slots=True)
class Batch:
    """What is to be written, in this order."""

    sealed: list[bytes] = field(default_factory=list)  # IP packets for the ESP socket
    later: int = 0  # how many of those are fragments after the first: no packets of their own
    clear: list[bytes] = field(default_factory=list)  # IP packets for the clear socket
    back: list[bytes] = field(default_factory=list)  # frames for the TUN device


class OutSa:
    """An outbound SA and its numbers, which live in the state file.

    Args:
        part: EDGE (next unused sequence number), PACKETS, OCTETS, FIRST_USE, LAST_USE.
        since: (packets, octets) counted before this SA's life, and when it began, in µs.
    """

    __slots__ = ("_max_octets", "_max_packets", "_part", "_since", "esp", "spec")

    def __init__(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        self.spec = spec
        self.esp = EspSa(spec)
        self._part = part
        packets, octets, self._since = since
        self._max_packets = packets + spec.hard_packets if spec.hard_packets else 0
        self._max_octets = octets + spec.hard_bytes if spec.hard_bytes else 0

    @property
    def next_seq(self) -> int:
        """The next unused sequence number."""
        return int(self._part[EDGE])

    def within_limits(self, octets: Sequence[int]) -> int:
        """How many packets of these sizes may still pass: the one that reaches a limit is last."""
        if not (self._max_packets or self._max_octets):
            return len(octets)
        packets, sent = self._part[PACKETS], self._part[OCTETS]
        for index, size in enumerate(octets):
            if self._max_packets and packets + index >= self._max_packets:
                return index
            if self._max_octets and sent >= self._max_octets:
                return index
            sent += size
        return len(octets)

    def take(self, packets: int, octets: int, now_us: int) -> int:
        """The first of `packets` consecutive sequence numbers; 0 when so many are not left.

        They count as used from here on, whatever becomes of the packets and of this process.
        """
        part = self._part
        first = int(part[EDGE])
        if first + packets - 1 > SEQ_MAX:
            return 0
        part[EDGE] = first + packets
        part[PACKETS] += packets
        part[OCTETS] += octets
        if part[FIRST_USE] < self._since or not part[FIRST_USE]:
            part[FIRST_USE] = now_us
        part[LAST_USE] = now_us
        return first


class _Flow:
    """What to do with a flow's packets: drop and count, seal with `sa`, or let out in clear."""

    __slots__ = ("drop", "sa")

    def __init__(self, sa: OutSa | None = None, drop: int = -1) -> None:
        self.sa = sa
        self.drop = drop


class Outbound:
    """The outbound half of the data path.

    Args:
        counters: u64s in the order of `keyd.packet.counters.ROWS`.
        link_mtu: the MTU of the link towards a packed destination address.
        random: so many unforeseeable octets.
    """

    def __init__(
        self,
        counters: memoryview,
        link_mtu: Callable[[bytes], int],
        random: Callable[[int], bytes],
    ) -> None:
        self._counters = counters
        self._link_mtu = link_mtu
        self._random = random
        self._policies = Classifier()
        self._by_slot: dict[int, OutSa] = {}
        self._by_pair: dict[tuple[bytes, bytes], list[OutSa]] = {}
        self._flows: dict[bytes, _Flow] = {}
        self._paths = PathMtu()
        self._now = 0.0
        self.batch = Batch()

    # ---------------------------------------------------------------- databases

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self.remove(sa.spec.slot)
        self._by_slot[sa.spec.slot] = sa
        pair = self._by_pair.setdefault((sa.spec.src, sa.spec.dst), [])
        pair.append(sa)
        pair.sort(key=lambda one: (one.spec.is_dying, -one.spec.order))
        self._flows.clear()

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        sa = self._by_slot.pop(slot, None)
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
            # IPv6 is not protected here yet, and so not steered here
            is_ipv6 = octets[segment.VNET_OCTETS : segment.VNET_OCTETS + 1] >= b"\x60"
            counters[count.FOREIGN if is_ipv6 else count.TUN_SHORT] += 1
            return
        packet = frame.packet
        if ip.is_fragment(packet):
            counters[count.TUN_SEGMENTS] += 1
            selected = self._policies.protocols(ip.src(packet), ip.dst(packet))
            could = UNSPEC_PROTO in selected or packet[9] in selected
            counters[count.FRAG_DROPPED if could else count.FOREIGN] += 1
            return
        flow = self._flow(packet)
        if flow.drop >= 0:
            counters[count.TUN_SEGMENTS] += 1
            counters[flow.drop] += 1
        elif flow.sa is None:
            self._clear(frame)
        else:
            self._seal(frame, flow.sa, now_us)

    def _flow(self, packet: bytes) -> _Flow:
        self._counters[count.SPDCACHELOOKUP] += 1
        key = ip.flow_key(packet)
        flow = self._flows.get(key)
        if flow is None:
            self._counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            flow = self._flows[key] = self._decide(packet)
        return flow

    def _decide(self, packet: bytes) -> _Flow:
        src, dst, proto = ip.src(packet), ip.dst(packet), packet[9]
        ports = ip.ports(packet, ip.header_length(packet), proto)
        policy = self._policies.match(src, dst, proto, *ports)
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return _Flow(drop=count.FOREIGN)  # steering does not send such: somebody else did
        if policy.is_hold:
            return _Flow(drop=count.HOLD_DROPPED)
        if policy.type != PolicyType.IPSEC:
            return _Flow(drop=count.OUT_POLVIO)
        chosen: list[OutSa] = []
        for request in policy.requests:
            sa = self._choose(request, src, dst)
            if sa is not None:
                chosen.append(sa)
            elif request.level != Level.USE:
                return _Flow(drop=count.OUT_NOSA)
        if len(chosen) > 1:  # the engine refuses bundles; nothing may leave half protected
            return _Flow(drop=count.OUT_INVAL)
        return _Flow(chosen[0] if chosen else None)

    def _choose(self, request: Request, src: bytes, dst: bytes) -> OutSa | None:
        """The newest SA that serves a request; one past its soft limit only for want of others."""
        if request.proto != IPPROTO_ESP or request.mode not in (Mode.ANY, Mode.TRANSPORT):
            return None
        for sa in self._by_pair.get((src, dst), ()):
            spec = sa.spec
            if (
                spec.proto == request.proto
                and spec.mode in (Mode.ANY, Mode.TRANSPORT)
                and request.reqid in (0, spec.reqid)
            ):
                return sa
        return None

    def _cut(self, frame: Frame, room: int) -> tuple[Sequence[bytes | bytearray], bool]:
        """The payloads, and whether what becomes of them must be fragmented; none: counted."""
        counters = self._counters
        payloads = segment.cut(frame, room)
        must_fragment = payloads is None and not frame.header[6] & _DF
        if must_fragment:
            payloads = segment.cut(frame, ip.PACKET_MAX)
        if payloads is not None:
            counters[count.TUN_SEGMENTS] += len(payloads)
            if len(payloads) > 1:
                counters[count.SUPERPACKET_IN] += 1
            return payloads, must_fragment
        counters[count.TUN_SEGMENTS] += 1
        fits = len(frame.header) + room
        if must_fragment or not _ROOM_MIN <= fits < ip.PACKET_MAX:
            counters[count.OUT_INVAL] += 1
            return (), False
        counters[count.ICMP_TOOBIG_SENT] += 1
        answer = icmp.fragmentation_needed(frame.packet, fits)
        self.batch.back.append(segment.PLAIN + answer)
        return (), False

    def _seal(self, frame: Frame, sa: OutSa, now_us: int) -> None:
        counters, esp, header = self._counters, sa.esp, frame.header
        octets = len(header)
        mtu = self._mtu(frame)
        payloads, must_fragment = self._cut(frame, esp.max_payload(mtu - octets))
        if must_fragment:  # only then can one be too long for any IP packet
            room = ip.PACKET_MAX - octets
            fitting = [p for p in payloads if esp.sealed_size(len(p)) <= room]
            counters[count.TOOBIG] += len(payloads) - len(fitting)
            payloads = fitting
        sizes = [octets + len(payload) for payload in payloads]
        passing = sa.within_limits(sizes)
        if passing < len(payloads):
            counters[count.EXPIRED] += len(payloads) - passing
            payloads, sizes = payloads[:passing], sizes[:passing]
        if not payloads:
            return
        total = sum(sizes)
        first = sa.take(len(payloads), total, now_us)
        if not first:
            counters[count.WRAP] += len(payloads)
            return
        ivs = self._random(esp.iv_octets * len(payloads))
        sealed = esp.seal_many(first, payloads, frame.packet[9], ivs)
        counters[count.OBYTES] += total
        packets = segment.packets(header, IPPROTO_ESP, sealed)
        if must_fragment:
            pieces = self._fragments(packets, mtu)
            self.batch.later += len(pieces) - len(packets)
            packets = pieces
        self.batch.sealed += packets

    def _clear(self, frame: Frame) -> None:
        mtu = self._mtu(frame)
        payloads, must_fragment = self._cut(frame, mtu - len(frame.header))
        self._counters[count.CLEAR_OUT] += len(payloads)
        packets = segment.packets(frame.header, frame.packet[9], payloads)
        self.batch.clear += self._fragments(packets, mtu) if must_fragment else packets

    def _fragments(self, packets: list[bytes], mtu: int) -> list[bytes]:
        pieces = []
        for packet in packets:
            if not ip.identification(packet):  # pieces need a common one; the kernel fills zeros
                ident = 1 + int.from_bytes(self._random(2), "big") % 0xFFFF
                octets = ip.header_length(packet)
                head = ip.rebuild(packet[:octets], packet[9], len(packet) - octets, ident=ident)
                packet = head + packet[octets:]
            pieces += ip.fragment(packet, mtu)
        return pieces

    # ---------------------------------------------------------------- the path

    def _mtu(self, frame: Frame) -> int:
        dst = ip.dst(frame.packet)
        return max(self._paths.limit(dst, self._link_mtu(dst), self._now), _MTU_MIN)

    def icmp_error(self, kind: int, code: int, mtu: int, quoted: bytes, now_us: int) -> None:
        """Believe an ICMP error if it quotes a packet we sent; only the path MTU matters.

        Unreachable hosts and ports stay what they are, a moment's trouble: anybody on the path
        can claim them (RFC 4301 section 8.2, RFC 5927).
        """
        told = icmp.quoted_esp(quoted)
        if (kind, code) != (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED) or told is None:
            self._counters[count.ICMP_IGNORED] += 1
            return
        src, dst, spi, seq = told
        ours = any(
            sa.spec.spi == spi and 0 < seq < sa.next_seq for sa in self._by_pair.get((src, dst), ())
        )
        if not ours or not _ROOM_MIN <= mtu < self._link_mtu(dst):
            self._counters[count.ICMP_IGNORED] += 1
            return
        self._paths.learn(dst, mtu, now_us / 1e6)
        self._counters[count.ICMP_ACCEPTED] += 1
