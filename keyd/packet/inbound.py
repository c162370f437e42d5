"""The inbound pipeline: what comes from the raw sockets becomes frames for the TUN device.

Sans-IO. RFC 4301 section 5.2. The kernel has reassembled the packets (RFC 4303 3.4.1). The steps:

1. `keyd.packet.opener`: layer by layer, outermost first.
2. `_allowed`: the first matching policy must ask for exactly the layers that the packet had; of
   an ICMP error that no policy selects, the one for what would answer the packet it quotes.
3. `flush`: runs of TCP segments are joined, one write each.

A packet that opens under SAs without authenticator is only probably one: its protocol must be
one that a policy selects between these addresses, it is never joined with others, and nothing
here vouches for its checksum.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from keyd.model import PolicySpec, SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, icmp, ip, ip6, tunnel
from keyd.packet.association import InSa
from keyd.packet.classify import Classifier
from keyd.packet.coalesce import Frame
from keyd.packet.datagram import Head
from keyd.packet.drop import Drop
from keyd.packet.entrances import Entrances
from keyd.packet.mappings import Mappings
from keyd.packet.opener import PROTOS, Opener
from keyd.packet.peeled import Peeled, as_asked, is_authentic
from keyd.packet.tallies import Tallies, Tally
from keyd.socket_pair import SocketPair
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, UNSPEC_PROTO, Dir, PolicyType

FLOWS_MAX = 8192
# protocols that are believed of an SA without authenticator and without a policy
_PLAUSIBLE = frozenset((1, 2, 6, 17, 33, 46, 47, 50, 51, 58, 89, 103, 108, 112, 132, 136))


# what a policy says of a packet, beside the counters' indexes
_NAMED, _NAMELESS, _REFUSED = -2, -3, -4
_NO_DOOR = -1


class _Word(NamedTuple):
    """What one direction's policies say: a counter's index or one of the above, and which does."""

    said: int
    policy: int = 0


class _Verdict(NamedTuple):
    """What becomes of a flow's packets, and in whose name: the door, or a counter or _REFUSED."""

    tallies: tuple[Tally, ...] = ()
    door: int = _NO_DOOR
    drop: int = _REFUSED


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
        self._opener = Opener(counters, is_local, self._believable)
        self._settings = Settings()
        self._flows: dict[tuple[bytes, ...], _Verdict] = {}
        self.tallies = Tallies()
        self._believed: dict[int, frozenset[int]] = {}
        self._entrances = Entrances()

    # ---------------------------------------------------------------- databases

    def install(self, sa: InSa) -> None:
        """Put in an SA, or replace the one with its slot; the same key keeps its window."""
        self._opener.install(sa)
        self._forget()

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        self._opener.remove(slot)
        self._forget()

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the policies of directions in and fwd."""
        policies, gone = tuple(added), tuple(removed)
        for classifier, direction in ((self._policies, Dir.IN), (self._forwarded, Dir.FWD)):
            classifier.update((p for p in policies if p.dir == direction), gone)
        self._forget()

    def tune(self, settings: Settings) -> None:
        """Follow a change of what the engine says beside SAs and policies."""
        self._settings = settings
        self._opener.tune(settings)
        self._forget()

    def open_door(self, door: int, pair: SocketPair | None) -> None:
        """There is another TUN device, see `keyd.doors`."""
        self._entrances.open(door, pair)
        self._forget()

    def close_door(self, door: int) -> None:
        """There is one less."""
        self._entrances.close(door)
        self._forget()

    def _forget(self) -> None:
        self._flows.clear()
        self._believed.clear()

    # ---------------------------------------------------------------- the pipeline

    def process(self, packet: bytes, now_us: int) -> None:
        """Handle one packet; what comes of it waits for `flush`.

        One of UDP is from a port of ESP in UDP.
        """
        opened = self._opener.open(packet, now_us)
        if isinstance(opened, int):
            if opened >= 0:
                self._counters[opened] += 1
            return
        packet, head, layers, drops = opened
        flow = datagram.flow_key(packet)
        if head.is_fragment:
            flow += b"f"
        verdict = self._allowed(packet, head, flow, layers)
        self.tallies.busy.update(verdict.tallies)
        if verdict.door >= 0:
            for tally in verdict.tallies:
                tally.packets += 1
                tally.octets += len(packet)
            self._entrances.add(verdict.door, packet, flow, is_authentic=is_authentic(layers))
            return
        row = drops[Drop.PDROPS] if verdict.drop == _REFUSED else verdict.drop
        self._counters[row] += 1
        for tally in verdict.tallies:
            tally.drop(row)

    @property
    def mappings(self) -> Mappings:
        """What NATs have changed."""
        return self._opener.mappings

    def _believable(self, spec: SaSpec) -> frozenset[int]:
        """The protocols that may come out of an SA without authenticator."""
        known = self._believed.get(spec.slot)
        if known is None:
            known = self._policies.protocols(spec.src, spec.dst)
            # of ICMP are the errors about what is selected
            other = PROTOS | {ip.ICMP, ip6.ICMPV6}
            known = _PLAUSIBLE if UNSPEC_PROTO in known or not known else known | other
            self._believed[spec.slot] = known
        return known

    def _allowed(self, packet: bytes, head: Head, flow: bytes, layers: list[Peeled]) -> _Verdict:
        """What becomes of a packet; remembered."""
        counters = self._counters
        counters[count.SPDCACHELOOKUP] += 1
        key = (flow, *(b"%d%d" % (layer.is_tunnel, layer.sa.spec.slot) for layer in layers))
        known = self._flows.get(key)
        if known is None:
            counters[count.SPDCACHEMISS] += 1
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            known = self._judge(packet, head, layers)
            if not icmp.is_error(head):  # which are judged one by one
                self._flows[key] = known
        return known

    def _judge(self, packet: bytes, head: Head, layers: list[Peeled]) -> _Verdict:
        has_tunnel = any(layer.is_tunnel for layer in layers)
        may_be_ours = has_tunnel and not self._settings.checks_source
        is_ours = not may_be_ours and self._is_local(head.src)
        if tunnel.cannot_be_a_source(head.src) or is_ours:
            return _Verdict(drop=count.SPOOFED)
        if tunnel.is_discovery(packet):
            return _Verdict(drop=count.ND_REFUSED)
        words = [self._judge_by(self._policies, head, layers)]
        if has_tunnel and not self._is_local(head.dst):
            words.append(self._judge_by(self._forwarded, head, layers))
        refusals = [word for word in words if word.said not in (_NAMED, _NAMELESS)]
        if has_tunnel and all(word.said == _NAMELESS for word in words):
            words.append(self._of_answer(packet, head, layers))
        named = tuple(self.tallies.of(word.policy) for word in words if word.said == _NAMED)
        # transport mode asks for no policy; out of a tunnel comes only what one names
        if refusals or (has_tunnel and not named):
            refusal = refusals[0] if refusals else _Word(_REFUSED)
            return self._for_a_socket(head, layers, refusal, is_spd_silent=not refusals)
        protos = {layer.sa.spec.proto for layer in layers}
        door = self._entrances.of_spd(has_esp=IPPROTO_ESP in protos, has_ah=IPPROTO_AH in protos)
        return _Verdict(named, door)

    def _for_a_socket(
        self, head: Head, layers: list[Peeled], refusal: _Word, *, is_spd_silent: bool
    ) -> _Verdict:
        """What the SPD refuses may be what a socket's policy asks for; no fragments, though."""
        by_policy = (self.tallies.of(refusal.policy),) if refusal.policy else ()
        refused = _Verdict(by_policy, drop=refusal.said)
        if refusal.said not in (_REFUSED, count.IN_POLVIO) or head.is_fragment:
            return refused
        if not self._is_local(head.dst):
            return refused
        found = self._entrances.of_socket(
            lambda policy: as_asked(policy, layers[::-1]), is_spd_silent=is_spd_silent
        )
        if found is None:
            return refused
        door, policy = found
        return _Verdict((self.tallies.of(policy.id),), door)

    def _judge_by(self, policies: Classifier, head: Head, layers: list[Peeled]) -> _Word:
        """By the first matching policy of a direction."""
        policy = policies.match(head.src, head.dst, head.proto, *head.ports)
        if head.is_later and policies.is_vague(head.src, head.dst, head.proto, policy):
            return _Word(_REFUSED)
        if policy is None or policy.type in (PolicyType.NONE, PolicyType.BYPASS):
            return _Word(_NAMELESS)
        if policy.is_hold:
            return _Word(count.HOLD_DROPPED, policy.id)
        if policy.type != PolicyType.IPSEC:
            return _Word(count.IN_POLVIO, policy.id)
        return _Word(_NAMED if as_asked(policy, layers[::-1]) else _REFUSED, policy.id)

    def _of_answer(self, packet: bytes, head: Head, layers: list[Peeled]) -> _Word:
        """Whether an ICMP error came as an answer to what it quotes had to (RFC 4301 6.2)."""
        told = icmp.answered(packet, head)
        policy = self._policies.protecting(*told) if told is not None else None
        if policy is None or policy.is_hold or not as_asked(policy, layers[::-1]):
            return _Word(_NAMELESS)
        return _Word(_NAMED, policy.id)

    def flush(self) -> Iterator[tuple[int, int, Frame]]:
        """(door, segments in it, buffers for one writev) for each frame of this batch."""
        return self._entrances.flush()
