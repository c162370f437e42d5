"""What the knobs of net.inet.ipsec and net.inet6.ipsec6 do to packets."""

import array
from dataclasses import replace

import pytest

from keyd.model import Settings
from keyd.packet import counters as count
from keyd.packet import ip6, trace
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Dir, Level
from tests.keyd.packet.test_bundles import BUNDLES
from tests.keyd.packet.test_esp_old import VARIANTS
from tests.keyd.packet.test_outbound import Rig, spec
from tests.keyd.packet.test_outbound import policy as simple
from tests.support.packets import A, B, frame, ipv4, tcp, udp
from tests.support.pipelines import Pair, policy, whole


def pair(name: str, out: Settings | None = None, into: Settings | None = None) -> Pair:
    made = Pair(*BUNDLES[name])
    made.out.tune(out or Settings())
    made.into.tune(into or out or Settings())
    return made


def packet(name: str, *, tos: int = 0, df: bool = False) -> bytes:
    _, src, dst = BUNDLES[name]
    octets = bytearray(whole(src, dst, 17, udp(b"hello", src=src, dst=dst), df=df))
    if octets[0] >> 4 == 4:
        octets[1] = tos
        octets[10:12] = b"\0\0"
        octets[10:12] = ipv4_sum(octets)
    else:
        octets[:2] = (6 << 12 | tos << 4).to_bytes(2, "big")
    return bytes(octets)


def ipv4_sum(header: bytes | bytearray) -> bytes:
    total = sum(int.from_bytes(header[n : n + 2], "big") for n in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def service(octets: bytes) -> int:
    return octets[1] if octets[0] >> 4 == 4 else ip6.traffic_class(octets)


def rewritten(wire: bytes, *, tos: int | None = None, flags: int | None = None) -> bytes:
    """As a router leaves it that changes TOS, or flags and offset."""
    octets = bytearray(wire)
    if tos is not None:
        octets[1] = tos
    if flags is not None:
        octets[6:8] = flags.to_bytes(2, "big")
    octets[10:12] = b"\0\0"
    octets[10:12] = ipv4_sum(octets)
    return bytes(octets)


@pytest.mark.parametrize(
    ("settings", "change", "holds"),
    [
        (Settings(), {"tos": 0x20}, True),
        (Settings(ah_cleartos=False), {"tos": 0x20}, False),
        (Settings(ah_cleartos=False), {}, True),
        (Settings(), {"flags": 0x0000}, True),
        (Settings(ah_offsetmask=0x4000), {"flags": 0x0000}, False),
        (Settings(ah_offsetmask=0x4000), {}, True),
        (Settings(ah_offsetmask=0x8000), {"flags": 0x0000}, True),
    ],
)
def test_ah_covers_what_the_knobs_say(
    settings: Settings, change: dict[str, int], holds: bool
) -> None:
    both = pair("ah", settings)
    (wire,) = both.send(frame(packet("ah", df=True)))
    assert bool(both.receive([rewritten(wire, **change)])) == holds
    assert both.dropped().get(("ah", "badauth"), 0) == (not holds)


def test_both_ends_must_agree_on_what_ah_covers() -> None:
    both = pair("ah", Settings(ah_cleartos=False), Settings())
    assert both.receive(both.send(frame(packet("ah", tos=8)))) == []
    assert both.receive(both.send(frame(packet("ah", tos=0)))) != []


@pytest.mark.parametrize("name", ["esp-tunnel", "4-in-6", "6-in-4", "esp6-tunnel", "ah-tunnel"])
@pytest.mark.parametrize("ecn", [-1, 0, 1])
def test_an_outer_header_is_made_as_the_knobs_say(name: str, ecn: int) -> None:
    is_v6 = len(BUNDLES[name][0][0][2]) == 16
    tos = 0xB8 | 2  # expedited forwarding, ECT(0)
    for dfbit in (0, 1, 2):
        knob = Settings(dfbit=dfbit, ecn=1 if is_v6 else ecn, ecn6=ecn if is_v6 else 1)
        both = pair(name, knob)
        for df in (False, True):
            (wire,) = both.send(frame(packet(name, tos=tos, df=df)))
            assert service(wire) == {1: tos, 0: 0xB8, -1: 0}[ecn]
            if not is_v6:
                inner_df = df or name == "6-in-4"
                assert bool(wire[6] & 0x40) == (dfbit == 1 or (dfbit == 2 and inner_df))
            marked = bytearray(wire)
            if is_v6:
                marked[1] |= 0x30
            else:
                marked = bytearray(rewritten(wire, tos=service(wire) | 3))
            (written,) = both.receive([bytes(marked)])
            assert service(written[10:]) == (tos | 3 if ecn == 1 else tos), "congestion was seen"


def test_an_sas_own_flags_go_before_the_knobs() -> None:
    rig = Rig([simple()])
    flagged = replace(spec(), flags=0x20000000 | 0x80000000)
    rig.install(flagged)
    rig.pipeline.tune(Settings(dfbit=1, ecn=1))
    (sa,) = rig.pipeline._sad._by_slot.values()
    assert (sa.knobs.dfbit, sa.knobs.has_ecn) == (0, False)


def test_a_tunnel_may_speak_in_our_name_where_the_knob_allows_it() -> None:
    for name, checks, comes in (
        ("esp-tunnel", True, False), ("esp-tunnel", False, True), ("esp", False, False),
    ):  # fmt: skip
        both = pair(name, Settings(checks_source=checks))
        both.into._is_local = lambda address: address in (A, B)
        wire = both.send(frame(packet(name)))
        assert bool(both.receive(wire)) == comes
        assert (("pfkey", "spoofed") in both.dropped()) != comes


@pytest.mark.parametrize(
    ("name", "proto", "group"),
    [("esp", IPPROTO_ESP, "esp"), ("ah", IPPROTO_AH, "ah"), ("esp-ah", IPPROTO_AH, "ah"),
     ("esp-ah", IPPROTO_ESP, "esp")],
)  # fmt: skip
def test_a_protocol_that_is_off_is_dropped_in_both_directions(
    name: str, proto: int, group: str
) -> None:
    off = Settings(disabled=(proto,))
    both = pair(name, off)
    assert both.send(frame(packet(name))) == []
    assert both.out._counters[count.ROWS.index((group, "pdrops"))] == 1
    both = pair(name, Settings(), off)
    assert both.receive(both.send(frame(packet(name)))) == []
    assert both.dropped()[group, "pdrops"] == 1
    both.into.tune(Settings())
    assert both.receive(both.send(frame(packet(name)))) != []


def test_use_of_a_protocol_that_is_off_is_dropped_too() -> None:
    """NetBSD's: off is an error, not the want of an SA."""
    steps, src, dst = BUNDLES["esp"]
    both = pair("esp", Settings(disabled=(IPPROTO_ESP, IPPROTO_COMP)))
    both.out.update_policies([policy(steps, Dir.OUT, src, dst, Level.USE)], ())
    both.send(frame(packet("esp")))
    assert both.out.batch.clear == []


# ---------------------------------------------------------------- faults on purpose


@pytest.mark.parametrize("name", ["esp", "ah", "esp-ah", "esp-tunnel", "ah-tunnel", "ah6", "esp6"])
def test_faults_on_purpose_are_noticed_by_the_receiver(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    outermost = "ah" if steps[-1][0] == IPPROTO_AH else "esp"
    data = bytes(range(250)) * 40
    big = whole(src, dst, 6, tcp(data, src=src, dst=dst))
    start = 40 if len(src) == 16 else 20
    super_packet = frame(big, gso=4 if len(src) == 16 else 1, gso_size=1000, csum=(start, 16))

    both = pair(name, Settings(repeats_numbers=True))
    wire = both.send(frame(packet(name))) + both.send(frame(packet(name))) + both.send(super_packet)
    assert len(wire) > 8
    assert len(both.receive(wire)) == 1, "the first alone"
    assert both.dropped() == both.dropped() | {(outermost, "replay"): len(wire) - 1}
    both.out.tune(Settings())
    assert both.receive(both.send(frame(packet(name)))) != [], "no number was used up twice"

    both = pair(name, Settings(spoils_icvs=True))
    wire = both.send(frame(packet(name))) + both.send(super_packet)
    assert both.receive(wire) == []
    assert both.dropped()[outermost, "badauth"] == len(wire)
    both.out.tune(Settings())
    assert both.receive(both.send(frame(packet(name)))) != []


@pytest.mark.parametrize("name", ["des-deriv", "ah-old", "gmac"])
def test_faults_on_purpose_respect_each_variants_layout(name: str) -> None:
    step, made = VARIANTS[name]
    both = Pair([step], A, B, make=lambda slot, step: made)
    for settings, comes in ((Settings(spoils_icvs=True), False), (Settings(), True)):
        both.out.tune(settings)
        (wire,) = both.send(frame(whole(A, B, 17, udp(b"hello"))))
        assert bool(both.receive([wire])) == comes
    assert sum(n for (_, what), n in both.dropped().items() if what == "badauth") == 1


def test_a_number_that_makes_the_iv_is_never_repeated() -> None:
    step, made = VARIANTS["des-deriv"]
    both = Pair([step], A, B, make=lambda slot, step: replace(made, replay_packets=64))
    both.out.tune(Settings(repeats_numbers=True))
    packet = whole(A, B, 17, udp(b"hello"))
    wire = [octets for _ in range(3) for octets in both.send(frame(packet))]
    assert [octets[24:28] for octets in wire] == [n.to_bytes(4, "big") for n in (1, 2, 3)]
    assert len(both.receive(wire)) == 3


def test_both_faults_at_once_and_an_sa_without_icv() -> None:
    both = pair("esp", Settings(repeats_numbers=True, spoils_icvs=True))
    wire = [octets for _ in range(3) for octets in both.send(frame(packet("esp")))]
    assert both.receive(wire) == []
    assert both.dropped()["esp", "badauth"] == 3
    rig = Rig([simple()], [spec(auth=False)])
    rig.pipeline.tune(Settings(spoils_icvs=True))
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert rig.opened(spec(auth=False)) == [udp(b"x")], "there is nothing to spoil"


def test_repeated_numbers_still_count_and_stop_at_limits() -> None:
    rig = Rig([simple()], [spec(hard_packets=3)])
    rig.pipeline.tune(Settings(repeats_numbers=True))
    for _ in range(5):
        rig.put(frame(ipv4(17, udp(b"x"))))
    assert [p[24:28] for p in rig.sealed] == [b"\0\0\0\1"] * 3
    assert rig.counted["expired"] == 2
    assert list(rig.parts[9876])[:2] == [2, 3]


# ---------------------------------------------------------------- debug


def test_what_was_dropped_is_told_with_the_reason() -> None:
    rig = Rig([simple()])
    before = rig.values.tolist()
    octets = ipv4(17, udp(b"x"))
    rig.put(frame(octets))
    (line,) = trace.drops(before, rig.values, octets)
    ends = f"src=10.1.1.1 dst=20.1.1.1 proto=17 octets={len(octets)}"
    assert line == f"dropped=1 group=ipsec reason=out_nosa {ends}"
    assert trace.describe(b"junk") == "octets=4"


def test_every_counter_is_a_drop_or_none() -> None:
    values = array.array("Q", [0] * len(count.ROWS))
    for row in count.DROPS:
        values[row] += 1
    told = list(trace.drops([0] * len(count.ROWS), values, b""))
    assert len(told) == len(count.DROPS)
    names = {name for _, name in count.ROWS}
    assert names >= count._KEPT
