"""IPComp, RFC 3173 with DEFLATE (RFC 2394): alone, in bundles, in tunnels, and what did not shrink.

No packets were published, and scapy knows no IPComp: zlib and the drawing are the other side.
"""

import os
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec, SaSpec
from keyd.packet import counters as count
from keyd.packet import datagram
from keyd.packet.association import InSa
from keyd.packet.drop import Drop
from keyd.packet.ipcomp import LEAST_OCTETS, PATIENCE_MAX, CompSa, Patience, peek
from keyd.packet.segment import GSO_TCPV4, GSO_TCPV6
from pfkey.const import Dir, KameFlag, Level, Mode, PolicyType
from pfkey.errors import UnsupportedAlgorithmError
from pfkey.selector import Range, Selector
from tests.support.packets import A6, B6, A, B, frame, ipv4, tcp, udp
from tests.support.pipelines import (
    AH,
    COMP,
    ESP,
    G6,
    H6,
    MTU,
    TRANSPORT,
    TUNNEL,
    G,
    H,
    Pair,
    Step,
    joined,
    part,
    policy,
    sa,
    whole,
)  # fmt: skip

SOFT = b"the same words again and again; " * 200
HARD = os.urandom(6400)


def spec(spi: int = 0x1234, flags: int = 0, calg: int = 2) -> SaSpec:
    return SaSpec(
        slot=0, proto=COMP, spi=spi, src=A, dst=B, mode=Mode.TRANSPORT, encrypt=calg, flags=flags
    )  # fmt: skip


def deflated(plain: bytes) -> bytes:
    """As others may do it: the widest window, the most effort."""
    context = zlib.compressobj(9, zlib.DEFLATED, -15)
    return context.compress(plain) + context.flush()


def comp(plain: bytes, next_header: int = 17, cpi: int = 1000) -> bytes:
    return bytes((next_header, 0)) + cpi.to_bytes(2, "big") + deflated(plain)


# One SA


@given(st.integers(1, 255), st.integers(90, 3000))
def test_the_layout_is_that_of_section_3(next_header: int, size: int) -> None:
    made = CompSa(spec())
    packet = made.seal(SOFT[:size], next_header)
    assert packet is not None
    assert packet[:4] == bytes((next_header, 0, 0x12, 0x34))
    assert zlib.decompress(packet[4:], -15) == SOFT[:size]
    assert len(packet) < size
    assert peek(packet) == (0x1234, 0)
    opened = made.open(memoryview(packet), 65535)
    assert not isinstance(opened, Drop)
    assert (opened[0], bytes(opened[1])) == (next_header, SOFT[:size])


@given(st.binary(min_size=90, max_size=500))
def test_what_is_sealed_is_shorter_or_not_at_all(payload: bytes) -> None:
    packet = CompSa(spec()).seal(payload, 6)
    assert packet is None or len(packet) < len(payload)


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_any_octets_open_or_drop_and_never_raise(octets: bytes, limit: int) -> None:
    opened = CompSa(spec()).open(octets, limit)
    if isinstance(opened, Drop):
        assert opened is (Drop.HDROPS if len(octets) < 4 else Drop.CRYPTO)
    else:
        assert len(opened[1]) <= limit


@pytest.mark.parametrize(
    ("spi", "flags", "cpi"),
    [(0x1234, 0, 0x1234), (256, 0, 256), (5, 0, 2), (5, KameFlag.RAWCPI, 5), (2, 0, 2)],
)
def test_the_cpi_is_the_spi_where_that_can_be_one(spi: int, flags: int, cpi: int) -> None:
    """Section 3.3: CPIs under 256 are the algorithms' own; KAME sends those unless told not to."""
    assert CompSa(spec(spi, flags)).cpi == cpi


def test_an_algorithm_that_nobody_has_makes_no_sa() -> None:
    with pytest.raises(UnsupportedAlgorithmError, match="lzs"):
        CompSa(spec(calg=3))
    assert "CompSa" in repr(CompSa(spec()))


def test_patience_doubles_with_each_failure_and_ends_with_a_success() -> None:
    patience = Patience()
    tried = []
    for number in range(2000):
        if patience.tries():
            tried.append(number)
            patience.note(False)
    gaps = [b - a for a, b in pairwise(tried)]
    assert gaps[:8] == [2, 3, 5, 9, 17, 33, 65, 129]
    assert set(gaps[8:]) == {PATIENCE_MAX + 1}
    while not patience.tries():
        pass
    patience.note(True)
    assert all(patience.tries() for _ in range(10))


# Both pipelines

BUNDLES: dict[str, tuple[list[Step], bytes, bytes]] = {
    "comp": ([(COMP, TRANSPORT, A, B)], A, B),
    "comp-esp": ([(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], A, B),
    "comp-ah": ([(COMP, TRANSPORT, A, B), (AH, TRANSPORT, A, B)], A, B),
    "comp-esp-ah": (
        [(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B), (AH, TRANSPORT, A, B)], A, B,
    ),
    "comp-tunnel": ([(COMP, TUNNEL, G, H)], A, B),
    "comp-tunnel-esp": ([(COMP, TUNNEL, G, H), (ESP, TRANSPORT, G, H)], A, B),
    "comp-tunnel-ah": ([(COMP, TUNNEL, G, H), (AH, TRANSPORT, G, H)], A, B),
    "comp-esp-tunnel": ([(COMP, TRANSPORT, A, B), (ESP, TUNNEL, G, H)], A, B),
    "comp-in-esp-6": ([(COMP, TRANSPORT, A, B), (ESP, TUNNEL, G6, H6)], A, B),
    "comp-tunnel-6": ([(COMP, TUNNEL, G6, H6)], A, B),
    "comp6": ([(COMP, TRANSPORT, A6, B6)], A6, B6),
    "comp6-esp6": ([(COMP, TRANSPORT, A6, B6), (ESP, TRANSPORT, A6, B6)], A6, B6),
    "comp6-tunnel-4": ([(COMP, TUNNEL, G, H), (ESP, TRANSPORT, G, H)], A6, B6),
}  # fmt: skip
every = pytest.mark.parametrize("name", BUNDLES)
modes = pytest.mark.parametrize("mode", [None, Mode.ANY])


def any_mode(slot: int, step: Step) -> SaSpec:
    """As setkey makes them without -m."""
    proto, _, src, dst = step
    return sa(slot, (proto, Mode.ANY, src, dst))


def made_by(mode: Mode | None) -> object:
    return sa if mode is None else any_mode


def sends(pair: Pair, packet: bytes) -> list[bytes]:
    return pair.send(frame(packet))


@every
@modes
@pytest.mark.parametrize("data", [SOFT[:1000], HARD[:1000], b"short"])
def test_a_datagram_comes_out_as_it_went_in(name: str, mode: Mode | None, data: bytes) -> None:
    """What does not shrink, or is short, comes without IPComp, in tunnel mode as IP in IP."""
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst, make=made_by(mode))  # type: ignore[arg-type]
    packet = whole(src, dst, 17, udp(data, src=src, dst=dst))
    wire = sends(pair, packet)
    assert len(wire) == 1
    shrinks = data == SOFT[:1000]
    if shrinks:
        assert len(wire[0]) < 400
    outer = datagram.read(wire[0])
    assert outer is not None
    if steps[-1][0] == COMP:
        bare = 17 if steps[-1][1] == TRANSPORT else 4
        assert outer.proto == (COMP if shrinks else bare)
    row = count.IPCOMP_OUTPUT if shrinks else count.IPCOMP_USELESS
    if data == b"short" and not any(mode == TUNNEL for _, mode, *_ in steps[:1]):
        row = count.IPCOMP_MINLEN
    assert pair.out_values[row] == 1 or data == b"short"
    if outer.proto == 17:
        return  # nothing of ours: the kernel takes it, and no policy of IPComp alone refuses it
    (written,) = pair.receive(wire)
    assert written[10:] == packet, pair.dropped()
    assert pair.in_values[count.IPCOMP_INPUT] == shrinks


@every
@pytest.mark.parametrize("kind", ["soft", "hard", "both"])
def test_a_super_packet_is_cut_and_comes_out_whole(name: str, kind: str) -> None:
    """Segments that shrink and such that do not travel in one batch, and in order."""
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    data = {"soft": SOFT * 3, "hard": HARD * 3, "both": (SOFT[:4000] + HARD[:4000]) * 2}[kind]
    packet = whole(src, dst, 6, tcp(data, src=src, dst=dst))
    gso = GSO_TCPV6 if len(src) == 16 else GSO_TCPV4
    start = 40 if len(src) == 16 else 20
    wire = pair.send(frame(packet, gso=gso, gso_size=1000, csum=(start, 16)))
    assert len(wire) == -(-len(data) // 1000)
    assert max(map(len, wire)) <= MTU
    comp_alone = steps[-1][0] == COMP and steps[-1][1] == TRANSPORT
    if comp_alone and kind != "soft":
        protos = [head.proto for head in map(datagram.read, wire) if head]
        assert set(protos) == ({6} if kind == "hard" else {6, COMP})
        return
    assert joined(pair.receive(wire)) == data


@every
def test_identifications_stay_apart_where_a_stream_divides(name: str) -> None:
    """Or fragments of two packets could be joined to one (RFC 6864)."""
    steps, src, dst = BUNDLES[name]
    if len(src) == 16:
        return
    pair = Pair(steps, src, dst)
    data = (SOFT[:1000] + HARD[:1000]) * 8
    packet = whole(src, dst, 6, tcp(data, src=src, dst=dst))
    wire = pair.send(frame(packet, gso=GSO_TCPV4, gso_size=1000, csum=(20, 16)))
    if wire[0][0] >> 4 == 4:
        idents = [packet[4:6] for packet in wire]
        assert len(set(idents)) == len(wire)


@every
def test_a_large_datagram_is_compressed_before_it_is_cut(name: str) -> None:
    """Section 2: IPComp comes before fragmentation."""
    steps, src, dst = BUNDLES[name]
    for data, is_soft in ((SOFT[:5000], True), (HARD[:5000], False)):
        pair = Pair(steps, src, dst)
        packet = whole(src, dst, 17, udp(data, src=src, dst=dst), df=False)
        wire = sends(pair, packet)
        assert max(map(len, wire)) <= MTU
        if steps[0][1] == TRANSPORT:
            assert (len(wire) == 1) == is_soft
        if is_soft and steps[0][1] == TRANSPORT:
            (written,) = pair.receive(wire)
            assert written[10:] == packet


def test_a_flow_that_does_not_compress_is_not_tried_for_each_packet() -> None:
    steps, src, dst = BUNDLES["comp-esp"]
    pair = Pair(steps, src, dst)
    for _ in range(600):
        sends(pair, whole(src, dst, 17, udp(HARD[:200])))
    assert pair.out_values[count.IPCOMP_USELESS] == 600
    sends(pair, whole(src, dst, 17, udp(SOFT[:200], sport=4001)))
    assert pair.out_values[count.IPCOMP_OUTPUT] == 1, "another flow has another patience"
    for _ in range(300):
        sends(pair, whole(src, dst, 17, udp(SOFT[:200])))
    assert pair.out_values[count.IPCOMP_OUTPUT] > 40, "and the first one is tried again"


def test_counters_say_what_was_sent_and_why_not() -> None:
    steps, src, dst = BUNDLES["comp-esp"]
    pair = Pair(steps, src, dst)
    for data in (SOFT[:500], HARD[:500], b"x"):
        sends(pair, whole(src, dst, 17, udp(data)))
    values = pair.out_values
    assert values[count.IPCOMP_OUTPUT] == values[count.IPCOMP_USELESS] == 1
    assert values[count.IPCOMP_MINLEN] == 1
    assert values[count.IPCOMP_OBYTES] == 528
    assert values[count.ESP_OUTPUT] == 3
    assert LEAST_OCTETS == 90
    for size, tried in ((89, False), (90, True)):
        pair = Pair(steps, src, dst)
        sends(pair, whole(src, dst, 17, udp(SOFT[: size - 8])))
        assert (pair.out_values[count.IPCOMP_MINLEN] == 0) == tried


# Inbound


def receiver(*steps: Step, wanted: list[Step] | None = None, src: bytes = A) -> Pair:
    pair = Pair(list(steps), src, B)
    if wanted is not None:
        pair.into.update_policies([], [1 + Dir.IN])
        if wanted:
            pair.into.update_policies([policy(wanted, Dir.IN, src, B)], ())
    return pair


def test_others_deflate_is_inflated() -> None:
    pair = receiver((COMP, TRANSPORT, A, B))
    inner = udp(SOFT[:3000])
    (written,) = pair.receive([ipv4(COMP, comp(inner))])
    assert written[10:] == ipv4(17, inner)
    assert pair.in_values[count.IPCOMP_INPUT] == 1
    assert pair.in_values[count.IPCOMP_IBYTES] == 3028


@pytest.mark.parametrize(
    ("cpi", "counter"), [(1000, None), (2, None), (999, "notdb"), (3, "notdb"), (255, "notdb")]
)
def test_an_sa_is_found_by_its_cpi_or_by_a_well_known_one(cpi: int, counter: str | None) -> None:
    """KAME's systems send the algorithm's number."""
    pair = receiver((COMP, TRANSPORT, A, B))
    written = pair.receive([ipv4(COMP, comp(udp(SOFT[:300]), cpi=cpi))])
    assert len(written) == (counter is None)
    if counter:
        assert pair.dropped()["ipcomp", counter] == 1


def test_a_well_known_cpi_means_the_sa_of_its_source() -> None:
    pair = receiver((COMP, TRANSPORT, A, B))
    other = ipv4(COMP, comp(udp(SOFT[:300]), cpi=2), src=G)
    assert pair.receive([other]) == []
    assert pair.dropped()["ipcomp", "notdb"] == 1
    low = SaSpec(slot=7, proto=COMP, spi=2, src=G, dst=B, mode=Mode.TRANSPORT, encrypt=2)
    pair.into.install(InSa(low, part(0), (0, 0, 0)))
    assert len(pair.receive([other])) == 1
    assert len(pair.receive([ipv4(COMP, comp(udp(SOFT[:300]), cpi=2))])) == 1
    pair.into.remove(0)
    assert pair.receive([ipv4(COMP, comp(udp(SOFT[:300]), cpi=2))]) == []
    assert pair.dropped()["ipcomp", "invalid"] == 1


@pytest.mark.parametrize(
    ("payload", "counter"),
    [
        (b"\x11\0\x03", "hdrops"),
        (b"\x11\0\x03\xe8", "crypto"),
        (b"\x11\0\x03\xe8" + b"garbage", "crypto"),
        (comp(udp(SOFT[:300]))[:-1], "crypto"),
        (comp(bytes(65516)), "crypto"),  # with a header of 20 it would exceed 65535
        (comp(bytes(60_000_000)), "crypto"),
        (comp(udp(SOFT[:300]), next_header=99), "badkcr"),
    ],
)
def test_what_is_no_compressed_packet_is_dropped_and_counted(payload: bytes, counter: str) -> None:
    pair = receiver((COMP, TRANSPORT, A, B))
    assert pair.receive([ipv4(COMP, payload)]) == []
    assert pair.dropped()["ipcomp", counter] == 1


def test_the_largest_packet_comes_out() -> None:
    pair = receiver((COMP, TRANSPORT, A, B))
    inner = udp(bytes(65507))
    (written,) = pair.receive([ipv4(COMP, comp(inner))])
    assert written[10:] == ipv4(17, inner)


def test_trailing_octets_and_flags_mean_nothing() -> None:
    pair = receiver((COMP, TRANSPORT, A, B))
    payload = bytearray(comp(udp(SOFT[:300])) + b"link padding")
    payload[1] = 0xFF
    assert len(pair.receive([ipv4(COMP, bytes(payload))])) == 1


def test_ipcomp_protects_nothing() -> None:
    """Who may only compress does not pass where ESP is demanded, nor with a layer too many."""
    esp: Step = (ESP, TRANSPORT, A, B)
    comp_step: Step = (COMP, TRANSPORT, A, B)
    packet = ipv4(COMP, comp(udp(SOFT[:300])))
    for wanted in ([esp], [comp_step, esp]):
        pair = receiver(comp_step, esp, wanted=wanted)
        assert pair.receive([packet]) == []
        assert pair.dropped()["ipcomp", "pdrops"] == 1
    pair = receiver(comp_step, esp)
    wire = sends(pair, whole(A, B, 17, udp(SOFT[:300])))
    pair.into.update_policies([policy([esp], Dir.IN, A, B)], [1 + Dir.IN])
    assert pair.receive(wire) == []
    assert pair.dropped()["ipcomp", "pdrops"] == 1


def test_a_policy_of_ipcomp_alone_refuses_no_clear_packets() -> None:
    """What did not shrink comes as it was."""
    assert not policy([(COMP, TRANSPORT, A, B)], Dir.IN, A, B).is_required
    assert not policy([(COMP, TUNNEL, A, B)], Dir.IN, A, B).is_required
    assert policy([(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], Dir.IN, A, B).is_required


# Packets in packets


def ipip(inner: bytes, src: bytes = G, dst: bytes = H) -> bytes:
    return ipv4(4, inner, src=src, dst=dst)


INNER = ipv4(17, udp(b"x"))


def test_a_bare_packet_in_a_packet_needs_an_sa_and_a_policy_in_tunnel_mode() -> None:
    tunnel: Step = (COMP, TUNNEL, G, H)
    assert len(receiver(tunnel).receive([ipip(INNER)])) == 1
    for steps, wanted in (
        ([(COMP, TRANSPORT, G, H)], [tunnel]),  # the SA is for transport
        ([(COMP, TUNNEL, G, B)], [tunnel]),  # the SA is for others
        ([(ESP, TUNNEL, G, H)], [(ESP, TUNNEL, G, H)]),  # the SA is of ESP
    ):
        pair = receiver(*steps, wanted=wanted)
        assert pair.receive([ipip(INNER)]) == []
        assert pair.dropped() == {}, "somebody else's"
    for wanted in ([], [(ESP, TUNNEL, G, H)], [(COMP, TRANSPORT, G, H)]):
        pair = receiver(tunnel, wanted=wanted)
        assert pair.receive([ipip(INNER)]) == []
        assert pair.dropped()["ipcomp", "pdrops"] == 1


@modes
def test_inside_esp_a_bare_packet_needs_the_same(mode: Mode | None) -> None:
    """An SA of mode ANY could have been a tunnel of its own: the policy decides what it was."""
    tunnel: Step = (COMP, TUNNEL, G, H)
    esp: Step = (ESP, TRANSPORT, G, H)
    make = made_by(mode)
    pair = Pair([tunnel, esp], A, B, make=make)  # type: ignore[arg-type]
    wire = sends(pair, whole(A, B, 17, udp(HARD[:300])))
    assert len(pair.receive(wire)) == 1
    for wanted in ([esp], [(COMP, TUNNEL, G, B), esp], [tunnel], []):
        pair = Pair([tunnel, esp], A, B, make=make)  # type: ignore[arg-type]
        wire = sends(pair, whole(A, B, 17, udp(HARD[:300])))
        pair.into.update_policies([], [1 + Dir.IN])
        pair.into.update_policies([policy(wanted, Dir.IN, A, B)] if wanted else [], ())
        assert pair.receive(wire) == []
        assert pair.dropped()["esp", "pdrops"] == 1
    pair = Pair([tunnel, esp], A, B, make=make)  # type: ignore[arg-type]
    wire = sends(pair, whole(A, B, 17, udp(HARD[:300])))
    pair.into.remove(0)  # the SA of IPComp
    assert pair.receive(wire) == []
    assert pair.dropped()["esp", "pdrops" if mode == Mode.ANY else "invalid"] == 1


def test_an_esp_tunnel_is_not_mistaken_for_a_bare_packet() -> None:
    """Both between the same ends: a policy each, and each packet is what its policy says."""
    pair = Pair([(ESP, TUNNEL, G, H)], A, B, make=any_mode)
    comp_sa = SaSpec(slot=9, proto=COMP, spi=500, src=G, dst=H, mode=Mode.ANY, encrypt=2)
    pair.into.install(InSa(comp_sa, part(0), (0, 0, 0)))
    assert len(pair.receive(sends(pair, whole(A, B, 17, udp(b"x"))))) == 1


def test_what_comes_out_of_a_bare_packet_is_checked_as_out_of_any_tunnel() -> None:
    pair = receiver((COMP, TUNNEL, G, H))
    for inner, counter in (
        (ipv4(17, udp(b"x"), src=bytes((127, 0, 0, 1))), ("pfkey", "spoofed")),
        (b"\x45nonsense", ("ipcomp", "invalid")),
        (ipv4(17, udp(b"x"), src=G), ("ipcomp", "pdrops")),
    ):
        before = pair.dropped().get(counter, 0)
        assert pair.receive([ipip(inner)]) == []
        assert pair.dropped()[counter] == before + 1


def test_hard_limits_of_an_ipcomp_sa_hold() -> None:
    def limited(slot: int, step: Step) -> SaSpec:
        proto, mode, src, dst = step
        return SaSpec(
            slot=slot, proto=proto, spi=1000, src=src, dst=dst, mode=mode, encrypt=2,
            hard_packets=3,
        )  # fmt: skip

    pair = Pair([(COMP, TRANSPORT, A, B)], A, B, make=limited)
    wire = [p for _ in range(5) for p in sends(pair, whole(A, B, 17, udp(SOFT[:300])))]
    assert (len(wire), pair.out_values[count.EXPIRED]) == (3, 2)
    assert len(pair.receive(wire + wire)) == 3
    assert pair.in_values[count.EXPIRED] == 3


def test_a_missing_sa_is_as_for_the_others() -> None:
    for level, sent in ((Level.REQUIRE, 0), (Level.USE, 1)):
        pair = Pair([(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], A, B)
        pair.out.remove(0)
        pair.out.update_policies(
            [policy([(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], Dir.OUT, A, B, level)],
            [1 + Dir.OUT],
        )
        assert len(sends(pair, whole(A, B, 17, udp(SOFT[:300])))) == sent


def test_a_discard_policy_stops_compressed_packets_too() -> None:
    pair = receiver((COMP, TRANSPORT, A, B), wanted=[])
    discard = PolicySpec(
        id=9, dir=Dir.IN, type=PolicyType.DISCARD, selector=Selector(Range(A, 32), Range(B, 32))
    )
    pair.into.update_policies([discard], ())
    assert pair.receive([ipv4(COMP, comp(udp(SOFT[:300])))]) == []
    assert pair.dropped()["ipsec", "in_polvio"] == 1
