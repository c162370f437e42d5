"""The inbound pipeline: ESP packets from the raw socket become frames for the TUN device.

Sans-IO. RFC 4301 section 5.2, RFC 4303 section 3.4, transport mode. The kernel has reassembled
the packets (RFC 4303 3.4.1). The steps, in the order of the functions:

1. `process`: IP and ESP header; the SA by destination, protocol and SPI; the source must be its.
2. `_open`: window, ICV and decryption, and only then the window moves and the SA counts.
3. `_rebuild`: the IP header as it would be without ESP; what may not come out of an SA is dropped.
4. `_allowed`: the first matching policy must ask for exactly what the packet had.
5. `flush`: runs of TCP segments are joined, one write each.

A packet that opens under an SA without authenticator is only probably one: its protocol must be
one that a policy selects between these addresses, it is never joined with others, and nothing
here vouches for its checksum.
"""

from collections.abc import Callable, Iterable

from keyd.model import PolicySpec, SaSpec
from keyd.packet import counters as count
from keyd.packet import ip
from keyd.packet.classify import Classifier
from keyd.packet.coalesce import Coalescer, Frame
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa, peek
from keyd.packet.replay import Window
from pfkey.const import IPPROTO_ESP, UNSPEC_PROTO, Level, Mode, PolicyType

FLOWS_MAX = 8192
_REDIRECT = 5  # ICMP type
_NO_NEXT_HEADER = 59  # RFC 4303 2.6: a dummy packet
_INNER_PACKETS = (4, 41)  # what a tunnel carries
# protocols that are believed of an SA without authenticator and without a policy
_PLAUSIBLE = frozenset((1, 2, 6, 17, 33, 46, 47, 50, 51, 89, 103, 108, 112, 132, 136))


class InSa:
    """An inbound SA, its window and its numbers, which live in the state file.

    Args:
        part: EDGE (the highest authentic sequence number), PACKETS, OCTETS, FIRST_USE, LAST_USE.
        since: (packets, octets) counted before this SA's life, and when it began, in µs.
    """

    __slots__ = ("_max_octets", "_max_packets", "_part", "_since", "esp", "spec", "window")

    def __init__(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        self.spec = spec
        self.esp = EspSa(spec)
        self._part = part
        packets, octets, self._since = since
        # A worker that was restarted takes what is at the edge or below for seen. An SA that was
        # added again begins anew (RFC 4303 3.4.3), even under a key that was there before: the
        # peers that number from 1 after each load of their file would never get through.
        is_same_life = part[LAST_USE] >= self._since
        self.window = Window(spec.replay_packets, int(part[EDGE]) if is_same_life else 0)
        self._max_packets = packets + spec.hard_packets if spec.hard_packets else 0
        self._max_octets = octets + spec.hard_bytes if spec.hard_bytes else 0

    def is_used_up(self) -> bool:
        """Whether a hard limit is reached."""
        part = self._part
        return bool(
            (self._max_packets and part[PACKETS] >= self._max_packets)
            or (self._max_octets and part[OCTETS] >= self._max_octets)
        )

    def note(self, seq: int, octets: int, now_us: int) -> None:
        """An authentic packet: move the window, count it."""
        part = self._part
        self.window.mark(seq)
        part[EDGE] = self.window.edge
        part[PACKETS] += 1
        part[OCTETS] += octets
        if part[FIRST_USE] < self._since or not part[FIRST_USE]:
            part[FIRST_USE] = now_us
        part[LAST_USE] = now_us

    def keep_window(self, other: "InSa") -> None:
        """Go on with the window of an earlier object of the same SA."""
        if other.window.size == self.window.size:
            self.window = other.window


class Inbound:
    """The inbound half of the data path.

    Args:
        counters: u64s in the order of `keyd.packet.counters.ROWS`.
        is_local: whether a packed address is one of this host's own.
    """

    def __init__(self, counters: memoryview, is_local: Callable[[bytes], bool]) -> None:
        self._counters = counters
        self._is_local = is_local
        self._policies = Classifier()
        self._by_slot: dict[int, InSa] = {}
        self._by_spi: dict[bytes, InSa] = {}
        self._flows: dict[tuple[bytes, int], int] = {}
        self._believed: dict[int, frozenset[int]] = {}
        self._coalescer = Coalescer()

    # ---------------------------------------------------------------- databases

    def install(self, sa: InSa) -> None:
        """Put in an SA, or replace the one with its slot; the same key keeps its window."""
        spec = sa.spec
        before = self._by_slot.get(spec.slot)
        if before is not None and before.spec.spi == spec.spi and before.spec.dst == spec.dst:
            keys = (spec.auth_key, spec.encrypt_key, spec.auth, spec.encrypt)
            old = before.spec
            if keys == (old.auth_key, old.encrypt_key, old.auth, old.encrypt):
                sa.keep_window(before)
        self.remove(spec.slot)
        self._by_slot[spec.slot] = sa
        self._by_spi[_spi_key(spec)] = sa
        self._forget()

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        sa = self._by_slot.pop(slot, None)
        if sa is not None and self._by_spi.get(_spi_key(sa.spec)) is sa:
            del self._by_spi[_spi_key(sa.spec)]
        self._forget()

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the inbound policies."""
        self._policies.update(added, removed)
        self._forget()

    def _forget(self) -> None:
        self._flows.clear()
        self._believed.clear()

    # ---------------------------------------------------------------- the pipeline

    def process(self, packet: bytes, now_us: int) -> None:
        """Handle one packet; what comes of it waits for `flush`."""
        counters = self._counters
        counters[count.ESP_INPUT] += 1
        if not ip.well_formed(packet):
            counters[count.HDROPS] += 1
            return
        at = (packet[0] & 0x0F) * 4
        octets = memoryview(packet)[at : packet[2] << 8 | packet[3]]
        head = peek(octets)
        if head is None or packet[9] != IPPROTO_ESP or ip.is_fragment(packet):
            counters[count.HDROPS] += 1
            return
        sa = self._by_spi.get(packet[16:20] + octets[:4])
        if sa is None:
            counters[count.NOTDB] += 1
            return
        if sa.spec.src != packet[12:16]:
            counters[count.INVALID] += 1
            return
        drop = self._open(sa, packet[:at], octets, head[1], now_us)
        if drop >= 0:
            counters[drop] += 1

    def _open(self, sa: InSa, header: bytes, octets: memoryview, seq: int, now_us: int) -> int:
        """Steps 2 to 4; the counter of a drop, or -1."""
        if not sa.window.check(seq):
            return count.REPLAY
        if sa.is_used_up():
            return count.EXPIRED
        opened = sa.esp.open(octets)
        if isinstance(opened, Drop):
            return count.OF_DROP[opened]
        next_header, payload = opened
        inner = len(header) + len(payload)
        sa.note(seq, inner, now_us)
        self._counters[count.IBYTES] += inner
        if next_header == _NO_NEXT_HEADER:
            return -1
        return self._rebuild(sa, header, next_header, payload)

    def _rebuild(self, sa: InSa, header: bytes, next_header: int, payload: memoryview) -> int:
        if not sa.esp.has_authenticator and next_header not in self._believable(sa.spec):
            return count.BADKCR
        if next_header in _INNER_PACKETS:
            return count.INVALID  # a tunnel's packet under a transport SA
        packet = ip.rebuild(header, next_header, len(payload)) + payload
        flow = ip.flow_key(packet)
        drop = self._allowed(sa, packet, flow)
        if drop < 0:
            self._coalescer.add(packet, flow, sa.esp.has_authenticator)
        return drop

    def _believable(self, spec: SaSpec) -> frozenset[int]:
        """The protocols that may come out of an SA without authenticator."""
        known = self._believed.get(spec.slot)
        if known is None:
            known = self._policies.protocols(spec.src, spec.dst)
            if UNSPEC_PROTO in known or not known:
                known = _PLAUSIBLE
            self._believed[spec.slot] = known
        return known

    def _allowed(self, sa: InSa, packet: bytes, flow: bytes) -> int:
        """The counter of a refusal, or -1; remembered per flow and SA."""
        counters = self._counters
        counters[count.SPDCACHELOOKUP] += 1
        key = (flow, sa.spec.slot)
        verdict = self._flows.get(key)
        if verdict is None:
            counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            verdict = self._flows[key] = self._judge(sa.spec, packet)
        return verdict

    def _judge(self, spec: SaSpec, packet: bytes) -> int:
        src, dst, proto = ip.src(packet), ip.dst(packet), packet[9]
        ports = ip.ports(packet, ip.header_length(packet), proto)
        if _cannot_be_a_source(src) or self._is_local(src):
            return count.SPOOFED
        if proto == ip.ICMP and ports[0] == _REDIRECT:
            return count.ND_REFUSED
        policy = self._policies.match(src, dst, proto, *ports)
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return -1  # transport mode asks for no policy
        if policy.is_hold:
            return count.HOLD_DROPPED
        if policy.type != PolicyType.IPSEC:
            return count.IN_POLVIO
        return -1 if _as_asked(policy, (spec,)) else count.PDROPS

    def flush(self) -> list[tuple[int, Frame]]:
        """(segments in it, buffers for one writev) for each frame of this batch."""
        return self._coalescer.flush()


def _as_asked(policy: PolicySpec, layers: tuple[SaSpec, ...]) -> bool:
    """Whether the layers taken off, innermost first, are those of the policy and no others.

    A request of level `use` may be missing. An SA of mode ANY carried a transport packet here.
    """
    at = 0
    for request in policy.requests:
        layer = layers[at] if at < len(layers) else None
        if (
            layer is not None
            and layer.proto == request.proto
            and request.mode in (Mode.ANY, Mode.TRANSPORT)
            and request.reqid in (0, layer.reqid)
        ):
            at += 1
        elif request.level != Level.USE:
            return False
    return at == len(layers)


def _cannot_be_a_source(src: bytes) -> bool:
    """This network, loopback, link-local, multicast and above (RFC 6890)."""
    return src[0] in (0, 127) or src[0] >= 224 or src[:2] == b"\xa9\xfe"


def _spi_key(spec: SaSpec) -> bytes:
    return spec.dst + spec.spi.to_bytes(4, "big")
