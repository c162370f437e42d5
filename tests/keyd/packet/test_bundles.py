"""Both pipelines against each other: every mode, both versions, bundles (RFC 4301 section 5)."""

from dataclasses import replace

import pytest

from keyd.model import PolicySpec
from keyd.packet import counters as count
from keyd.packet import datagram, ip, ip6, segment
from keyd.packet.association import InSa, OutSa
from keyd.packet.esp import EspSa
from keyd.packet.ip6 import ICMPV6
from keyd.packet.segment import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4
from pfkey.const import Dir, Level, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A6, B6, A, B, frame, ipv4, ipv6, tcp, udp
from tests.support.pipelines import (
    AH,
    ESP,
    G6,
    H6,
    MTU,
    NOW,
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

BUNDLES: dict[str, tuple[list[Step], bytes, bytes]] = {
    "esp": ([(ESP, TRANSPORT, A, B)], A, B),
    "ah": ([(AH, TRANSPORT, A, B)], A, B),
    "esp-ah": ([(ESP, TRANSPORT, A, B), (AH, TRANSPORT, A, B)], A, B),
    "ah-esp": ([(AH, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], A, B),
    "esp-tunnel": ([(ESP, TUNNEL, G, H)], A, B),
    "ah-tunnel": ([(AH, TUNNEL, G, H)], A, B),
    "esp-tunnel-ah": ([(ESP, TUNNEL, G, H), (AH, TRANSPORT, G, H)], A, B),
    "esp-in-esp-tunnel": ([(ESP, TRANSPORT, A, B), (ESP, TUNNEL, G, H)], A, B),
    "two-tunnels": ([(ESP, TUNNEL, A, H), (AH, TUNNEL, G, B)], A, B),
    "4-in-6": ([(ESP, TUNNEL, G6, H6)], A, B),
    "4-in-6-ah": ([(AH, TUNNEL, G6, H6)], A, B),
    "esp6": ([(ESP, TRANSPORT, A6, B6)], A6, B6),
    "ah6": ([(AH, TRANSPORT, A6, B6)], A6, B6),
    "esp6-ah6": ([(ESP, TRANSPORT, A6, B6), (AH, TRANSPORT, A6, B6)], A6, B6),
    "esp6-tunnel": ([(ESP, TUNNEL, G6, H6)], A6, B6),
    "ah6-tunnel": ([(AH, TUNNEL, G6, H6)], A6, B6),
    "6-in-4": ([(ESP, TUNNEL, G, H)], A6, B6),
    "6-in-4-in-6": ([(ESP, TUNNEL, G, H), (AH, TUNNEL, G6, H6)], A6, B6),
}
every = pytest.mark.parametrize("name", BUNDLES)


@every
def test_a_datagram_comes_out_as_it_went_in(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    packet = whole(src, dst, 17, udp(b"hello", src=src, dst=dst))
    wire = pair.send(frame(packet))
    assert len(wire) == 1
    last = next((step for step in reversed(steps) if step[1] == TUNNEL), None)
    outer = datagram.read(wire[0])
    assert outer is not None
    assert (outer.src, outer.dst) == ((last[2], last[3]) if last else (src, dst))
    assert outer.proto == steps[-1][0]
    (written,) = pair.receive(wire)
    # AH over IPv4 settles on an identification of its own
    assert written[10:] == packet, pair.dropped()


@every
def test_a_super_packet_is_cut_to_fit_and_comes_out_whole(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    data = bytes(range(256)) * 100
    packet = whole(src, dst, 6, tcp(data, src=src, dst=dst))
    gso = GSO_TCPV6 if len(src) == 16 else GSO_TCPV4
    start = 40 if len(src) == 16 else 20
    wire = pair.send(frame(packet, gso=gso, gso_size=60000, csum=(start, 16)))
    assert max(map(len, wire)) <= MTU
    assert max(map(len, wire)) > MTU - 40
    written = pair.receive(wire)
    assert joined(written) == data
    assert len(written) == 1, "joined, for all of it is authentic"


@every
def test_udp_super_packets_come_out_as_datagrams(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    packet = whole(src, dst, 17, udp(b"a" * 900 + b"b" * 400, src=src, dst=dst))
    start = 40 if len(src) == 16 else 20
    wire = pair.send(frame(packet, gso=GSO_UDP_L4, gso_size=900, csum=(start, 6)))
    written = pair.receive(wire)
    assert [octets[10 + start + 8 :] for octets in written] == [b"a" * 900, b"b" * 400]


@every
def test_what_may_be_cut_leaves_in_pieces_that_fit(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    packet = whole(src, dst, 17, udp(bytes(5000), src=src, dst=dst), df=False)
    wire = pair.send(frame(packet))
    assert len(wire) >= 4
    assert max(map(len, wire)) <= MTU
    if any(mode == TUNNEL for _, mode, *_ in steps) and steps[0][1] == TUNNEL:
        pieces = pair.receive(wire)
        assert len(pieces) == len(wire), "cut before sealing: each packet stands alone"
        assert pair.dropped().get(("esp", "pdrops"), 0) == 0


def test_a_tunnel_that_ends_where_a_layer_inside_does_carries_no_pieces_of_it() -> None:
    """Its end opens both at once; what joins pieces there, the kernel, sees the outside only."""
    pair = Pair([(ESP, TRANSPORT, A, B), (ESP, TUNNEL, A, B)], A, B)
    packet = whole(A, B, 17, udp(bytes(5000), src=A, dst=B), df=False)
    wire = pair.send(frame(packet))
    assert len(wire) == 4
    assert max(map(len, wire)) <= MTU
    assert {piece[4:6] for piece in wire} == {wire[0][4:6]}
    wire.sort(key=lambda piece: int.from_bytes(piece[6:8], "big") & 0x1FFF)
    joined_up = ipv4(ESP, b"".join(piece[20:] for piece in wire), src=A, dst=B)
    (back,) = pair.receive([joined_up])
    assert back[10:][20:] == packet[20:]


@pytest.mark.parametrize("name", ["esp", "ah", "esp-tunnel", "4-in-6", "6-in-4", "ah6-tunnel"])
def test_who_may_not_be_cut_is_told_what_fits_and_that_does(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    foreign = A6[:-1] + b"\x77" if len(src) == 16 else src  # IPv6: somebody behind us
    steps = [(p, m, foreign if a == src else a, b) for p, m, a, b in steps]
    pair = Pair(steps, foreign, dst)
    head = 40 if len(src) == 16 else 20

    def sized(total: int) -> bytes:
        data = bytes(total - head - 8)
        return frame(whole(foreign, dst, 17, udp(data, src=foreign, dst=dst)))

    assert pair.send(sized(1500)) == []
    (answer,) = pair.out.batch.back
    packet = answer[10:]
    told = datagram.read(packet)
    assert told is not None
    assert (told.src, told.dst) == (dst, foreign)
    assert told.proto in (1, ICMPV6)
    mtu = int.from_bytes(packet[head + 4 : head + 8], "big") & 0xFFFF
    assert len(pair.send(sized(mtu))) == 1
    assert pair.send(sized(mtu + 1)) == []


@pytest.mark.parametrize("name", ["esp6", "ah6", "esp6-ah6", "6-in-4", "esp6-tunnel"])
def test_ipv6_of_this_host_is_fragmented_and_its_source_told_once(name: str) -> None:
    """Whether a socket takes fragments shows nowhere in its packets, but its kernel knows."""
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)

    def sized(total: int) -> bytes:
        return frame(whole(src, dst, 17, udp(bytes(total - 48), src=src, dst=dst)))

    back = pair.out.batch.back
    assert len(pair.send(sized(1501))) == 2
    assert len(pair.send(sized(5000))) >= 4
    assert back == [], "what the bare link does not take is fragmented for the source anyway"
    for _ in range(3):
        assert len(pair.send(sized(1500))) == 2
    (answer,) = back
    mtu = int.from_bytes(answer[10 + 44 : 10 + 48], "big")
    assert answer[10 + 40] == 2
    assert len(pair.send(sized(mtu))) == 1
    assert len(pair.send(sized(mtu + 1))) == 2
    pair.out.process(sized(1500), NOW + 599_000_000)
    assert len(back) == 1
    pair.out.process(sized(1500), NOW + 600_000_000)
    assert len(back) == 2, "by then its kernel has forgotten (RFC 8201 5.3)"


def test_ipv6_packets_of_1280_octets_always_pass() -> None:
    steps, src, dst = BUNDLES["esp6-tunnel"]
    for mtu in (1280, 1300):
        pair = Pair(steps, src, dst, mtu=mtu)
        data = udp(bytes(1280 - 48), src=src, dst=dst)
        wire = pair.send(frame(whole(src, dst, 17, data)))
        assert len(wire) == 2
        assert max(map(len, wire)) <= mtu


@every
def test_a_changed_octet_is_noticed_wherever_it_is(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    (wire,) = pair.send(frame(whole(src, dst, 17, udp(b"hello", src=src, dst=dst))))
    at = len(wire) - 3
    assert pair.receive([wire[:at] + bytes((wire[at] ^ 1,)) + wire[at + 1 :]]) == []
    assert pair.dropped().get(("esp", "badauth"), 0) + pair.dropped().get(("ah", "badauth"), 0) == 1
    assert len(pair.receive([wire])) == 1
    assert pair.receive([wire]) == []
    assert pair.dropped().get(("esp", "replay"), 0) + pair.dropped().get(("ah", "replay"), 0) == 1


@every
def test_a_bundle_with_a_layer_too_few_or_too_many_is_refused(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    packet = frame(whole(src, dst, 17, udp(b"hello", src=src, dst=dst)))
    for wanted in (steps[:-1], [*steps, (AH, TRANSPORT, A, B)]):
        pair = Pair(steps, src, dst)
        level = Level.REQUIRE
        pair.into.update_policies([], [1 + Dir.IN])
        if wanted:
            pair.into.update_policies([policy(wanted, Dir.IN, src, dst, level)], ())
        elif not any(mode == TUNNEL for _, mode, *_ in steps):
            continue  # transport mode asks for no policy
        assert pair.receive(pair.send(packet)) == []
        assert {name for _, name in pair.dropped()} >= {"pdrops"}


def test_a_tunnel_carries_fragments_as_they_are_and_transport_mode_whole_ones() -> None:
    datagram = udp(bytes(892))
    for name, in_pieces in (("esp-tunnel", True), ("esp", False)):
        steps, src, dst = BUNDLES[name]
        pair = Pair(steps, src, dst)
        pieces = [
            ipv4(17, datagram[:800], src=src, dst=dst, df=False, more=True),
            ipv4(17, datagram[800:], src=src, dst=dst, df=False, offset=800),
        ]
        wire = [packet for piece in pieces for packet in pair.send(frame(piece))]
        whole = [ipv4(17, datagram, src=src, dst=dst, df=False)]
        assert [octets[10:] for octets in pair.receive(wire)] == (pieces if in_pieces else whole)
        assert pair.out_values[count.FRAG_HELD] == 2 * (not in_pieces)
        assert pair.out_values[count.FRAG_DROPPED] == 0


@pytest.mark.parametrize("ports", [(4000, 53), (4000, 54)])
def test_fragments_under_policies_with_ports_wait_for_each_other(ports: tuple[int, int]) -> None:
    """RFC 4301 7.3: which policy is meant shows the first one alone, if any."""
    steps, src, dst = BUNDLES["esp-tunnel"]
    pair = Pair(steps, src, dst)
    discard = PolicySpec(
        id=9, dir=Dir.OUT, type=PolicyType.DISCARD, order=-1,
        selector=Selector(Range(src, 32), Range(dst, 32, 53), 17),
    )  # fmt: skip
    pair.out.update_policies([discard], ())
    datagram = udp(bytes(892), sport=ports[0], dport=ports[1])
    pieces = [
        ipv4(17, datagram[800:], src=src, dst=dst, df=False, offset=800),
        ipv4(17, datagram[:800], src=src, dst=dst, df=False, more=True),
    ]
    wire = [packet for piece in pieces for packet in pair.send(frame(piece))]
    assert pair.out_values[count.FRAG_HELD] == 2
    assert pair.out_values[count.OUT_POLVIO] == (ports[1] == 53)
    assert len(pair.receive(wire)) == (ports[1] == 54)
    assert len(pair.send(frame(ipv4(6, bytes(80), src=src, dst=dst, df=False, offset=800)))) == 1


@pytest.mark.parametrize("name", ["esp6-tunnel", "6-in-4"])
def test_ipv6_fragments_that_were_joined_are_cut_outside(name: str) -> None:
    """Their sender did what it could: what is sealed is larger than the path all the same."""
    steps, _, dst = BUNDLES[name]
    far = A6[:-1] + b"\x77"
    pair = Pair(steps, far, dst)
    ports = PolicySpec(
        id=9, dir=Dir.OUT, type=PolicyType.DISCARD, order=-1,
        selector=Selector(Range(far, 128), Range(dst, 128, 99), 17),
    )  # fmt: skip
    pair.out.update_policies([ports], ())
    whole = ipv6(17, udp(bytes(2000), src=far, dst=dst), src=far, dst=dst)
    pieces = ip6.fragment(whole, 1280, 7)
    assert len(pieces) == 2
    wire = [packet for piece in pieces for packet in pair.send(frame(piece))]
    assert pair.out.batch.back == []
    assert len(wire) == 2
    assert max(map(len, wire)) <= MTU


@pytest.mark.parametrize("name", ["esp-in-esp-tunnel", "two-tunnels"])
def test_what_is_protected_inside_a_tunnel_is_joined_before_it_is_opened(name: str) -> None:
    """Others cut what transport mode made before they tunnel it (RFC 4301 section 7)."""
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    inner_pair = Pair(steps[:1], src, dst, mtu=60000)
    packet = whole(src, dst, 17, udp(bytes(3000)), df=False)
    (sealed,) = inner_pair.send(frame(packet))
    outer_pair = Pair(steps[1:], datagram.src(sealed), datagram.dst(sealed))
    outer_pair.out.remove(0)
    outer_pair.out.install(OutSa(sa(1, steps[1]), part(1), (0, 0, 0)))
    pieces = [wire for piece in ip.fragment(sealed, 1300) for wire in outer_pair.send(frame(piece))]
    assert len(pieces) == 3
    (written,) = pair.receive(pieces[::-1])
    assert written[10:] == packet
    assert pair.in_values[count.FRAG_HELD] == 3
    assert pair.in_values[count.FRAG_JOINED] == 1


def test_pieces_under_different_protection_are_not_joined() -> None:
    steps, src, dst = BUNDLES["esp-in-esp-tunnel"]
    pair = Pair(steps, src, dst)
    other: Step = (ESP, TUNNEL, B, H)
    pair.into.install(InSa(sa(5, other), part(0), (0, 0, 0)))
    (sealed,) = Pair(steps[:1], src, dst, mtu=60000).send(
        frame(whole(src, dst, 17, udp(bytes(3000)), df=False))
    )
    pieces = ip.fragment(sealed, 1600)
    wire = []
    for slot, step, piece in ((1, steps[1], pieces[0]), (5, other, pieces[1])):
        sender = Pair([step], src, dst, mtu=9000)
        sender.out.remove(0)
        sender.out.install(OutSa(sa(slot, step), part(1), (0, 0, 0)))
        wire += sender.send(frame(piece))
    assert pair.receive(wire) == []
    assert pair.in_values[count.FRAG_HELD] == 2
    assert pair.in_values[count.FRAG_JOINED] == 0


def test_another_end_point_than_the_policys_is_refused() -> None:
    steps, src, dst = BUNDLES["esp-tunnel"]
    pair = Pair(steps, src, dst)
    pair.into.update_policies([policy([(ESP, TUNNEL, B, H)], Dir.IN, src, dst)], ())
    assert pair.receive(pair.send(frame(whole(src, dst, 17, udp(b"x"))))) == []
    assert pair.dropped()["esp", "pdrops"] == 1


@pytest.mark.parametrize("kind", [PolicyType.NONE, None])
def test_a_tunnels_packet_needs_a_policy_that_names_it(kind: PolicyType | None) -> None:
    steps, src, dst = BUNDLES["esp-tunnel"]
    pair = Pair(steps, src, dst)
    pair.into.update_policies((), [1 + Dir.IN])
    if kind is not None:
        none = PolicySpec(
            id=9, dir=Dir.IN, type=kind, selector=Selector(Range(src, 32), Range(dst, 32))
        )
        pair.into.update_policies([none], ())
    assert pair.receive(pair.send(frame(whole(src, dst, 17, udp(b"x"))))) == []
    assert pair.dropped()["esp", "pdrops"] == 1


def test_forwarded_packets_obey_fwd_policies_where_there_are_any() -> None:
    steps, src, _ = BUNDLES["esp-tunnel"]
    behind = bytes((20, 1, 1, 99))
    for other, passes in (([(ESP, TUNNEL, G, H)], True), ([(AH, TUNNEL, G, H)], False)):
        pair = Pair(steps, src, behind)
        pair.into.update_policies([policy(other, Dir.FWD, src, behind)], ())
        wire = pair.send(frame(whole(src, behind, 17, udp(b"x", dst=behind))))
        assert len(pair.receive(wire)) == passes
        pair.into.update_policies((), [1 + Dir.FWD])
        wire = pair.send(frame(whole(src, behind, 17, udp(b"x", dst=behind))))
        assert len(pair.receive(wire)) == 1


def test_a_policy_of_direction_fwd_alone_names_what_is_forwarded() -> None:
    steps, src, _ = BUNDLES["esp-tunnel"]
    behind = bytes((20, 1, 1, 99))
    pair = Pair(steps, src, behind)
    pair.into.update_policies([policy(steps, Dir.FWD, src, behind)], [1 + Dir.IN])
    assert len(pair.receive(pair.send(frame(whole(src, behind, 17, udp(b"x", dst=behind)))))) == 1


def test_others_protected_packets_pass_through_a_tunnel_unopened() -> None:
    steps, src, _ = BUNDLES["esp-tunnel"]
    behind = bytes((20, 1, 1, 99))
    pair = Pair(steps, src, behind)
    packet = ipv4(50, bytes(100), src=src, dst=behind)
    (written,) = pair.receive(pair.send(frame(packet)))
    assert written[10:] == packet


def test_an_sa_for_one_mode_does_not_take_the_other() -> None:
    for mode, step in ((TRANSPORT, (ESP, TUNNEL, A, B)), (TUNNEL, (ESP, TRANSPORT, A, B))):
        pair = Pair([step], A, B)
        pair.into.install(InSa(sa(0, (ESP, mode, A, B)), part(0), (0, 0, 0)))
        assert pair.receive(pair.send(frame(whole(A, B, 17, udp(b"x"))))) == []
        assert pair.dropped()["esp", "invalid"] == 1


def test_identifications_under_ah_are_never_zero() -> None:
    steps, src, dst = BUNDLES["ah"]
    pair = Pair(steps, src, dst)
    for ident in (0, 0xFFFE, 7):
        packet = ipv4(6, tcp(bytes(5000)), src=src, dst=dst, ident=ident)
        wire = pair.send(frame(packet, gso=GSO_TCPV4, gso_size=1000, csum=(20, 16)))
        assert len(wire) == 5
        assert all(octets[4:6] != b"\0\0" for octets in wire)
        assert joined(pair.receive(wire)) == bytes(5000)


def test_an_icmp_error_that_quotes_the_outer_packet_lowers_the_path() -> None:
    for name in ("esp-tunnel", "ah", "ah6", "esp6-tunnel", "ah-tunnel"):
        steps, src, dst = BUNDLES[name]
        pair = Pair(steps, src, dst)
        (wire,) = pair.send(frame(whole(src, dst, 17, udp(bytes(1200), src=src, dst=dst))))
        kind = (2, 0) if wire[0] >> 4 == 6 else (3, 4)
        pair.out.icmp_error(*kind, 1300, wire[:64], NOW)
        assert pair.out_values[count.ICMP_ACCEPTED] == 1, name
        data = whole(src, dst, 6, tcp(bytes(1300), src=src, dst=dst))
        assert max(map(len, pair.send(frame(data)))) <= 1300


def test_extension_headers_stay_outside_in_transport_mode() -> None:
    """RFC 4303 3.1.1: hop-by-hop options are for routers, who cannot read what is sealed."""
    hop = bytes((17, 0, 1, 4, 0, 0, 0, 0))
    for name in ("esp6", "ah6"):
        steps, src, dst = BUNDLES[name]
        pair = Pair(steps, src, dst)
        packet = ipv6(0, udp(b"x", src=src, dst=dst), before=hop)
        (wire,) = pair.send(frame(packet))
        assert (wire[6], wire[40]) == (0, steps[0][0])
        (written,) = pair.receive([wire])
        assert written[10:] == packet


DEST = bytes((17, 0, 0x1E, 4)) + b"abcd"


@pytest.mark.parametrize("name", ["esp6", "ah6", "esp6-ah6"])
def test_destination_options_go_inside_so_that_each_fragment_says_what_it_is_of(name: str) -> None:
    """Those before a routing header are for the places on the way, and stay outside."""
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    for octets, count_ in ((10, 1), (3000, 3)):
        packet = ipv6(60, udp(bytes(octets), src=src, dst=dst), before=DEST)
        wire = pair.send(frame(packet))
        assert len(wire) == count_
        assert {piece[6] if count_ == 1 else piece[40] for piece in wire} == {steps[-1][0]}
        if count_ == 1:
            (written,) = pair.receive(wire)
            assert written[10:] == packet


@pytest.mark.parametrize("name", ["esp6", "ah6", "6-in-4"])
def test_each_packet_of_a_super_packet_has_its_destination_options(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    for proto, gso, upper, offset in (
        (6, GSO_TCPV6, tcp(bytes(5000), src=src, dst=dst), 16),
        (17, GSO_UDP_L4, udp(bytes(5000), src=src, dst=dst), 6),
    ):
        pair = Pair(steps, src, dst)
        options = bytes((proto,)) + DEST[1:]
        packet = ipv6(60, upper, before=options)
        wire = pair.send(frame(packet, gso=gso, gso_size=1000, csum=(48, offset)))
        assert len(wire) == 5
        written = [octets[10:] for octets in pair.receive(wire)]
        assert [octets[40:48] for octets in written] == [options] * 5
        head = 48 + (20 if proto == 6 else 8)
        assert b"".join(octets[head:] for octets in written) == bytes(5000)


@pytest.mark.parametrize(("upper", "passes"), [(17, True), (6, False), (200, False), (44, False)])
def test_without_authenticator_destination_options_are_believed_for_what_they_lead_to(
    upper: int, passes: bool
) -> None:
    steps, src, dst = BUNDLES["esp6"]
    pair = Pair(steps, src, dst)
    selector = Selector(Range(src, 128), Range(dst, 128), 17)
    only_udp = replace(policy(steps, Dir.IN, src, dst), selector=selector)
    pair.into.update_policies([only_udp], [1 + Dir.IN])
    bare = replace(sa(0, steps[0]), auth=0, auth_key=b"")
    pair.into.install(InSa(bare, part(0), (0, 0, 0)))
    options = bytes((upper,)) + DEST[1:]
    payload = options + (
        udp(b"x", src=src, dst=dst) if upper != 44 else bytes((17, 0, 0, 1, *bytes(20)))
    )
    esp = EspSa(bare).seal(1, payload, 60, bytes(16))
    assert bool(pair.receive([ipv6(50, esp)])) == passes
    assert pair.dropped().get(("esp", "badkcr"), 0) == (not passes)


def test_neighbour_discovery_never_comes_out_of_an_sa() -> None:
    steps, src, dst = BUNDLES["esp6"]
    pair = Pair(steps, src, dst)
    assert pair.receive(pair.send(frame(ipv6(ICMPV6, bytes((135, 0)) + bytes(30))))) == []
    assert pair.dropped()["pfkey", "nd_refused"] == 1


def test_super_packets_of_ipv6_are_joined_with_right_headers() -> None:
    steps, src, dst = BUNDLES["esp6"]
    pair = Pair(steps, src, dst)
    packet = ipv6(6, tcp(bytes(3000), src=src, dst=dst))
    (written,) = pair.receive(pair.send(frame(packet, gso=GSO_TCPV6, gso_size=1000, csum=(40, 16))))
    assert written[1] == GSO_TCPV6
    again = segment.read(written)
    assert again is not None
    pieces = segment.cut(again, 1020)
    assert pieces is not None
    direct = segment.cut(segment.read(frame(packet, gso=GSO_TCPV6, gso_size=1000)) or again, 1020)
    assert [bytes(p) for p in pieces] == [bytes(p) for p in direct or ()]
