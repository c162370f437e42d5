"""ESP in UDP, RFC 3948: layout, keepalives, NATs in between, and scapy as the other side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.ipsec import ESP as SCAPY_ESP
from scapy.layers.ipsec import SecurityAssociation
from scapy.packet import Raw

from keyd.model import SaSpec
from keyd.packet import counters as count
from keyd.packet import datagram, ip, ip6, natt
from keyd.packet.association import InSa, OutSa
from keyd.packet.checksum import checksum, finish, partial, pseudo
from keyd.packet.counters import LAST_USE
from keyd.packet.keepalives import IDLE_SECONDS, Keepalives
from keyd.packet.mappings import PER_SECOND, Mappings
from keyd.packet.natt import Mapping
from keyd.packet.segment import GSO_TCPV4, GSO_TCPV6
from pfkey.errors import CryptoError
from tests.support.packets import A6, B6, A, B, frame, ipv4, ipv6, sums_hold, tcp, udp
from tests.support.pipelines import (
    AH,
    COMP,
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
    sa,
    whole,
)  # fmt: skip

PUBLIC, PORT = bytes((198, 51, 100, 7)), 31337
SECOND = 1_000_000


def encap(slot: int, step: Step, **more: object) -> SaSpec:
    """An SA between ports 4500."""
    base = sa(slot, step)
    values = {name: getattr(base, name) for name in base.__slots__}
    if step[0] == ESP:
        values |= {"encap": 2, "sport": 4500, "dport": 4500}
    return SaSpec(**{**values, **more})


def nat(packet: bytes, src: bytes = PUBLIC, sport: int = PORT, dst: bytes = b"") -> bytes:
    """What a router makes of a packet on its way: another source, and the checksum to match."""
    head = datagram.read(packet)
    assert head is not None
    inner = bytearray(packet[head.at : head.total])
    dst = dst or head.dst
    had_sum = inner[6:8] != b"\0\0"
    inner[:2], inner[6:8] = sport.to_bytes(2, "big"), bytes(2)
    if had_sum:
        total = pseudo(src, dst, 17, len(inner)) + partial(inner)
        inner[6:8] = (finish(total) or 0xFFFF).to_bytes(2, "big")
    fresh = bytearray(packet[: head.at])
    if len(src) == 4:
        fresh[12:20] = src + dst
        return ip.rebuild(fresh, 17, len(inner)) + bytes(inner)
    fresh[8:40] = src + dst
    return bytes(fresh) + bytes(inner)


# Layout


@given(st.binary(min_size=8, max_size=100), st.integers(0, 65535), st.integers(0, 65535))
def test_over_ipv4_the_checksum_is_zero_and_over_ipv6_it_holds(
    esp: bytes, sport: int, dport: int
) -> None:
    """Section 2.1, RFC 8200 section 8.1."""
    for header in (ipv4(17, b""), ipv6(17, b"")):
        made = natt.encapsulated(header, esp, sport, dport)
        assert made[:6] == b"".join(n.to_bytes(2, "big") for n in (sport, dport, 8 + len(esp)))
        assert made[8:] == esp
        packet = datagram.rebuild(header, 17, len(made)) + made
        head = datagram.read(packet)
        assert head is not None
        if header[0] >> 4 == 4:
            assert made[6:8] == bytes(2)
        else:
            assert finish(pseudo(head.src, head.dst, 17, len(made)) + partial(made)) == 0
            assert made[6:8] != bytes(2)
        found = natt.read(packet, head)
        assert found is not None
        assert (found.sport, found.dport, bytes(found.payload)) == (sport, dport, esp)
        assert found.is_esp == any(esp[:4])
        bare, told = natt.as_esp(packet, head, found)
        assert bare == packet[: head.at] + esp
        assert told == datagram.read(datagram.rebuild(header, 50, len(esp)) + esp)


@given(st.binary(max_size=60), st.sampled_from([4, 6]))
def test_any_datagram_is_read_or_not_and_never_raises(octets: bytes, version: int) -> None:
    packet = ipv4(17, octets) if version == 4 else ipv6(17, octets)
    head = datagram.read(packet)
    assert head is not None
    found = natt.read(packet, head)
    if found is not None:
        assert len(found.payload) <= len(octets) - 8
        assert not (found.is_esp and found.is_keepalive)


def test_a_checksum_that_is_there_must_hold() -> None:
    """And its absence is taken over both versions."""
    for packet in (ipv4(17, udp(b"payload!")), ipv6(17, udp(b"payload!", src=A6, dst=B6))):
        head = datagram.read(packet)
        assert head is not None
        assert natt.read(packet, head) is not None
        assert natt.read(packet[:-1] + b"?", head) is None
        none = packet[: head.at + 6] + bytes(2) + packet[head.at + 8 :]
        assert natt.read(none, head) is not None


# Both pipelines

CASES: dict[str, tuple[list[Step], bytes, bytes]] = {
    "transport": ([(ESP, TRANSPORT, A, B)], A, B),
    "transport6": ([(ESP, TRANSPORT, A6, B6)], A6, B6),
    "tunnel": ([(ESP, TUNNEL, G, H)], A, B),
    "tunnel6": ([(ESP, TUNNEL, G6, H6)], A6, B6),
    "4-in-6": ([(ESP, TUNNEL, G6, H6)], A, B),
    "6-in-4": ([(ESP, TUNNEL, G, H)], A6, B6),
    "comp": ([(COMP, TRANSPORT, A, B), (ESP, TRANSPORT, A, B)], A, B),
}
every = pytest.mark.parametrize("name", CASES)


@every
def test_a_datagram_comes_out_as_it_went_in(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst, make=encap)
    packet = whole(src, dst, 17, udp(b"hello " * 50, src=src, dst=dst))
    (wire,) = pair.send(frame(packet))
    head = datagram.read(wire)
    assert head is not None
    assert (head.proto, head.ports) == (17, (4500, 4500))
    (written,) = pair.receive([wire])
    assert written[10:] == packet


@every
def test_a_super_packet_is_cut_to_fit_and_comes_out_whole(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst, make=encap)
    data = bytes(range(256)) * 100
    packet = whole(src, dst, 6, tcp(data, src=src, dst=dst))
    gso = GSO_TCPV6 if len(src) == 16 else GSO_TCPV4
    start = 40 if len(src) == 16 else 20
    wire = pair.send(frame(packet, gso=gso, gso_size=60000, csum=(start, 16)))
    assert max(map(len, wire)) <= MTU
    if name != "comp":
        assert max(map(len, wire)) > MTU - 40
    written = pair.receive(wire)
    assert joined(written) == data
    assert len(written) == 1


def scapys(mode: str) -> SecurityAssociation:
    return SecurityAssociation(
        SCAPY_ESP, spi=1000, crypt_algo="AES-CBC", crypt_key=b"k" * 16,
        auth_algo="SHA2-256-128", auth_key=b"a" * 32,
        nat_t_header=UDP(sport=4500, dport=4500),
        tunnel_header=IP(src="30.1.1.1", dst="40.1.1.1") if mode == "tunnel" else None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["transport", "tunnel"])
def test_scapy_opens_what_we_seal_and_we_open_what_scapy_seals(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst, make=encap)
    packet = whole(src, dst, 17, udp(b"hello", src=src, dst=dst))
    (wire,) = pair.send(frame(packet))
    inner = scapys(name).decrypt(IP(wire))
    assert bytes(inner[UDP])[8:] == b"hello"
    theirs = bytes(scapys(name).encrypt(IP(packet), seq_num=7))
    assert theirs[9] == 17
    (written,) = pair.receive([theirs])
    assert written[10:][20:] == packet[20:]


# What is not ESP


def put(pair: Pair, payload: bytes) -> dict[tuple[str, str], int]:
    assert pair.receive([ipv4(17, udp(payload, sport=4500, dport=4500))]) == []
    return pair.dropped()


@pytest.mark.parametrize(
    ("payload", "counter"),
    [
        (b"\xff", "natt_keepalives_in"),
        (bytes(4) + b"IKE", "natt_alien"),
        (b"", "natt_alien"),
        (b"\xfe", "natt_alien"),
        (b"\xff" * 3, "natt_alien"),
        (bytes(8), "natt_alien"),
    ],
)
def test_what_is_no_esp_in_udp_is_counted(payload: bytes, counter: str) -> None:
    pair = Pair(*CASES["transport"], make=encap)
    assert put(pair, payload) == {("pfkey", counter): 1}


def test_broken_datagrams_are_counted() -> None:
    pair = Pair(*CASES["transport"], make=encap)
    good = ipv4(17, udp(b"\1" * 40))
    for packet in (
        ipv4(17, udp(b"\1" * 40)[:7]),
        ipv4(17, udp(b"\1" * 40)[:-1]),
        good[:-1] + b"\2",
        ipv4(17, udp(b"\1" * 40), df=False, more=True),
    ):
        before = pair.in_values[count.NATT_ALIEN]
        assert pair.receive([packet]) == []
        assert pair.in_values[count.NATT_ALIEN] == before + 1
    assert pair.receive([good]) == []
    assert pair.dropped()["esp", "notdb"] == 1


def test_an_sa_is_in_udp_or_not_and_takes_nothing_else() -> None:
    packet = frame(whole(A, B, 17, udp(b"x")))
    for sender, receiver in ((encap, sa), (sa, encap)):
        pair = Pair(*CASES["transport"], make=sender)
        pair.into.remove(0)
        pair.into.install(InSa(receiver(0, (ESP, TRANSPORT, A, B)), part(0), (0, 0, 0)))
        assert pair.receive(pair.send(packet)) == []
        assert pair.dropped()["esp", "invalid"] == 1


@pytest.mark.parametrize("step", [(AH, TRANSPORT, A, B), (COMP, TRANSPORT, A, B)])
def test_nothing_but_esp_goes_in_udp(step: Step) -> None:
    with pytest.raises(CryptoError, match="cannot be done"):
        InSa(encap(0, step, encap=2), part(0), (0, 0, 0))
    with pytest.raises(CryptoError, match="encapsulation 1"):
        InSa(encap(0, (ESP, TRANSPORT, A, B), encap=1), part(0), (0, 0, 0))


# NATs

BEHIND: Step = (ESP, TRANSPORT, PUBLIC, B)  # how the receiver knows the sender


def behind_nat(**more: object) -> Pair:
    """A, behind a NAT, sends to B, who knows it by the NAT's address."""
    pair = Pair(*CASES["transport"], make=encap)
    pair.into.remove(0)
    pair.into.update_policies([], [1, 2, 3, 4])
    spec = encap(0, BEHIND, sport=PORT, **more)
    pair.into.install(InSa(spec, part(0), (0, 0, 0)))
    return pair


PAYLOADS = {
    6: tcp(b"some data"), 17: udp(b"some data"), 17 + 256: udp(b"some data")[:6] + b"\0\0some data",
    1: b"\x08\0\xf7\xff\0\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("oa", [b"", A])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_transports_checksum_is_right_for_the_address_it_arrives_from(
    kind: int, oa: bytes
) -> None:
    """Section 3.1.2: by the original address where it is known, else made anew."""
    pair = behind_nat(oa_src=oa, oa_dst=B)
    packet = whole(A, B, kind & 255, PAYLOADS[kind])
    wire = [nat(p) for p in pair.send(frame(packet))]
    (written,) = pair.receive(wire)
    assert written[22:26] == PUBLIC
    assert written[10:][28 if kind == 17 else 40 :] == packet[28 if kind == 17 else 40 :]
    if kind == 17 + 256:
        assert written[36:38] == b"\0\0", "none was made, and none is"
    else:
        assert sums_hold(written[10:])


def test_a_checksum_that_was_wrong_stays_wrong_where_the_original_is_known() -> None:
    broken = bytearray(tcp(b"some data"))
    broken[16] ^= 1
    both = {"oa_src": A, "oa_dst": B}
    for known, is_right in ((both, False), ({}, True), ({"oa_src": A}, True)):
        pair = behind_nat(**known)
        wire = [nat(p) for p in pair.send(frame(whole(A, B, 6, bytes(broken))))]
        (written,) = pair.receive(wire)
        assert sums_hold(written[10:]) == is_right, "made anew: the ICV vouches for the octets"


def test_both_ends_may_be_behind_nats() -> None:
    """The receiver too: the sender knew it by its NAT's address."""
    outside = bytes((203, 0, 113, 9))
    pair = Pair([(ESP, TRANSPORT, A, outside)], A, outside, make=encap)
    pair.into.remove(0)
    pair.into.update_policies([], [1, 2, 3, 4])
    step: Step = (ESP, TRANSPORT, PUBLIC, B)
    for known in ({"oa_src": A, "oa_dst": outside}, {}):
        pair.into.remove(0)
        pair.into.install(InSa(encap(0, step, sport=PORT, **known), part(0), (0, 0, 0)))
        wire = pair.send(frame(whole(A, outside, 6, tcp(b"data", dst=outside))))
        (written,) = pair.receive([nat(p, dst=B) for p in wire])
        assert written[22:30] == PUBLIC + B
        assert sums_hold(written[10:])


def test_segments_from_behind_a_nat_are_joined() -> None:
    pair = behind_nat()
    data = bytes(range(256)) * 40
    packet = frame(whole(A, B, 6, tcp(data)), gso=GSO_TCPV4, gso_size=1000, csum=(20, 16))
    written = pair.receive([nat(p) for p in pair.send(packet)])
    assert (len(written), joined(written)) == (1, data)


@given(st.binary(max_size=200), st.binary(min_size=8, max_size=8), st.sampled_from([6, 17]))
def test_the_change_by_difference_equals_the_checksum_made_anew(
    data: bytes, addresses: bytes, proto: int
) -> None:
    make = tcp if proto == 6 else udp
    before = ipv4(proto, make(data))
    now = bytearray(before[:20])
    now[12:20] = addresses
    packet = ip.rebuild(now, proto, len(before) - 20) + before[20:]
    head = datagram.read(packet)
    assert head is not None
    mended = natt.mended(packet, head, A + B)
    assert mended == natt.mended(packet, head, b"")
    octets = mended[20:]
    assert finish(pseudo(head.src, head.dst, proto, len(octets)) + partial(octets)) == 0
    assert natt.mended(mended, head, addresses) == mended


def test_icmpv6_has_addresses_in_its_checksum_and_icmp_has_none() -> None:
    for header, src, dst, proto in ((ipv6, A6, B6, 58), (ipv4, A, B, 1)):
        body = bytearray(b"\x80\0\0\0abcd")
        total = pseudo(src, dst, proto, 8) if proto == 58 else 0
        body[2:4] = finish(total + partial(body)).to_bytes(2, "big")
        packet = header(proto, bytes(body))
        head = datagram.read(packet)
        assert head is not None
        other = G6 if proto == 58 else G
        moved = natt.mended(packet, head, other + dst)
        assert (moved == packet) == (proto == 1)


@pytest.mark.parametrize("proto", [33, 136])
def test_partial_checksums_change_by_difference_and_are_not_made_anew(proto: int) -> None:
    """UDP-Lite and DCCP may cover a part only: what that is, nobody here looks up."""
    packet = ipv4(proto, bytes(range(1, 21)))
    head = datagram.read(packet)
    assert head is not None
    assert natt.mended(packet, head, b"") == packet
    assert natt.mended(packet, head, G + B) != packet


@given(st.binary(max_size=30), st.sampled_from([6, 17, 33, 136, 58, 1, 99]))
def test_mending_never_raises_nor_changes_the_length(payload: bytes, proto: int) -> None:
    for packet in (ipv4(proto, payload), ipv6(proto, payload)):
        head = datagram.read(packet)
        if head is not None:
            width = len(head.src)
            for original in (b"", bytes(2 * width)):
                assert len(natt.mended(packet, head, original)) == len(packet)


# Mappings that change


def test_a_mapping_that_changes_is_told_once() -> None:
    pair = behind_nat()
    wire = [p for _ in range(6) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    pair.receive([nat(wire[0])])
    assert pair.into.mappings.take(1.0) == []
    other = bytes((198, 51, 100, 8))
    pair.receive([nat(wire[1], src=other), nat(wire[2], src=other)])
    assert pair.into.mappings.take(2.0) == [Mapping(B, 1000, PUBLIC, PORT, other, PORT)]
    pair.receive([nat(wire[4], src=other, sport=9)])
    assert pair.into.mappings.take(3.0) == [Mapping(B, 1000, other, PORT, other, 9)]
    assert pair.in_values[count.NATT_MOVED] == 2


def test_what_is_late_repeated_or_false_moves_nothing() -> None:
    pair = behind_nat()
    wire = [p for _ in range(4) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    other = bytes((198, 51, 100, 8))
    pair.receive([nat(wire[2])])
    pair.receive([nat(wire[1], src=other)])  # late
    pair.receive([nat(wire[2], src=other)])  # repeated
    broken = nat(wire[3][:-1] + bytes((wire[3][-1] ^ 1,)), src=other)
    pair.receive([broken])
    assert pair.into.mappings.take(4.0) == []
    assert pair.dropped()["esp", "replay"] == pair.dropped()["esp", "badauth"] == 1
    pair.receive([nat(wire[3], src=other)])
    assert len(pair.into.mappings.take(5.0)) == 1


def test_without_an_authenticator_nothing_moves() -> None:
    def careless(slot: int, step: Step) -> SaSpec:
        return encap(slot, step, auth=0, auth_key=b"")

    pair = Pair(*CASES["transport"], make=careless)
    wire = pair.send(frame(whole(A, B, 17, udp(b"x"))))
    assert len(pair.receive([nat(wire[0])])) == 1
    assert pair.into.mappings.take(6.0) == []


def test_an_update_that_follows_the_peer_is_not_told_again() -> None:
    pair = behind_nat()
    wire = [p for _ in range(4) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    pair.receive([nat(wire[0], sport=7)])
    assert len(pair.into.mappings.take(7.0)) == 1
    pair.into.install(InSa(encap(0, BEHIND, sport=7), part(0), (0, 0, 0)))
    pair.receive([nat(wire[1], sport=7)])
    assert pair.into.mappings.take(8.0) == []
    # lifetimes alone changed: what was told is not told again
    pair.receive([nat(wire[2], sport=8)])
    pair.into.install(InSa(encap(0, BEHIND, sport=7, hard_bytes=10**9), part(0), (0, 0, 0)))
    pair.receive([nat(wire[3], sport=8)])
    assert len(pair.into.mappings.take(9.0)) == 1


def test_a_peer_that_moves_all_the_time_is_told_of_once_a_second() -> None:
    """The newest place alone; and back where it was is nothing new."""
    pair = behind_nat()
    wire = [p for _ in range(40) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    packets = iter(wire)
    mappings = pair.into.mappings
    assert mappings.patience(5.0) is None
    pair.receive([nat(next(packets), sport=1)])
    assert mappings.patience(5.0) == 0
    assert [m.new_sport for m in mappings.take(5.0)] == [1]
    for port in range(2, 32):
        pair.receive([nat(next(packets), sport=port)])
        assert mappings.take(5.0 + port / 40) == []
    assert mappings.patience(5.75) == 0.25
    assert mappings.take(6.0) == [Mapping(B, 1000, PUBLIC, 1, PUBLIC, 31)]
    pair.receive([nat(next(packets), sport=1), nat(next(packets), sport=31)])
    assert mappings.patience(9.0) is None
    assert pair.in_values[count.NATT_MOVED] == 33
    pair.receive([nat(next(packets), sport=2)])
    assert [m.new_sport for m in mappings.take(1.0)] == [2], "the clock was set back"
    pair.receive([nat(next(packets), sport=3)])
    pair.into.remove(0)
    assert mappings.take(20.0) == []


def test_all_together_are_told_of_so_fast_and_in_turn() -> None:
    def sa(slot: int) -> InSa:
        return InSa(encap(slot, BEHIND), part(0), (0, 0, 0))

    sas = {slot: sa(slot) for slot in range(2 * PER_SECOND + 1)}
    mappings = Mappings(sas)
    for port in (1, 2):
        for one in sas.values():
            mappings.note(one, (PUBLIC, port))
    told = [[m.spi for m in mappings.take(now)] for now in (5.0, 5.5, 6.0, 6.5, 7.0)]
    assert [len(one) for one in told] == [PER_SECOND, 0, PER_SECOND, 0, 1]
    assert mappings.patience(7.0) is None
    assert all(one.peer == (PUBLIC, 2) for one in sas.values())


def test_a_worker_that_begins_knows_where_peers_are() -> None:
    """As the engine was told, and tells the next worker; another key begins where its SA says."""
    other = bytes((198, 51, 100, 8))
    pair = behind_nat()
    wire = [p for _ in range(3) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    pair.into.remove(0)
    pair.into.install(InSa(encap(0, BEHIND, sport=9, origin=other), part(0), (0, 0, 0)))
    pair.receive([nat(wire[0], src=other, sport=9)])
    assert pair.into.mappings.take(5.0) == []
    pair.receive([nat(wire[1], sport=9)])
    pair.into.install(InSa(encap(0, BEHIND, auth_key=b"z" * 32), part(0), (0, 0, 0)))
    assert pair.into.mappings.take(6.0) == [], "it was of another key"


# Keepalives


@pytest.mark.parametrize("name", ["transport", "tunnel6"])
def test_a_keepalive_is_one_octet_between_the_sas_ports(name: str) -> None:
    ends = CASES[name][0][0][2:]
    packet = natt.keepalive(*ends, 4500, 31337)
    head = datagram.read(packet)
    assert head is not None
    assert (head.src, head.dst, head.ports) == (*ends, (4500, 31337))
    if head.src[:1] != b"\xfd":
        assert checksum(packet[:20]) == 0
    found = natt.read(packet, head)
    assert found is not None
    assert found.is_keepalive


def test_keepalives_are_sent_where_nothing_else_was() -> None:
    keepalives = Keepalives(lambda address: address == A)
    busy, idle = part(1), part(1)
    first = OutSa(encap(0, (ESP, TRANSPORT, A, B)), busy, (0, 0, 0))
    again = OutSa(encap(1, (ESP, TRANSPORT, A, B)), idle, (0, 0, 0))  # the same mapping
    other = OutSa(encap(2, (ESP, TRANSPORT, A, G)), part(1), (0, 0, 0))
    plain = OutSa(sa(3, (ESP, TRANSPORT, A, H)), part(1), (0, 0, 0))
    back = OutSa(encap(4, (ESP, TRANSPORT, B, A)), part(1), (0, 0, 0))  # is the peer's to keep
    for one in (first, again, other, plain, back):
        keepalives.insert(one)
    assert keepalives.due(NOW) == []
    busy[LAST_USE] = NOW + 15 * SECOND
    late = NOW + IDLE_SECONDS * SECOND
    assert keepalives.due(late - 1) == []
    assert keepalives.due(late) == [natt.keepalive(A, G, 4500, 4500)]
    assert keepalives.due(late + 1) == []
    assert keepalives.due(NOW + 35 * SECOND) == [natt.keepalive(A, B, 4500, 4500)]
    keepalives.remove(2)
    keepalives.remove(2)
    assert keepalives.due(NOW + 100 * SECOND) == [natt.keepalive(A, B, 4500, 4500)]


def test_the_pipeline_sends_and_counts_them() -> None:
    pair = Pair(*CASES["transport"], make=encap)
    for seconds, sent in ((0, 0), (19, 0), (20, 1), (21, 1), (40, 2)):
        pair.out.keepalives(NOW + seconds * SECOND)
        assert len(pair.out.batch.sealed) == pair.out_values[count.NATT_KEEPALIVES_OUT] == sent
    pair.receive(pair.out.batch.sealed)
    assert pair.in_values[count.NATT_KEEPALIVES_IN] == 2


# The path


@pytest.mark.parametrize("name", ["transport", "tunnel6"])
def test_an_icmp_error_that_quotes_esp_in_udp_lowers_the_path(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst, make=encap)
    data = whole(src, dst, 6, tcp(bytes(1300), src=src, dst=dst))
    (wire,) = pair.send(frame(data))
    kind = (2, 0) if wire[0] >> 4 == 6 else (3, 4)
    pair.out.icmp_error(*kind, 1300, wire[:50], NOW)  # of IPv6: less than SPI and number
    pair.out.icmp_error(*kind, 1300, wire[:64], NOW)
    assert pair.out_values[count.ICMP_ACCEPTED] >= 1
    assert max(map(len, pair.send(frame(data)))) <= 1300


@pytest.mark.parametrize("name", ["transport", "tunnel6"])
def test_the_path_to_a_peer_that_moved_is_that_to_where_it_is_now(name: str) -> None:
    steps, src, dst = CASES[name]
    now_at = PUBLIC if len(steps[0][3]) == 4 else bytes(15) + b"\7"

    def moved(slot: int, step: Step) -> SaSpec:
        return encap(slot, step, via=now_at)

    pair = Pair(steps, src, dst, make=moved)
    data = whole(src, dst, 6, tcp(bytes(1300), src=src, dst=dst))
    (wire,) = pair.send(frame(data))
    assert datagram.dst(wire) == now_at
    kind = (2, 0) if wire[0] >> 4 == 6 else (3, 4)
    pair.out.icmp_error(*kind, 1300, wire[:64], NOW)
    assert pair.out_values[count.ICMP_ACCEPTED] == 1
    assert max(map(len, pair.send(frame(data)))) <= 1300


def test_scapy_reads_a_keepalive_and_a_mended_packet() -> None:
    assert bytes(IP(natt.keepalive(A, B, 1, 2))[UDP].payload) == b"\xff"
    pair = behind_nat(oa_src=A)
    wire = [nat(p) for p in pair.send(frame(whole(A, B, 6, tcp(b"data"))))]
    (written,) = pair.receive(wire)
    told = IP(written[10:])
    again = IP(src=told.src, dst=told.dst) / TCP(bytes(told[TCP])[:20]) / Raw(b"data")
    del again[TCP].chksum
    assert IP(bytes(again))[TCP].chksum == told[TCP].chksum


def test_ipv6_headers_with_options_carry_esp_in_udp() -> None:
    hop = bytes((17, 0, 1, 4, 0, 0, 0, 0))
    pair = Pair(*CASES["transport6"], make=encap)
    packet = ipv6(0, udp(b"x", src=A6, dst=B6), before=hop)
    (wire,) = pair.send(frame(packet))
    chain = ip6.walk(wire)
    assert chain is not None
    assert (wire[6], chain.proto) == (0, 17)
    (written,) = pair.receive([wire])
    assert written[10:] == packet
