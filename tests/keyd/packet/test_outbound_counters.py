"""Each counter of the outbound data path induced on purpose, and a run in which they add up.

A case says what an application sends, how many packets leave, and which counters move.
"""

import array
import random
from collections.abc import Callable

from keyd.packet import counters as count
from keyd.packet import ip
from keyd.packet.association import OutSa
from keyd.packet.esp import SEQ_MAX
from keyd.packet.keepalives import IDLE_SECONDS
from keyd.packet.outbound import Outbound
from keyd.packet.segment import GSO_TCPV4
from keyd.packet.troubles import REPEATS
from keyd.packet.trunk import Trunk
from pfkey.const import Dir, Level, PolicyType
from tests.keyd.packet.test_inbound_counters import IN_CASES
from tests.support.counted import OUT_ENDS, TRAFFIC, moved, names, policy, spec
from tests.support.packets import A, frame, ipv4, tcp, udp
from tests.support.pipelines import AH, COMP, ESP, NOW, TRANSPORT, TUNNEL, G, H, part

SECOND = 1_000_000
# the workers' and nft's, which have tests of their own
OUTSIDE = {
    count.TUN_WRITES, count.SEGMENTS_OUT, count.COALESCED_WRITES,
    count.COALESCED_SEGMENTS, count.OUT_NOMEM, count.OUT_NOROUTE, count.OUT_GUARD, count.QFULL,
    count.INTERNAL,
}  # fmt: skip
# names of other systems in which nothing ends here, and two that wait for their part
NEVER = {
    count.AH_NOPF, count.AH_BADKCR, count.AH_NOXFORM, count.AH_QFULL, count.AH_CRYPTO, count.NOPF,
    count.NOXFORM, count.CRYPTO, count.IPCOMP_NOPF, count.IPCOMP_NOXFORM, count.IPCOMP_WRAP,
    count.IPCOMP_QFULL, count.BYPASSED, count.QUEUE_DROPPED,
}  # fmt: skip
# each kind of trouble has a destination of its own: protocols of its policy, more of its SAs
STEPS = {
    "nosa": (ESP,), "comp": (COMP,), "expired": (ESP,), "wrap": (ESP,), "ah-wrap": (AH,),
    "udp": (ESP,), "bundle": (ESP, AH), "esp": (ESP,), "told": (ESP,), "ah": (AH,),
    "comp-esp": (COMP, ESP), "narrow": (ESP, AH), "hole": (ESP,),
}  # fmt: skip
MORE: dict[str, dict[str, object]] = {
    "expired": {"hard_packets": 1}, "udp": {"encap": 2, "sport": 4500, "dport": 4500},
}  # fmt: skip
HOSTS = {
    name: bytes((60, 1, 1, number))
    for number, name in enumerate([*STEPS, "discard", "hold", "use", "tunnel", "foreign"])
}
POLICIES = [
    policy(1, Dir.OUT, A, HOSTS["discard"], kind=PolicyType.DISCARD),
    policy(2, Dir.OUT, A, HOSTS["hold"], is_hold=True),
    policy(3, Dir.OUT, A, HOSTS["use"], steps=((ESP, TRANSPORT),), level=Level.USE),
    policy(4, Dir.OUT, A, HOSTS["tunnel"], steps=((ESP, TUNNEL),)),
    *(
        policy(number, Dir.OUT, A, HOSTS[name], steps=tuple((proto, TRANSPORT) for proto in protos))
        for number, (name, protos) in enumerate(STEPS.items(), 5)
    ),
]

# what moves these sends more packets than it was given
MANY = {"pfkey/superpacket_in", "pfkey/natt_keepalives_out", "pfkey/black_holes"}


class Out:
    def __init__(self) -> None:
        self.values = array.array("Q", [0] * len(count.ROWS))
        chance = iter(range(1, 1 << 40))
        self.now = NOW
        self.pipeline = Outbound(Trunk(
            memoryview(self.values), lambda dst: 68 if dst == HOSTS["narrow"] else 1500,
            lambda n: next(chance).to_bytes(8, "big").rjust(n, b"i")[:n] if n != 2 else b"\x10\0",
            lambda address: address == A,
        ))  # fmt: skip
        self.pipeline.update_policies(POLICIES, ())
        self.pipeline.install(OutSa(spec(1, src=G, dst=H, mode=TUNNEL), part(1), (0, 0, 0)))
        for number, (name, protos) in enumerate(STEPS.items(), 10):
            edge = SEQ_MAX if name.endswith("wrap") else 1
            for proto in protos if name != "nosa" else ():
                sa = spec(100 * number + proto, proto, A, HOSTS[name], **MORE.get(name, {}))
                self.pipeline.install(OutSa(sa, part(edge), (0, 0, 0)))

    def put(self, frames: list[bytes]) -> list[bytes]:
        """What is to be sent."""
        batch = self.pipeline.batch
        for octets in frames:
            self.pipeline.process(octets, self.now)
        sent = batch.sealed + batch.clear
        for written in (batch.sealed, batch.clear, batch.back):
            written.clear()
        return sent


def to(name: str, octets: int = 300, *, df: bool = True, options: bytes = b"") -> bytes:
    host = HOSTS[name]
    return frame(ipv4(17, udp(bytes(octets), dst=host), dst=host, df=df, options=options))


def stream(name: str, octets: int, *, size: int = 0, seq: int = 1) -> bytes:
    host = HOSTS[name]
    packet = ipv4(6, tcp(bytes(octets), dst=host, seq=seq), dst=host)
    return frame(packet, gso=GSO_TCPV4 if size else 0, gso_size=size)


def pieces(name: str, *which: int) -> list[bytes]:
    host = HOSTS[name]
    cut = ip.fragment(ipv4(17, udp(bytes(900), dst=host), dst=host, df=False, ident=9), 500)
    return [frame(cut[n]) for n in which]


def hard(name: str) -> bytes:
    """What does not shrink."""
    host = HOSTS[name]
    return frame(ipv4(17, udp(random.Random(1).randbytes(300), dst=host), dst=host))


def after_error(side: Out, kind: int, code: int) -> list[bytes]:
    (sent,) = side.put([to("told")])
    side.now += 2 * SECOND
    side.pipeline.icmp_error(kind, code, 0, sent[:28], side.now)
    return [to("told")]


def after_silence(side: Out) -> list[bytes]:
    """Nothing is sent, but a NAT is kept waiting."""
    side.put([to("udp")])
    side.pipeline.keepalives(side.now)
    side.now += IDLE_SECONDS * SECOND
    side.pipeline.keepalives(side.now)
    side.put([])
    return []


Case = tuple[int, dict[str, int], Callable[[Out], list[bytes]]]
CASES: list[Case] = [
    (5, {}, lambda side: [to(name) for name in ("esp", "ah", "comp", "tunnel", "told")]),
    (0, {"pfkey/tun_short": 3}, lambda side: [b"", frame(b"\x45" + bytes(30)),
                                              stream("esp", 60_000, size=1)]),
    (0, {"pfkey/foreign": 1}, lambda side: [to("foreign")]),
    (0, {"ipsec/out_polvio": 1}, lambda side: [to("discard")]),
    (0, {"pfkey/hold_dropped": 1}, lambda side: [to("hold")]),
    (0, {"ipsec/out_nosa": 1}, lambda side: [to("nosa")]),
    (1, {"pfkey/clear_out": 1}, lambda side: [to("use")]),
    (1, {"pfkey/expired": 1}, lambda side: [to("expired")] * 2),
    (1, {"esp/wrap": 1}, lambda side: [to("wrap")] * 2),
    (1, {"ah/wrap": 1}, lambda side: [to("ah-wrap")] * 2),
    (0, {"esp/toobig": 1}, lambda side: [to("esp", 65_490, df=False)]),
    (0, {"ah/toobig": 1}, lambda side: [to("ah", 65_490, df=False)]),
    (0, {"ipcomp/toobig": 1}, lambda side: [to("comp-esp", 65_490, df=False)]),
    (0, {"ah/hdrops": 1}, lambda side: [to("ah", options=b"\x07\xff\x04\0")]),
    (0, {"ipsec/out_inval": 1}, lambda side: [to("narrow")]),
    (0, {"pfkey/icmp_toobig_sent": 1}, lambda side: [to("esp", 1460)]),
    (1, {"ipcomp/minlen": 1}, lambda side: [to("comp", 20)]),
    (1, {"ipcomp/useless": 1}, lambda side: [hard("comp")]),
    (1, {"ipsec/out_bundlesa": 1}, lambda side: [to("bundle")]),
    (3, {"pfkey/superpacket_in": 1}, lambda side: [stream("esp", 3000, size=1000)]),
    (1, {"pfkey/frag_held": 2, "pfkey/frag_joined": 1}, lambda side: pieces("esp", 1, 0)),
    (0, {"pfkey/frag_held": 2, "pfkey/frag_dropped": 1}, lambda side: pieces("ah", 0, 0)),
    (1, {"pfkey/icmp_ignored": 1}, lambda side: after_error(side, 5, 1)),
    (1, {"pfkey/icmp_accepted": 1, "pfkey/icmp_relayed": 1}, lambda side: after_error(side, 3, 1)),
    (0, {"pfkey/natt_keepalives_out": 1}, after_silence),
    # the last repetition leaves in two
    (REPEATS + 3, {"pfkey/black_holes": 1, "pfkey/superpacket_in": 1}, lambda side: [
        stream("hole", 1200, seq=seq) for seq in (1, 1201, *[1] * REPEATS)]),
]  # fmt: skip


def test_each_kind_of_outbound_trouble_moves_its_counters_and_no_other() -> None:
    side = Out()
    for leaving, wanted, make in CASES:
        before = array.array("Q", side.values)
        sent = len(side.put(make(side)))
        if wanted.get("pfkey/icmp_ignored") or wanted.get("pfkey/icmp_relayed"):
            assert side.values[count.TUN_READS] == before[count.TUN_READS] + 2
        assert (sent, moved(before, side.values)) == (leaving, wanted)


def test_the_counters_account_for_each_outbound_packet_of_a_mixed_run() -> None:
    """Of small packets: one that is sent is one segment, whatever its layers."""
    dice, side = random.Random(1), Out()
    fed = sent = 0
    for _ in range(3000):
        _, wanted, make = dice.choice(CASES)
        if not wanted.keys() & MANY:
            before = side.values[count.TUN_READS]
            sent += len(side.put(make(side)))
            fed += side.values[count.TUN_READS] - before
            sent += ("pfkey/icmp_ignored" in wanted) + ("pfkey/icmp_relayed" in wanted)
    values = side.values
    ended = sum(values[row] for row in OUT_ENDS)
    held = values[count.FRAG_HELD] - values[count.FRAG_JOINED]
    assert sent + ended + held == fed
    assert sent > 300
    told = side.pipeline.tallies.take(NOW / 1e6)
    assert sum(policy.packets for policy in told) == sent
    for row in OUT_ENDS - {count.FOREIGN, count.TUN_SHORT}:  # these are under no policy
        dropped = sum(dict(policy.drops).get(row, 0) for policy in told)
        assert dropped == values[row], count.ROWS[row]


def test_every_counter_is_induced_here_or_named_as_one_that_is_not() -> None:
    induced = {name for wanted, _ in IN_CASES for name in wanted}
    induced |= {name for _, wanted, _ in CASES for name in wanted}
    assert induced | names(TRAFFIC | OUTSIDE | NEVER) == names(set(range(len(count.ROWS))))
    assert not induced & names(OUTSIDE | NEVER)
