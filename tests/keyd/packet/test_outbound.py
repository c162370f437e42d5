"""The outbound pipeline: RFC 4301 section 5.1."""

import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec, Request, SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet.association import OutSa
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.packet.outbound import Outbound
from keyd.packet.segment import GSO_TCPV4, GSO_UDP_L4
from keyd.packet.trunk import Trunk
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A, B, frame, ipv4, sums_hold, tcp, udp

NOW = 1_700_000_000_000_000
C = bytes((30, 1, 1, 1))
A6, B6 = bytes.fromhex("fd00" + "00" * 13 + "01"), bytes.fromhex("fd00" + "00" * 13 + "02")


def spec(
    slot: int = 0, spi: int = 9876, *, order: int = 0, is_dying: bool = False, reqid: int = 0,
    mode: Mode = Mode.ANY, hard_packets: int = 0, hard_bytes: int = 0, auth: bool = True,
) -> SaSpec:  # fmt: skip
    return SaSpec(
        slot=slot, proto=50, spi=spi, src=A, dst=B, mode=mode, reqid=reqid, encrypt=12,
        encrypt_key=b"k" * 16, auth=5 if auth else 0, auth_key=b"a" * 32 if auth else b"",
        order=order, is_dying=is_dying, hard_packets=hard_packets, hard_bytes=hard_bytes,
    )  # fmt: skip


def policy(
    number: int = 1, kind: PolicyType = PolicyType.IPSEC, level: Level = Level.REQUIRE, *,
    proto: int = UNSPEC_PROTO, reqid: int = 0, order: int = 0, is_hold: bool = False,
) -> PolicySpec:  # fmt: skip
    request = Request(proto=50, mode=Mode.TRANSPORT, level=level, reqid=reqid)
    return PolicySpec(
        id=number, dir=Dir.OUT, type=kind, order=order, is_hold=is_hold,
        selector=Selector(Range(A, 32), Range(B, 32), proto),
        requests=(request,) if kind == PolicyType.IPSEC else (),
    )  # fmt: skip


class Rig:
    """A pipeline with its counters, an MTU and predictable chance."""

    def __init__(self, policies: Sequence[PolicySpec] = (), sas: Sequence[SaSpec] = ()) -> None:
        self.values = array.array("Q", [0] * len(count.ROWS))
        self.parts: dict[int, array.array[int]] = {}
        self.mtu = 1500
        self.pipeline = Outbound(
            Trunk(
                memoryview(self.values),
                lambda _: self.mtu,
                lambda n: bytes(range(256))[:n].ljust(n),
                lambda address: address in (A, A6),
            )
        )
        self.pipeline.update_policies(policies, ())
        for sa in sas:
            self.install(sa)

    def install(self, sa: SaSpec, edge: int = 1) -> None:
        part = self.parts[sa.spi] = array.array("Q", [edge, 0, 0, 0, 0, 0])
        self.pipeline.install(OutSa(sa, memoryview(part), (0, 0, 0)))

    def put(self, octets: bytes, now: int = NOW) -> None:
        self.pipeline.process(octets, now)

    @property
    def counted(self) -> dict[str, int]:
        return {name: n for (_, name), n in zip(count.ROWS, self.values, strict=True) if n}

    @property
    def sealed(self) -> list[bytes]:
        return self.pipeline.batch.sealed

    def opened(self, sa: SaSpec | None = None) -> list[bytes]:
        esp, payloads = EspSa(sa or spec()), []
        for packet in self.sealed:
            result = esp.open(packet[20:])
            assert not isinstance(result, Drop)
            payloads.append(bytes(result[1]))
        return payloads


@pytest.mark.parametrize(
    ("policies", "counter"),
    [
        ([], "foreign"),
        ([policy(kind=PolicyType.NONE)], "foreign"),
        ([policy(kind=PolicyType.DISCARD)], "out_polvio"),
        ([policy()], "out_nosa"),
        ([policy(level=Level.UNIQUE)], "out_nosa"),
        ([policy(level=Level.DEFAULT)], "out_nosa"),
        ([policy(is_hold=True)], "hold_dropped"),
        ([policy(kind=PolicyType.NONE), policy(2, order=1)], "foreign"),
    ],
)
def test_a_packet_that_may_not_leave_is_dropped_and_counted(
    policies: list[PolicySpec], counter: str
) -> None:
    rig = Rig(policies)
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert rig.counted[counter] == 1
    batch = rig.pipeline.batch
    assert not batch.sealed + batch.clear + batch.back


def test_ipv6_that_no_policy_wants_is_foreign_and_junk_is_junk() -> None:
    rig = Rig([policy()], [spec()])
    rig.put(frame(b"\x60" + bytes(5) + b"\x3b" + bytes(33)))
    rig.put(frame(b"\x45" + bytes(50)))
    rig.put(b"")
    assert (rig.counted["foreign"], rig.counted["tun_short"]) == (1, 2)


def test_a_datagram_is_sealed_under_its_own_header() -> None:
    rig = Rig([policy()], [spec()])
    rig.put(frame(ipv4(17, udp(b"hello"), ident=7, ttl=33)))
    (packet,) = rig.sealed
    assert sums_hold(packet)
    assert (packet[8], packet[9], packet[4:6], packet[12:20]) == (33, 50, b"\0\7", A + B)
    assert packet[20:28] == bytes.fromhex("00002694 00000001")
    assert rig.opened() == [udp(b"hello")]
    part = rig.parts[9876]
    assert (part[EDGE], part[PACKETS], part[OCTETS]) == (2, 1, 33)
    assert part[FIRST_USE] == part[LAST_USE] == NOW


def test_a_tcp_super_packet_becomes_packets_that_fit_the_link() -> None:
    rig = Rig([policy()], [spec()])
    data = bytes(range(256)) * 200
    super_packet = ipv4(6, tcp(data, unfinished=True))
    rig.put(frame(super_packet, gso=GSO_TCPV4, gso_size=65000, csum=(20, 16)))
    assert max(map(len, rig.sealed)) <= 1500
    assert all(map(sums_hold, rig.sealed))
    assert b"".join(payload[20:] for payload in rig.opened()) == data
    assert [p[24:28] for p in rig.sealed] == [
        n.to_bytes(4, "big") for n in range(1, len(rig.sealed) + 1)
    ]
    assert rig.counted["superpacket_in"] == 1
    assert rig.counted["tun_segments"] == len(rig.sealed) > 30


def test_udp_super_packets_are_sealed_datagram_by_datagram() -> None:
    rig = Rig([policy()], [spec()])
    super_packet = ipv4(17, udp(b"a" * 1000 + b"b" * 500, unfinished=True))
    rig.put(frame(super_packet, gso=GSO_UDP_L4, gso_size=1000, csum=(20, 6)))
    assert rig.opened() == [udp(b"a" * 1000), udp(b"b" * 500)]


def test_what_does_not_fit_and_may_not_be_cut_is_answered_with_what_would() -> None:
    rig = Rig([policy()], [spec()])
    rig.put(frame(ipv4(17, udp(bytes(1472)))))
    (answer,) = rig.pipeline.batch.back
    assert rig.counted["icmp_toobig_sent"] == 1
    mtu = int.from_bytes(answer[10 + 26 : 10 + 28], "big")
    rig.put(frame(ipv4(17, udp(bytes(mtu - 28)))))
    assert [len(packet) <= 1500 for packet in rig.sealed] == [True]
    rig.put(frame(ipv4(17, udp(bytes(mtu - 27)))))
    assert len(rig.pipeline.batch.back) == 2


@pytest.mark.parametrize("ident", [0, 9])
@pytest.mark.parametrize("gso", [False, True])
def test_what_may_be_cut_is_sealed_whole_and_then_fragmented(ident: int, gso: bool) -> None:
    rig = Rig([policy()], [spec()])
    octets = ipv4(17, udp(bytes(3000), unfinished=True), df=False, ident=ident)
    rig.put(frame(octets, csum=(20, 6), gso=GSO_UDP_L4 * gso, gso_size=3000 * gso))
    pieces = rig.sealed
    assert (len(pieces), rig.counted["output"]) == (3, 1)
    assert max(map(len, pieces)) <= 1500
    assert len({packet[4:6] for packet in pieces}) == 1
    assert pieces[0][4:6] != b"\0\0"
    whole = b"".join(packet[20:] for packet in pieces)
    result = EspSa(spec()).open(whole)
    assert not isinstance(result, Drop)
    assert bytes(result[1]) == udp(bytes(3000))


def test_a_datagram_that_would_exceed_ip_after_sealing_is_dropped() -> None:
    rig = Rig([policy()], [spec()])
    rig.put(frame(ipv4(17, udp(bytes(65500)), df=False)))
    assert rig.counted["toobig"] == 1
    assert not rig.sealed
    assert rig.parts[9876][EDGE] == 1


def test_use_without_an_sa_leaves_in_clear_and_segmented() -> None:
    rig = Rig([policy(level=Level.USE)])
    data = bytes(20000)
    super_packet = ipv4(6, tcp(data, unfinished=True))
    rig.put(frame(super_packet, gso=GSO_TCPV4, gso_size=60000, csum=(20, 16)))
    clear = rig.pipeline.batch.clear
    assert not rig.sealed
    assert all(map(sums_hold, clear))
    assert max(map(len, clear)) == 1500
    assert sum(len(packet) - 40 for packet in clear) == 20000
    assert rig.counted["clear_out"] == len(clear)
    clear.clear()
    rig.put(frame(ipv4(17, udp(bytes(3000)), df=False)))
    assert [(packet[9], len(packet)) for packet in clear] == [(17, 1500), (17, 1500), (17, 68)]


def test_an_sa_ends_the_clear_packets_of_use_at_once() -> None:
    rig = Rig([policy(level=Level.USE)])
    rig.put(frame(ipv4(17, udp(b"x"))))
    rig.install(spec())
    rig.put(frame(ipv4(17, udp(b"x"))))
    rig.pipeline.remove(0)
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert (len(rig.pipeline.batch.clear), len(rig.sealed)) == (2, 1)


@pytest.mark.parametrize("df", [True, False])
def test_transport_mode_takes_fragments_once_they_are_whole(df: bool) -> None:
    """RFC 4303 3.1.1: transport mode protects datagrams; others' fragments stay out."""
    rig = Rig([policy(proto=17)], [spec()])
    whole = udp(bytes(range(200)))
    for octets in (
        ipv4(17, whole[104:], offset=104, df=df),
        ipv4(6, bytes(100), offset=104, df=df),
        ipv4(17, whole[:104], more=True, df=df),
    ):
        assert not rig.sealed
        rig.put(frame(octets))
    assert rig.opened() == [whole]
    assert (rig.counted["frag_held"], rig.counted["frag_joined"]) == (2, 1)
    assert rig.counted["foreign"] == 1
    assert rig.counted["tun_segments"] == 4


def test_the_newest_mature_sa_is_taken_and_a_dying_one_for_want_of_others() -> None:
    rig = Rig([policy()])
    spis = []
    for sa in (
        spec(0, 256, order=5, is_dying=True),
        spec(1, 257, order=3),
        spec(2, 258, order=4),
        spec(3, 259, order=9, mode=Mode.TUNNEL),
    ):
        rig.install(sa)
        rig.put(frame(ipv4(17, udp(b"x"))))
        spis.append(int.from_bytes(rig.sealed.pop()[20:24], "big"))
    assert spis == [256, 257, 258, 258]


def test_the_oldest_sa_is_taken_where_the_knob_says_so() -> None:
    rig = Rig([policy()])
    rig.pipeline.tune(Settings(prefers_old_sa=True))
    spis = []

    def put() -> None:
        rig.put(frame(ipv4(17, udp(b"x"))))
        spis.append(int.from_bytes(rig.sealed.pop()[20:24], "big"))

    for sa in (
        spec(0, 256, order=3),
        spec(1, 257, order=4),
        spec(2, 258, order=5, is_dying=True),
        spec(3, 259, order=2),
    ):
        rig.install(sa)
        put()
    assert spis == [256, 256, 258, 258]
    rig.pipeline.tune(Settings())
    put()
    assert spis[-1] == 257


def test_a_policys_reqid_chooses_the_sa() -> None:
    rig = Rig([policy(reqid=7)], [spec(0, 256, reqid=6), spec(1, 257, order=-1, reqid=7)])
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert rig.sealed[0][20:24] == (257).to_bytes(4, "big")


def test_the_last_sequence_number_is_used_and_none_after_it() -> None:
    rig = Rig([policy()])
    rig.install(spec(), edge=0xFFFFFFFF)
    rig.put(frame(ipv4(17, udp(b"x"))))
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert [packet[24:28] for packet in rig.sealed] == [b"\xff\xff\xff\xff"]
    assert rig.counted["wrap"] == 1


def test_hard_limits_stop_the_sa_exactly() -> None:
    rig = Rig([policy()], [spec(hard_packets=3)])
    super_packet = ipv4(6, tcp(bytes(5000), unfinished=True))
    rig.put(frame(super_packet, gso=GSO_TCPV4, gso_size=1000, csum=(20, 16)))
    assert (len(rig.sealed), rig.counted["expired"]) == (3, 2)
    rig = Rig([policy()], [spec(hard_bytes=100)])
    for _ in range(5):
        rig.put(frame(ipv4(17, udp(bytes(22)))))
    assert (len(rig.sealed), rig.counted["expired"]) == (2, 3), "50, 100: no more"


def test_an_error_that_quotes_our_packet_lowers_the_path_mtu_until_it_is_old() -> None:
    rig = Rig([policy()], [spec()])
    octets = frame(ipv4(17, udp(bytes(1400))))
    rig.put(octets)
    (ours,) = rig.sealed
    rig.pipeline.icmp_error(3, 4, 1300, ours[:28], NOW)
    assert rig.counted["icmp_accepted"] == 1
    rig.put(octets)
    assert (len(rig.sealed), len(rig.pipeline.batch.back)) == (1, 1)
    rig.put(octets, NOW + 601_000_000)
    assert len(rig.sealed) == 2


@pytest.mark.parametrize(
    ("kind", "code", "mtu", "change"),
    [
        (5, 1, 1300, None),
        (4, 0, 1300, None),
        (0, 0, 1300, None),
        (3, 1, 1300, (20, b"\x63")),
        (11, 0, 1300, (24, b"\0\0\0\2")),
        (3, 4, 0, None),
        (3, 4, 1500, None),
        (3, 4, 9000, None),
        (3, 4, 1300, (12, b"\x63")),
        (3, 4, 1300, (16, b"\x63")),
        (3, 4, 1300, (9, b"\x11")),
        (3, 4, 1300, (20, b"\x63")),
        (3, 4, 1300, (24, b"\0\0\0\2")),
        (3, 4, 1300, (24, b"\0\0\0\0")),
    ],
)
def test_errors_that_quote_nothing_of_ours_change_nothing(
    kind: int, code: int, mtu: int, change: tuple[int, bytes] | None
) -> None:
    rig = Rig([policy()], [spec()])
    octets = frame(ipv4(17, udp(bytes(1400))))
    rig.put(octets)
    quoted = bytearray(rig.sealed[0][:28])
    if change:
        quoted[change[0] : change[0] + len(change[1])] = change[1]
    rig.pipeline.icmp_error(kind, code, mtu, bytes(quoted), NOW)
    assert rig.counted["icmp_ignored"] == 1
    rig.put(octets)
    assert len(rig.sealed) == 2


def test_a_flow_is_looked_up_once_until_something_changes() -> None:
    rig = Rig([policy()], [spec()])
    for _ in range(5):
        rig.put(frame(ipv4(17, udp(b"x"))))
    assert (rig.counted["spdcachelookup"], rig.counted["spdcachemiss"]) == (5, 1)
    rig.pipeline.update_policies([policy(2, order=1)], ())
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert rig.counted["spdcachemiss"] == 2


ENDS = (
    "foreign", "out_polvio", "out_nosa", "hold_dropped", "tun_short", "toobig",
    "icmp_toobig_sent", "out_inval", "wrap", "expired", "frag_held", "pdrops",
)  # fmt: skip


@given(st.data())
def test_no_octets_raise_and_every_packet_is_counted_once(data: st.DataObject) -> None:
    kinds = st.sampled_from((PolicyType.IPSEC, PolicyType.NONE, PolicyType.DISCARD))
    rig = Rig(
        [policy(1, data.draw(kinds), data.draw(st.sampled_from(Level)), proto=17),
         policy(2, data.draw(kinds), order=1)],
        [spec(auth=data.draw(st.booleans()))] if data.draw(st.booleans()) else [],
    )  # fmt: skip
    rig.mtu = data.draw(st.sampled_from((68, 300, 576, 1500, 65535, 65536)))
    payload = data.draw(st.binary(max_size=64)) + bytes(data.draw(st.sampled_from((0, 3000))))
    packet = data.draw(st.sampled_from((
        ipv4(6, tcp(payload)), ipv4(17, udp(payload)), ipv4(17, udp(payload), df=False),
        ipv4(6, payload), ipv4(17, payload), ipv4(1, payload), ipv4(17, payload, more=True),
        ipv4(17, udp(payload), dst=C), payload,
    )))  # fmt: skip
    size, at = st.integers(0, 2000), st.integers(0, 40)
    octets = frame(
        packet, gso=data.draw(st.sampled_from((0, 0, 1, 5, 3))), gso_size=data.draw(size),
        csum=(data.draw(at), data.draw(at)),
    )  # fmt: skip
    rig.pipeline.tune(
        Settings(
            is_asking=data.draw(st.booleans()), repeats_numbers=data.draw(st.booleans()),
            spoils_icvs=data.draw(st.booleans()), disabled=data.draw(st.sampled_from([(), (50,)])),
        )
    )  # fmt: skip
    rig.put(octets)
    if len(rig.pipeline.waiting):
        assert rig.pipeline.waiting.needs.take(NOW / 1e6)
        rig.pipeline.tune(Settings())  # nobody makes SAs any more
        assert rig.counted["queue_dropped"] == rig.counted["tun_segments"] == 1
        return
    sent = len(rig.sealed) + len(rig.pipeline.batch.clear)
    ends = sum(rig.counted.get(name, 0) for name in ENDS)
    if sent:
        assert all(len(p) <= max(rig.mtu, 128) for p in rig.sealed + rig.pipeline.batch.clear)
        assert not ends
    else:
        assert ends == 1, rig.counted
