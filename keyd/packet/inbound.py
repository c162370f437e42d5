"""The inbound pipeline: what comes from the raw sockets becomes frames for the TUN device.

Sans-IO. RFC 4301 section 5.2, RFC 4303 section 3.4, RFC 4302 section 3.4, RFC 3173. The kernel
has reassembled the packets (RFC 4303 3.4.1). The steps, in the order of the functions:

1. `process`: layer by layer, outermost first, until what is left is for somebody else.
2. `_peel`: one layer; the SA by destination, protocol and SPI; the source must be its.
3. `_open`: window, ICV and decryption, and only then the window moves and the SA counts.
4. `_uncover`: the IP packet without the layer: under its outer header, or out of a tunnel.
   `_unwrap`: the same of a packet in a packet that IPComp in tunnel mode did not shrink.
5. `_allowed`: the first matching policy must ask for exactly the layers that the packet had.
6. `flush`: runs of TCP segments are joined, one write each.

A packet that opens under SAs without authenticator is only probably one: its protocol must be
one that a policy selects between these addresses, it is never joined with others, and nothing
here vouches for its checksum.
"""

from collections.abc import Callable, Iterable

from keyd.model import PolicySpec, SaSpec
from keyd.packet import counters as count
from keyd.packet import datagram, tunnel
from keyd.packet.association import InSa, peek
from keyd.packet.classify import Classifier
from keyd.packet.coalesce import Coalescer, Frame
from keyd.packet.datagram import Head
from keyd.packet.drop import Drop
from keyd.packet.peeled import Comps, Peeled, as_asked, is_authentic
from pfkey.const import (
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    UNSPEC_PROTO,
    Dir,
    Mode,
    PolicyType,
)

FLOWS_MAX = 8192
LAYERS_MAX = 8
_NO_NEXT_HEADER = 59  # RFC 4303 2.6: a dummy packet
_INNER_PACKETS = (tunnel.IPV4, tunnel.IPV6)
_PROTOS = frozenset((IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP))
# protocols that are believed of an SA without authenticator and without a policy
_PLAUSIBLE = frozenset((1, 2, 6, 17, 33, 46, 47, 50, 51, 58, 89, 103, 108, 112, 132, 136))


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
        self._forwarded = Classifier()  # policies of direction fwd
        self._by_slot: dict[int, InSa] = {}
        self._by_spi: dict[tuple[bytes, int, int], InSa] = {}
        self._comps = Comps()
        self._flows: dict[tuple[bytes, ...], int] = {}
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
        self._by_spi[_spi_key(spec.dst, spec.proto, spec.spi)] = sa
        if sa.comp is not None:
            self._comps.insert(sa)
        self._forget()

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        sa = self._by_slot.pop(slot, None)
        if (
            sa is not None
            and self._by_spi.get(_spi_key(sa.spec.dst, sa.spec.proto, sa.spec.spi)) is sa
        ):
            del self._by_spi[_spi_key(sa.spec.dst, sa.spec.proto, sa.spec.spi)]
        self._comps.remove(slot)
        self._forget()

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the policies of directions in and fwd."""
        policies, gone = tuple(added), tuple(removed)
        for classifier, direction in ((self._policies, Dir.IN), (self._forwarded, Dir.FWD)):
            classifier.update((p for p in policies if p.dir == direction), gone)
        self._forget()

    def _forget(self) -> None:
        self._flows.clear()
        self._believed.clear()

    # ---------------------------------------------------------------- the pipeline

    def process(self, packet: bytes, now_us: int) -> None:
        """Handle one packet; what comes of it waits for `flush`."""
        layers: list[Peeled] = []
        drop = self._process(packet, layers, now_us)
        if drop >= 0:
            self._counters[drop] += 1

    def _process(self, packet: bytes, layers: list[Peeled], now_us: int) -> int:
        """The counter of a drop, or -1."""
        counters = self._counters
        head = datagram.read(packet)
        if head is not None and head.proto in _INNER_PACKETS:
            bare = self._comps.tunnel(head.src, head.dst)
            if bare is None or head.is_fragment:
                return -1  # somebody else's tunnel
            unwrapped = self._unwrap(bare, packet, head, layers)
            if isinstance(unwrapped, Drop):
                return bare.drops[unwrapped]
            packet, head = unwrapped, datagram.read(unwrapped)
            if head is None:
                return bare.drops[Drop.HDROPS]
            if not self._goes_on(head, layers):
                return self._deliver(packet, head, layers, bare.drops)
        while True:
            proto = head.proto if head is not None else datagram.proto(packet)
            counters[count.INPUTS.get(proto, count.ESP_INPUT)] += 1
            drops = count.DROPS.get(proto, count.OF_DROP)
            if head is None or proto not in _PROTOS or head.is_fragment:
                return drops[Drop.HDROPS]
            inner = self._peel(packet, head, layers, now_us)
            if not isinstance(inner, bytes):
                return drops[inner] if isinstance(inner, Drop) else inner
            packet = inner
            head = datagram.read(packet)
            if head is None:  # an extension header that does not fit came out of the layer
                return drops[Drop.HDROPS]
            if head.proto not in _PROTOS or not self._goes_on(head, layers):
                return self._deliver(packet, head, layers, drops)
            if len(layers) == LAYERS_MAX:
                return drops[Drop.INVALID]

    def _goes_on(self, head: Head, layers: list[Peeled]) -> bool:
        """Whether there is another layer for us; others' protected packets are on their way."""
        if head.proto not in _PROTOS or head.is_fragment:
            return False
        return not layers[-1].is_tunnel or self._is_local(head.dst)

    def _peel(
        self, packet: bytes, head: Head, layers: list[Peeled], now_us: int
    ) -> bytes | Drop | int:
        """The packet without its outermost layer; or the reason or counter of its drop."""
        octets = memoryview(packet)[head.at : head.total]
        numbers = peek(head.proto, octets)
        if numbers is None:
            return Drop.HDROPS
        spi, seq = numbers
        sa = self._by_spi.get(_spi_key(head.dst, head.proto, spi))
        if head.proto == IPPROTO_COMP and (sa is None or sa.spec.src != head.src):
            sa = self._comps.well_known(head.src, head.dst, spi) or sa
        if sa is None:
            return Drop.NOTDB
        if sa.spec.src != head.src:
            return Drop.INVALID
        number = seq if sa.is_plain else sa.number(seq)
        opened = self._open(sa, packet, head, number, now_us)
        if not isinstance(opened, tuple):
            return opened
        return self._uncover(sa, packet[: head.at], opened, layers)

    def _open(
        self, sa: InSa, packet: bytes, head: Head, seq: int, now_us: int
    ) -> tuple[int, memoryview] | Drop | int:
        if seq < 0 or not sa.window.check(seq):
            return Drop.REPLAY
        if sa.is_used_up():
            return count.EXPIRED
        if sa.esp is not None:
            opened = sa.esp.open(memoryview(packet)[head.at : head.total], seq >> 32)
        elif sa.ah is not None:
            opened = sa.ah.open(packet, seq >> 32)
        elif sa.comp is not None:
            limit = datagram.largest(packet[0] >> 4) - head.at
            opened = sa.comp.open(memoryview(packet)[head.at : head.total], limit)
        if isinstance(opened, Drop):
            return opened
        next_header, payload = opened
        inner = len(payload) + (0 if next_header in _INNER_PACKETS else head.at)
        sa.note(seq, inner, now_us)
        self._counters[count.OPENED[head.proto]] += inner
        return opened

    def _uncover(
        self, sa: InSa, header: bytes, opened: tuple[int, memoryview], layers: list[Peeled]
    ) -> bytes | Drop | int:
        next_header, payload = opened
        if next_header == _NO_NEXT_HEADER:
            return count.DUMMIES
        if next_header in _INNER_PACKETS:
            bare = None
            if sa.spec.mode != Mode.TUNNEL and sa.comp is None:
                bare = self._comps.tunnel(datagram.src(header), datagram.dst(header))
            if sa.spec.mode == Mode.TRANSPORT and bare is None:
                return Drop.INVALID
            layers.append(Peeled(sa, True, bare))
            return tunnel.inner(next_header, payload, header, knobs=sa.knobs)
        if sa.spec.mode == Mode.TUNNEL:
            return Drop.INVALID
        layers.append(Peeled(sa, False))
        if not is_authentic(layers) and next_header not in self._believable(sa.spec):
            return Drop.BADKCR
        try:
            return datagram.rebuild(header, next_header, len(payload)) + payload
        except ValueError:
            return Drop.TOOBIG

    def _unwrap(self, bare: InSa, packet: bytes, head: Head, layers: list[Peeled]) -> bytes | Drop:
        layers.append(Peeled(bare, True))
        payload = memoryview(packet)[head.at : head.total]
        return tunnel.inner(head.proto, payload, packet[: head.at], knobs=bare.knobs)

    def _deliver(
        self, packet: bytes, head: Head, layers: list[Peeled], drops: dict[Drop, int]
    ) -> int:
        flow = datagram.flow_key(packet)
        if head.is_fragment:
            flow += b"f"
        verdict = self._allowed(packet, head, flow, layers)
        if verdict == _REFUSED:
            return drops[Drop.PDROPS]
        if verdict < 0:
            self._coalescer.add(packet, flow, is_authentic(layers))
        return verdict

    def _believable(self, spec: SaSpec) -> frozenset[int]:
        """The protocols that may come out of an SA without authenticator."""
        known = self._believed.get(spec.slot)
        if known is None:
            known = self._policies.protocols(spec.src, spec.dst)
            known = _PLAUSIBLE if UNSPEC_PROTO in known or not known else known | _PROTOS
            self._believed[spec.slot] = known
        return known

    def _allowed(self, packet: bytes, head: Head, flow: bytes, layers: list[Peeled]) -> int:
        """The counter of a refusal, _REFUSED, or -1; remembered per flow and SAs."""
        counters = self._counters
        counters[count.SPDCACHELOOKUP] += 1
        key = (flow, *(b"%d%d" % (layer.is_tunnel, layer.sa.spec.slot) for layer in layers))
        verdict = self._flows.get(key)
        if verdict is None:
            counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            verdict = self._flows[key] = self._judge(packet, head, layers)
        return verdict

    def _judge(self, packet: bytes, head: Head, layers: list[Peeled]) -> int:
        has_tunnel = any(layer.is_tunnel for layer in layers)
        # on a link, hosts may protect what they say under their link-local addresses
        may_be_link_local = not has_tunnel and head.src[:1] == b"\xfe"
        impossible = tunnel.cannot_be_a_source(head.src) and not may_be_link_local
        if impossible or self._is_local(head.src):
            return count.SPOOFED
        if tunnel.is_discovery(packet):
            return count.ND_REFUSED
        verdicts = [self._judge_by(self._policies, head, layers)]
        if has_tunnel and not self._is_local(head.dst):
            verdicts.append(self._judge_by(self._forwarded, head, layers))
        refusals = [verdict for verdict in verdicts if verdict not in (_NAMED, _NAMELESS)]
        if refusals:
            return refusals[0]
        # transport mode asks for no policy; out of a tunnel comes only what one names
        return _REFUSED if has_tunnel and _NAMED not in verdicts else -1

    def _judge_by(self, policies: Classifier, head: Head, layers: list[Peeled]) -> int:
        policy = policies.match(head.src, head.dst, head.proto, *head.ports)
        if head.is_later and policies.is_vague(head.src, head.dst, head.proto, policy):
            return _REFUSED
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return _NAMELESS
        if policy.is_hold:
            return count.HOLD_DROPPED
        if policy.type != PolicyType.IPSEC:
            return count.IN_POLVIO
        return _NAMED if as_asked(policy, layers[::-1]) else _REFUSED

    def flush(self) -> list[tuple[int, Frame]]:
        """(segments in it, buffers for one writev) for each frame of this batch."""
        return self._coalescer.flush()


# verdicts beside the counters' indexes
_NAMED, _NAMELESS, _REFUSED = -2, -3, -4


def _spi_key(dst: bytes, proto: int, spi: int) -> tuple[bytes, int, int]:
    return dst, proto, spi
