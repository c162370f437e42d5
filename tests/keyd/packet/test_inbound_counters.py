"""Each counter of the inbound data path induced on purpose, and a run in which they add up.

A case says what comes and which counters it moves; no others may move but those of traffic.
"""

import array
import random
from collections.abc import Callable

from keyd.model import SaSpec
from keyd.packet import counters as count
from keyd.packet import ip, natt
from keyd.packet.association import InSa
from keyd.packet.inbound import Inbound
from pfkey import crypto
from pfkey.const import Dir, PolicyType
from tests.keyd.packet.test_hostile import layer, squeezed
from tests.support.counted import IN_ENDS, moved, names, policy, spec
from tests.support.packets import A, B, ipv4, udp
from tests.support.pipelines import AH, COMP, ESP, NOW, TRANSPORT, TUNNEL, G, H, part

FAR = bytes((9, 9, 9, 9))
PORT = 4000
ESP1 = spec(1000)
ESP_TUNNEL = spec(1001, src=G, dst=H, mode=TUNNEL)
AH1 = spec(1002, AH)
AH_TUNNEL = spec(1003, AH, G, H, mode=TUNNEL)
COMP1 = spec(1004, COMP)
UNSIGNED = spec(1005, auth=0, auth_key=b"")
SHORT_LIVED = spec(1006, hard_packets=1)
UDP = spec(1007, encap=2, sport=4500, dport=4500)
NULL = spec(1008, encrypt=11, encrypt_key=b"")
IN_SAS = (ESP1, ESP_TUNNEL, AH1, AH_TUNNEL, COMP1, UNSIGNED, SHORT_LIVED, UDP, NULL)
IN_POLICIES = [
    policy(1, Dir.IN, A, B, 1, PolicyType.DISCARD),
    policy(2, Dir.IN, A, B, 2, is_hold=True),
    policy(3, Dir.IN, A, B, 3, steps=((ESP, TRANSPORT), (AH, TRANSPORT))),
    policy(4, Dir.IN, A, H, steps=((ESP, TUNNEL),)),
    policy(5, Dir.IN, G, H, steps=((ESP, TUNNEL),)),
]


class In:
    def __init__(self) -> None:
        self.values = array.array("Q", [0] * len(count.ROWS))
        self.pipeline = Inbound(memoryview(self.values), lambda address: address in (B, H))
        self.pipeline.update_policies(IN_POLICIES, ())
        for sa in IN_SAS:
            self.pipeline.install(InSa(sa, part(0), (0, 0, 0)))
        self.seq = 0

    def sealed(
        self, sa: SaSpec, payload: bytes = b"", kind: int = 17, *, dport: int = PORT, seq: int = 0
    ) -> bytes:
        self.seq += 1
        payload = payload or udp(b"x" * 200, dport=dport)
        return layer(sa, seq or self.seq, kind, payload, sa.src, sa.dst)

    def put(self, packets: list[bytes]) -> int:
        """How many were delivered."""
        for packet in packets:
            self.pipeline.process(packet, NOW)
        return sum(number for _, number, _ in self.pipeline.flush())


def readdressed(packet: bytes, src: bytes = FAR) -> bytes:
    fresh = packet[:12] + src + packet[16:20]
    return ip.rebuild(fresh, packet[9], len(packet) - 20) + packet[20:]


def resealed(packet: bytes) -> bytes:
    """The last octet is another."""
    return packet[:-1] + bytes((packet[-1] ^ 1,))


def pieces(side: In) -> list[bytes]:
    """A packet of transport mode that was cut before its tunnel, which no policy asks for."""
    inner = layer(spec(1009, src=G, dst=H), 1, 17, bytes(500), G, H)
    return [side.sealed(ESP_TUNNEL, piece, 4) for piece in ip.fragment(inner, 300)]


def bad_padding(side: In) -> bytes:
    """The pad length exceeds the packet, under a right ICV."""
    sealer = spec(1008, encrypt=11, encrypt_key=b"", auth=0, auth_key=b"")
    plain = layer(sealer, side.seq + 1, 17, bytes(30), A, B)
    side.seq += 1
    octets = plain[20:-2] + bytes((250, 17))
    return ipv4(ESP, octets + crypto.integrity(5, b"a" * 32).icv(octets))


IN_CASES: list[tuple[dict[str, int], Callable[[In], list[bytes]]]] = [
    ({}, lambda side: [side.sealed(sa) for sa in (ESP1, AH1, COMP1, UNSIGNED, SHORT_LIVED, NULL)]),
    ({}, lambda side: [side.sealed(ESP_TUNNEL, ipv4(17, udp(b"x"), dst=H), 4)]),
    ({"esp/hdrops": 3}, lambda side: [b"", ipv4(ESP, bytes(7)), ipv4(ESP, bytes(99), more=True)]),
    ({"ah/hdrops": 2}, lambda side: [ipv4(AH, bytes(11)), ipv4(AH, bytes(99), offset=80)]),
    ({"ipcomp/hdrops": 1}, lambda side: [ipv4(COMP, bytes(3))]),
    ({"esp/notdb": 2}, lambda side: [ipv4(ESP, bytes(60)), readdressed(ipv4(ESP, bytes(60)))]),
    ({"ah/notdb": 1}, lambda side: [ipv4(AH, bytes(60))]),
    ({"ipcomp/notdb": 1}, lambda side: [ipv4(COMP, bytes(60))]),
    ({"esp/invalid": 1}, lambda side: [readdressed(side.sealed(ESP1))]),
    ({"esp/invalid": 1}, lambda side: [side.sealed(ESP1, ipv4(17, udp(b"x")), 4)]),
    ({"esp/invalid": 1}, lambda side: [side.sealed(ESP_TUNNEL)]),
    ({"ah/invalid": 1}, lambda side: [side.sealed(AH_TUNNEL)]),
    ({"ipcomp/invalid": 1}, lambda side: [readdressed(side.sealed(COMP1))]),
    ({"esp/badilen": 2}, lambda side: [
        ipv4(ESP, side.sealed(ESP1)[20:50]), ipv4(ESP, side.sealed(ESP1)[20:-1])]),
    ({"ah/badauthl": 1}, lambda side: [
        ipv4(AH, side.sealed(AH1)[20:21] + b"\x03" + side.sealed(AH1)[22:])]),
    ({"esp/badauth": 1}, lambda side: [resealed(side.sealed(ESP1))]),
    ({"ah/badauth": 1}, lambda side: [resealed(side.sealed(AH1))]),
    ({"esp/badenc": 1}, lambda side: [bad_padding(side)]),
    ({"esp/badkcr": 1}, lambda side: [side.sealed(UNSIGNED, bytes(40), 200)]),
    ({"ipcomp/badkcr": 1}, lambda side: [side.sealed(COMP1, bytes(400), 200)]),
    ({"esp/replay": 2}, lambda side: [side.sealed(ESP1, seq=1)] * 2),
    ({"ah/replay": 1}, lambda side: [side.sealed(AH1, seq=2)]),
    ({"ipcomp/crypto": 2}, lambda side: [
        ipv4(COMP, bytes((17, 0, 3, 236)) + b"\xff" * 40),
        ipv4(COMP, bytes((17, 0, 3, 236)) + squeezed(bytes(70_000)))]),
    ({"esp/tunnel": 2}, lambda side: [
        side.sealed(ESP_TUNNEL, bytes(60), 4), side.sealed(ESP_TUNNEL, ipv4(17, udp(b"")), 41)]),
    ({"ah/tunnel": 1}, lambda side: [side.sealed(AH_TUNNEL, bytes(60), 41)]),
    ({"ipcomp/invalid": 1}, lambda side: [side.sealed(COMP1, bytes(60), 4)]),
    ({"esp/pdrops": 2}, lambda side: [
        side.sealed(ESP1, dport=3), side.sealed(ESP_TUNNEL, ipv4(17, udp(b"x")), 4)]),
    ({"ah/pdrops": 1}, lambda side: [side.sealed(AH1, dport=3)]),
    ({"ipcomp/pdrops": 1}, lambda side: [side.sealed(COMP1, dport=3)]),
    ({"ipsec/in_polvio": 1}, lambda side: [side.sealed(ESP1, dport=1)]),
    ({"pfkey/hold_dropped": 1}, lambda side: [side.sealed(ESP1, dport=2)]),
    ({"pfkey/spoofed": 2}, lambda side: [
        side.sealed(ESP_TUNNEL, ipv4(17, udp(b"x"), src=source), 4)
        for source in (H, bytes((127, 0, 0, 1)))]),
    ({"pfkey/nd_refused": 1}, lambda side: [side.sealed(ESP1, bytes((5, 1)) + bytes(30), 1)]),
    ({"pfkey/dummies": 1}, lambda side: [side.sealed(ESP1, bytes(30), 59)]),
    ({"pfkey/expired": 1}, lambda side: [side.sealed(SHORT_LIVED)]),
    ({"pfkey/natt_keepalives_in": 1}, lambda side: [natt.keepalive(A, B, 4500, 4500)]),
    ({"pfkey/natt_alien": 1}, lambda side: [ipv4(17, udp(bytes(40)))]),
    ({"pfkey/natt_moved": 1}, lambda side: [readdressed(side.sealed(UDP))]),
    ({"pfkey/frag_held": 2, "pfkey/frag_joined": 1, "esp/notdb": 1}, pieces),
    ({"pfkey/frag_held": 3, "pfkey/frag_dropped": 2}, lambda side: [
        pieces(side)[0] for _ in range(3)]),
]  # fmt: skip


def test_each_kind_of_inbound_trouble_moves_its_counter_and_no_other() -> None:
    side = In()
    number = 0
    for wanted, make in IN_CASES:
        packets, before = make(side), array.array("Q", side.values)
        delivered = side.put(packets)
        number += len(packets)
        assert moved(before, side.values) == wanted, (wanted, moved(before, side.values))
        ended = sum(n for name, n in wanted.items() if name in names(IN_ENDS))
        held = wanted.get("pfkey/frag_held", 0) - wanted.get("pfkey/frag_joined", 0)
        assert delivered + ended + held == len(packets), wanted


def test_the_counters_account_for_each_inbound_packet_of_a_mixed_run() -> None:
    dice, side = random.Random(1), In()
    fed = delivered = 0
    for _ in range(3000):
        packets = dice.choice(IN_CASES)[1](side)
        dice.shuffle(packets)
        if not dice.randrange(4):
            packets += packets[:1]
        fed += len(packets)
        delivered += side.put(packets)
    values = side.values
    ended = sum(values[row] for row in IN_ENDS)
    held = values[count.FRAG_HELD] - values[count.FRAG_JOINED]
    assert delivered + ended + held == fed
    assert delivered > 300
    told = side.pipeline.tallies.take(NOW / 1e6)
    assert 0 < sum(policy.packets for policy in told) <= delivered  # transport mode needs none
    for row in (count.IN_POLVIO, count.HOLD_DROPPED):  # what policies alone move
        dropped = sum(dict(policy.drops).get(row, 0) for policy in told)
        assert dropped == values[row] > 0, count.ROWS[row]
