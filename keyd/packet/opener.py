"""Opening: an inbound packet loses layer after layer, outermost first, until none is for us.

Sans-IO. RFC 4301 section 5.2, RFC 4303 section 3.4, RFC 4302 section 3.4, RFC 3173, RFC 3948. The
steps, in the order of the functions:

1. `open`: what kind of packet it is: ESP in UDP, a packet in a packet, or one to be opened.
2. `_strip`: layer by layer.
3. `_peel`: one layer; the SA by destination, protocol and SPI; the source must be its.
4. `_decipher`: window, ICV and decryption, and only then the window moves and the SA counts.
5. `_uncover`: the IP packet without the layer: under its outer header, or out of a tunnel.
"""

from collections.abc import Callable
from typing import NamedTuple

from keyd.model import SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, ip, ip6, natt, tunnel
from keyd.packet.association import InSa, peek
from keyd.packet.datagram import Head
from keyd.packet.drop import Drop
from keyd.packet.fragments import Fragments
from keyd.packet.mappings import Mappings
from keyd.packet.peeled import Comps, Peeled, is_authentic
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Mode

LAYERS_MAX = 8
PROTOS = frozenset((IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP))
_NO_NEXT_HEADER = 59  # RFC 4303 2.6: a dummy packet
_INNER_PACKETS = (tunnel.IPV4, tunnel.IPV6)
_UNENCAPSULATED = -1


class Opened(NamedTuple):
    """What is left of a packet, the layers that it had, and the counters of the last by reason."""

    packet: bytes
    head: Head
    layers: list[Peeled]
    drops: dict[Drop, int]


class Opener:
    """Opens packets with the SAs that it holds; counts what goes in and out of them.

    Args:
        counters, is_local: as of `keyd.packet.inbound.Inbound`.
        believable: the protocols that may come out of an SA without authenticator.
    """

    def __init__(
        self,
        counters: memoryview,
        is_local: Callable[[bytes], bool],
        believable: Callable[[SaSpec], frozenset[int]],
    ) -> None:
        self._counters = counters
        self._is_local = is_local
        self._believable = believable
        self._by_slot: dict[int, InSa] = {}
        self.mappings = Mappings(self._by_slot)
        self._by_spi: dict[tuple[bytes, int, int], InSa] = {}
        self._settings = Settings()
        self._comps = Comps()
        self._fragments = Fragments(self._give_up)

    # ---------------------------------------------------------------- SAs

    def install(self, sa: InSa) -> None:
        """Put in an SA, or replace the one with its slot; the same key keeps its window."""
        spec = sa.spec
        before = self._by_slot.get(spec.slot)
        if before is not None and _has_same_key(before.spec, spec):
            sa.keep_window(before)
            self._take_out(spec.slot)
        else:
            self.remove(spec.slot)
        sa.tune(self._settings)
        self._by_slot[spec.slot] = sa
        self._by_spi[spec.dst, spec.proto, spec.spi] = sa
        if sa.comp is not None:
            self._comps.insert(sa)

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        self.mappings.forget(slot)
        self._take_out(slot)

    def _take_out(self, slot: int) -> None:
        sa = self._by_slot.pop(slot, None)
        if sa is None:
            return
        key = (sa.spec.dst, sa.spec.proto, sa.spec.spi)
        if self._by_spi.get(key) is sa:
            del self._by_spi[key]
        self._comps.remove(slot)

    def tune(self, settings: Settings) -> None:
        """Follow a change of what the engine says beside SAs and policies."""
        self._settings = settings
        for sa in self._by_slot.values():
            sa.tune(settings)

    # ---------------------------------------------------------------- packets

    def open(self, packet: bytes, now_us: int) -> Opened | int:
        """What is in a packet; or the counter of its drop, -1 when it is none of ours."""
        head = datagram.read(packet)
        if head is not None and head.proto not in PROTOS:
            if head.proto in _INNER_PACKETS:
                return self._open_bare(packet, head, now_us)
            if head.proto == natt.UDP:
                return self._open_datagram(packet, head, now_us)
        return self._strip(packet, head, [], now_us)

    def _open_bare(self, packet: bytes, head: Head, now_us: int) -> Opened | int:
        """What IPComp in tunnel mode did not shrink."""
        bare = self._comps.tunnel(head.src, head.dst)
        if bare is None or head.is_fragment:
            return -1  # somebody else's tunnel
        payload = memoryview(packet)[head.at : head.total]
        inner = tunnel.inner(head.proto, payload, packet[: head.at], knobs=bare.knobs)
        if isinstance(inner, Drop):
            return bare.drops[inner]
        inner_head = datagram.read(inner)
        if inner_head is None:
            return bare.drops[Drop.HDROPS]
        layers = [Peeled(bare, True)]
        if self._goes_on(inner_head, layers):
            return self._strip(inner, inner_head, layers, now_us)
        return Opened(inner, inner_head, layers, bare.drops)

    def _open_datagram(self, packet: bytes, head: Head, now_us: int) -> Opened | int:
        found = natt.read(packet, head)
        if found is not None and found.is_keepalive:
            return count.NATT_KEEPALIVES_IN
        if found is None or not found.is_esp:
            return count.NATT_ALIEN
        packet, head = natt.as_esp(packet, head, found)
        opened = self._strip(packet, head, [], now_us, found.sport)
        return self._mended(opened) if isinstance(opened, Opened) else opened

    def _strip(
        self,
        packet: bytes,
        head: Head | None,
        layers: list[Peeled],
        now_us: int,
        sport: int = _UNENCAPSULATED,
    ) -> Opened | int:
        """Layer by layer. `sport`: of the UDP around the first."""
        while True:
            proto = head.proto if head is not None else datagram.proto(packet)
            drops = count.DROPS_OF.get(proto, count.OF_DROP)
            self._counters[count.INPUTS.get(proto, count.ESP_INPUT)] += 1
            if head is None or proto not in PROTOS or head.is_fragment:
                return drops[Drop.HDROPS]
            if proto in self._settings.disabled:
                return drops[Drop.PDROPS]
            peeled = self._peel(packet, head, layers, now_us, sport)
            if not isinstance(peeled, tuple):
                return drops[peeled] if isinstance(peeled, Drop) else peeled
            packet, head = peeled
            if head is None:  # an extension header that does not fit came out of the layer
                return drops[Drop.HDROPS]
            if not self._is_plausible(head, layers):
                return drops[Drop.BADKCR]
            if head.is_fragment and head.proto in PROTOS and self._is_local(head.dst):
                whole = self._joined(packet, head, layers, now_us)
                if whole is None:
                    return -1
                packet, head = whole
            if head.proto not in PROTOS or not self._goes_on(head, layers):
                return Opened(packet, head, layers, drops)
            if len(layers) == LAYERS_MAX:
                return drops[Drop.INVALID]
            sport = _UNENCAPSULATED

    def _goes_on(self, head: Head, layers: list[Peeled]) -> bool:
        """Whether there is another layer for us; others' protected packets are on their way."""
        if head.proto not in PROTOS or head.is_fragment:
            return False
        return not layers[-1].is_tunnel or self._is_local(head.dst)

    def _joined(
        self, packet: bytes, head: Head, layers: list[Peeled], now_us: int
    ) -> tuple[bytes, Head] | None:
        """A protected packet that came in fragments out of a tunnel, once it is whole."""
        counters = self._counters
        counters[count.FRAG_HELD] += 1
        context = tuple((layer.sa.spec.slot, layer.is_tunnel) for layer in layers)
        whole = self._fragments.add(packet, head, context, now_us / 1e6)
        if whole is None:
            return None
        whole_head = datagram.read(whole)
        if whole_head is None:
            self._give_up(1)
            return None
        counters[count.FRAG_JOINED] += 1
        return whole, whole_head

    def _give_up(self, fragments: int) -> None:
        self._counters[count.FRAG_DROPPED] += fragments

    def _peel(
        self, packet: bytes, head: Head, layers: list[Peeled], now_us: int, sport: int
    ) -> tuple[bytes, Head | None] | Drop | int:
        """The packet without its outermost layer; or the reason or counter of its drop."""
        numbers = peek(head.proto, memoryview(packet)[head.at : head.total])
        if numbers is None:
            return Drop.HDROPS
        spi, seq = numbers
        sa = self._by_spi.get((head.dst, head.proto, spi))
        if head.proto == IPPROTO_COMP and (sa is None or sa.spec.src != head.src):
            sa = self._comps.well_known(head.src, head.dst, spi) or sa
        if sa is None:
            return Drop.NOTDB
        if sa.is_encapsulated or sport >= 0:
            # a NAT may give the peer of ESP in UDP another address at any time
            if not sa.is_encapsulated or sport < 0:
                return Drop.INVALID
        elif sa.spec.src != head.src:
            return Drop.INVALID
        before = sa.window.edge
        opened = self._decipher(sa, packet, head, seq if sa.is_plain else sa.number(seq), now_us)
        if not isinstance(opened, tuple):
            return opened
        if sport >= 0 and sa.window.edge > before:
            self._follow(sa, head.src, sport)
        return self._uncover(sa, packet, head, opened, layers)

    def _decipher(
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
        inner = len(opened[1]) + (0 if opened[0] in _INNER_PACKETS else head.at)
        sa.note(seq, inner, now_us)
        self._counters[count.OPENED[head.proto]] += inner
        return opened

    def _uncover(
        self,
        sa: InSa,
        packet: bytes,
        head: Head,
        opened: tuple[int, memoryview],
        layers: list[Peeled],
    ) -> tuple[bytes, Head | None] | Drop | int:
        next_header, payload = opened
        if next_header == _NO_NEXT_HEADER:
            return count.DUMMIES
        header = packet[: head.at]
        if next_header in _INNER_PACKETS:
            bare = None
            if sa.spec.mode != Mode.TUNNEL and sa.comp is None:
                bare = self._comps.tunnel(head.src, head.dst)
            if sa.spec.mode == Mode.TRANSPORT and bare is None:
                return Drop.INVALID
            layers.append(Peeled(sa, True, bare))
            inner = tunnel.inner(next_header, payload, header, knobs=sa.knobs)
            return inner if isinstance(inner, Drop) else (inner, datagram.read(inner))
        if sa.spec.mode == Mode.TUNNEL:
            return Drop.INVALID
        layers.append(Peeled(sa, False))
        # destination options are believed for what they lead to, see `_is_plausible`
        is_doubtful = next_header != ip6.DESTINATION and not is_authentic(layers)
        if is_doubtful and next_header not in self._believable(sa.spec):
            return Drop.BADKCR
        try:
            packet = datagram.rebuild(header, next_header, len(payload)) + payload
        except ValueError:
            return Drop.TOOBIG
        if header[0] >> 4 == 6:
            return packet, datagram.read(packet)
        at = head.at
        ports = ip.ports(packet, at, next_header)
        return packet, Head(next_header, at, len(packet), head.src, head.dst, ports, False, False)

    def _is_plausible(self, head: Head, layers: list[Peeled]) -> bool:
        """Whether this may have come out of transport mode, should nobody vouch for it."""
        sa, is_tunnel, _ = layers[-1]
        if is_tunnel or is_authentic(layers):
            return True
        return not head.is_fragment and head.proto in self._believable(sa.spec)

    # ---------------------------------------------------------------- NATs

    def _follow(self, sa: InSa, src: bytes, sport: int) -> None:
        """Note where the newest packet came from: what is late, or repeated, moves nothing."""
        if sa.has_authenticator and self.mappings.note(sa, (src, sport)):
            self._counters[count.NATT_MOVED] += 1

    def _mended(self, opened: Opened) -> Opened:
        """With the transport's checksum as the addresses are now, if a NAT changed them."""
        spec, head = opened.layers[0].sa.spec, opened.head
        if any(layer.is_tunnel for layer in opened.layers):
            return opened
        # one alone, as Linux has it, does not say whether the other changed as well
        is_known = spec.oa_src and spec.oa_dst
        original = spec.oa_src + spec.oa_dst if is_known else b""
        return opened._replace(packet=natt.mended(opened.packet, head, original))


def _has_same_key(one: SaSpec, other: SaSpec) -> bool:
    names = ("spi", "dst", "auth_key", "encrypt_key", "auth", "encrypt")
    return all(getattr(one, name) == getattr(other, name) for name in names)
