"""Packets that wait for an SA: how many, how long, in which order; and what the engine is told."""

import array
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import Need, PolicySpec, Request, Settings
from keyd.packet import counters as count
from keyd.packet import waiting
from keyd.packet.tallies import Tallies
from keyd.packet.waiting import PACKET_OCTETS, Needs, Waiting
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.keyd.packet.test_outbound import C, Rig, policy, spec
from tests.support.packets import A6, B6, A, B, frame, ipv4, ipv6, tcp, udp

ASKING = Settings(is_asking=True, wait_seconds=20)
US = 1_000_000
NOW = 1_700_000_000 * US


def need(dst: bytes = B, number: int = 1, proto: int = 50, reqid: int = 0) -> Need:
    return Need(
        policy=number, proto=proto, mode=Mode.TRANSPORT, reqid=reqid, src=A, dst=dst
    )  # fmt: skip


def asking(*policies: PolicySpec) -> Rig:
    rig = Rig(policies)
    rig.pipeline.tune(ASKING)
    return rig


def datagram(text: bytes, dst: bytes = B) -> bytes:
    return frame(ipv4(17, udp(text, dst=dst), dst=dst))


def bundle(*requests: Request) -> PolicySpec:
    return PolicySpec(
        id=1, dir=Dir.OUT, type=PolicyType.IPSEC, requests=requests,
        selector=Selector(Range(A, 32), Range(bytes(4), 0), UNSPEC_PROTO),
    )  # fmt: skip


def step(level: Level = Level.REQUIRE, proto: int = 50, reqid: int = 0) -> Request:
    return Request(proto=proto, mode=Mode.TRANSPORT, level=level, reqid=reqid)


# ---------------------------------------------------------------- in the pipeline


def test_packets_wait_and_leave_in_their_order_when_the_sa_is_there() -> None:
    rig = asking(policy())
    for text in (b"one", b"two", b"three"):
        rig.put(datagram(text))
    assert not rig.sealed
    assert rig.pipeline.waiting.needs.take(NOW / US) == {need(): 3}
    rig.install(spec())
    rig.pipeline.resume(NOW + US)
    assert rig.opened() == [udp(b"one"), udp(b"two"), udp(b"three")]
    assert rig.counted["tun_reads"] == rig.counted["tun_segments"] == 3
    assert "queue_dropped" not in rig.counted
    assert "out_nosa" not in rig.counted


def test_nobody_waits_when_nobody_makes_sas() -> None:
    rig = Rig([policy()])
    rig.put(datagram(b"x"))
    assert rig.counted["out_nosa"] == 1
    assert rig.pipeline.waiting.needs.take(NOW / US) == {}


def test_what_waits_is_dropped_and_counted_when_its_time_is_over() -> None:
    rig = asking(policy())
    rig.put(datagram(b"x"), NOW)
    rig.put(datagram(b"y"), NOW + 19 * US)
    rig.put(datagram(b"z", C), NOW + 19 * US)
    rig.put(frame(ipv4(6, tcp(b"t"))), NOW + 19 * US)
    rig.pipeline.waiting.needs.take(NOW / US + 19)
    assert rig.pipeline.waiting.patience(NOW / US + 19) == 1
    rig.pipeline.resume(NOW + 20 * US - 1)
    assert "queue_dropped" not in rig.counted
    rig.pipeline.resume(NOW + 20 * US)
    assert rig.counted["queue_dropped"] == 2, "a flow's first packet says how long"
    assert rig.counted["foreign"] == 1
    assert rig.pipeline.waiting.patience(NOW / US + 20) == 19
    rig.install(spec())
    rig.pipeline.resume(NOW + 21 * US)
    assert len(rig.opened()) == 1


def test_refused_is_dropped_and_another_flows_packets_wait_on() -> None:
    wide = bundle(step())
    rig = asking(wide)
    rig.put(datagram(b"x"))
    rig.put(datagram(b"y", C))
    rig.pipeline.waiting.end(need())
    assert rig.counted["queue_dropped"] == 1
    assert len(rig.pipeline.waiting) == 1
    rig.pipeline.waiting.end(need(number=77))
    assert len(rig.pipeline.waiting) == 1
    rig.pipeline.tune(Settings())
    assert rig.counted["queue_dropped"] == 2
    assert rig.pipeline.waiting._room.octets == 0


def test_use_leaves_in_clear_and_asks() -> None:
    rig = asking(policy(level=Level.USE))
    rig.put(datagram(b"x"))
    assert rig.counted["clear_out"] == 1
    assert rig.pipeline.waiting.needs.take(NOW / US) == {need(): 1}
    assert len(rig.pipeline.waiting) == 0


def test_a_bundle_asks_for_each_missing_sa_and_leaves_when_all_are_there() -> None:
    rig = asking(bundle(step(reqid=1), step(proto=51), step(reqid=2)))
    rig.put(datagram(b"x"))
    assert set(rig.pipeline.waiting.needs.take(NOW / US)) == {
        need(reqid=1),
        need(proto=51),
        need(reqid=2),
    }
    rig.install(spec(0, 1001, reqid=2))
    rig.install(spec(1, 1002, reqid=1))
    rig.pipeline.resume(NOW + 15 * US)
    assert len(rig.pipeline.waiting) == 1
    rig.pipeline.waiting.end(need(reqid=1))
    assert len(rig.pipeline.waiting) == 1, "that one is there"
    rig.pipeline.resume(NOW + 20 * US)
    assert rig.counted["queue_dropped"] == 1, "it does not begin to wait anew"


def test_use_in_a_bundle_does_not_keep_anybody_waiting() -> None:
    rig = asking(bundle(step(Level.USE, reqid=1), step(reqid=2)))
    rig.put(datagram(b"x"))
    assert set(rig.pipeline.waiting.needs.take(NOW / US)) == {need(reqid=1), need(reqid=2)}
    rig.install(spec(0, 1001, reqid=2))
    rig.pipeline.resume(NOW)
    assert len(rig.sealed) == 1
    rig.put(datagram(b"y"), NOW + US)
    assert set(rig.pipeline.waiting.needs.take(NOW / US + 1)) == {need(reqid=1)}


@pytest.mark.parametrize("dst", [bytes((224, 0, 0, 5)), b"\xff" * 4, A])
@pytest.mark.parametrize("level", [Level.REQUIRE, Level.USE])
def test_nobody_is_asked_for_the_hosts_own_addresses_or_a_group(dst: bytes, level: Level) -> None:
    rig = asking(bundle(step(level)))
    rig.put(datagram(b"x", dst))
    assert rig.pipeline.waiting.needs.take(NOW / US) == {}
    assert len(rig.pipeline.waiting) == 0
    assert rig.counted["out_nosa" if level == Level.REQUIRE else "clear_out"] == 1


def anywhere6(level: Level) -> PolicySpec:
    anywhere = Range(bytes(16), 0)
    selector = Selector(anywhere, anywhere, UNSPEC_PROTO)
    return replace(bundle(step(level)), selector=selector)


def datagram6(src: bytes, dst: bytes) -> bytes:
    return frame(ipv6(17, udp(b"x", src=src, dst=dst), src, dst))


LINK = bytes.fromhex("fe80" + "00" * 13 + "01")


@pytest.mark.parametrize(
    ("src", "dst"), [(A6, b"\xff\x02" + bytes(13) + b"\5"), (B6, A6), (A6, LINK), (LINK, B6)]
)
@pytest.mark.parametrize("level", [Level.REQUIRE, Level.USE])
def test_over_ipv6_nobody_is_asked_for_a_link_either(src: bytes, dst: bytes, level: Level) -> None:
    rig = asking(anywhere6(level))
    rig.put(datagram6(src, dst))
    assert rig.pipeline.waiting.needs.take(NOW / US) == {}
    assert rig.counted["out_nosa" if level == Level.REQUIRE else "clear_out"] == 1


def test_ipv6_waits_as_well_and_leaves_by_its_own_socket() -> None:
    rig = asking(anywhere6(Level.REQUIRE))
    rig.put(datagram6(A6, B6))
    (want,) = rig.pipeline.waiting.needs.take(NOW / US)
    assert (want.src, want.dst) == (A6, B6)
    rig.install(replace(spec(), src=A6, dst=B6))
    rig.pipeline.resume(NOW + US)
    assert (len(rig.sealed), len(rig.pipeline.batch.sealed6)) == (0, 1)


def test_a_tunnel_needs_its_end_points_and_takes_fragments() -> None:
    tunnel = Request(proto=50, mode=Mode.TUNNEL, level=Level.UNIQUE, reqid=5, src=C, dst=B)
    inside = Request(proto=51, mode=Mode.TRANSPORT, level=Level.REQUIRE)
    rig = asking(bundle(tunnel, inside))
    piece = bytearray(ipv4(17, b"x" * 64))
    piece[6] |= 0x20
    rig.put(frame(bytes(piece)))
    wants = rig.pipeline.waiting.needs.take(NOW / US)
    assert {(n.mode, n.src, n.dst, n.reqid) for n in wants} == {
        (Mode.TUNNEL, C, B, 5), (Mode.TRANSPORT, C, B, 0),
    }  # fmt: skip
    assert len(rig.pipeline.waiting) == 1


def test_a_policy_that_changes_is_looked_at_again() -> None:
    rig = asking(policy())
    rig.put(datagram(b"x"))
    rig.pipeline.update_policies([policy(level=Level.USE)], ())
    rig.pipeline.resume(NOW)
    assert rig.counted["clear_out"] == 1
    rig = asking(policy())
    rig.put(datagram(b"x"))
    rig.pipeline.update_policies([], [1])
    rig.pipeline.resume(NOW)
    assert rig.counted["foreign"] == 1
    assert rig.pipeline.waiting._room.octets == 0


def test_a_super_packet_waits_whole() -> None:
    rig = asking(policy())
    data = bytes(40_000)
    rig.put(frame(ipv4(6, tcp(data)), gso=1, gso_size=1400, csum=(20, 16)))
    rig.install(spec())
    rig.pipeline.resume(NOW)
    assert len(rig.sealed) > 20


# ---------------------------------------------------------------- bounds


class Room:
    def __init__(self) -> None:
        self.values = array.array("Q", [0] * len(count.ROWS))
        self.tallies = Tallies()
        self.waiting = Waiting(memoryview(self.values), self.tallies, waiting.Room())
        self.waiting.tune(ASKING)

    @property
    def dropped(self) -> int:
        assert self.values[count.TUN_SEGMENTS] == self.values[count.QUEUE_DROPPED]
        of_policies = sum(tally.drops[count.QUEUE_DROPPED] for tally in self.tallies.busy)
        assert self.values[count.QUEUE_DROPPED] == of_policies
        return self.values[count.QUEUE_DROPPED]

    def put(self, key: bytes, packet: bytes, needs: Sequence[Need] = (need(),)) -> None:
        self.waiting.put(key, tuple(needs), packet, 0.0)


def test_a_full_flow_loses_its_oldest_packet() -> None:
    room = Room()
    for number in range(10):
        room.put(b"flow", bytes((number,)) * 60_000)
    left = list(room.waiting.take(b"flow"))
    assert [p[0] for p in left] == [8, 9]
    assert room.dropped == 8


def test_one_policys_storm_leaves_room_for_another() -> None:
    room = Room()
    for number in range(10_000):
        room.put(b"%d" % number, bytes(60), (need(number.to_bytes(4, "big"), number=1),))
    assert room.waiting._room.octets <= waiting.POLICY_OCTETS_MAX
    before = room.dropped
    room.put(b"other", bytes(60), (need(number=2),))
    assert room.dropped == before
    assert [len(p) for p in room.waiting.take(b"other")] == [60]


def test_what_waits_for_another_policy_counts_in_that_ones_share() -> None:
    room = Room()
    room.put(b"flow", bytes(60_000), (need(number=1),))
    room.waiting.keep(b"flow", (need(number=2),))
    while room.dropped == 0:
        room.put(b"%d" % len(room.waiting), bytes(60_000), (need(number=2),))
    assert room.waiting._room.octets <= waiting.POLICY_OCTETS_MAX
    room.put(b"other", bytes(60_000), (need(number=1),))
    assert len(list(room.waiting.take(b"other"))) == 1


def test_all_of_it_is_bounded() -> None:
    room = Room()
    for number in range(100):
        for _ in range(10):
            room.put(b"%d" % number, bytes(60_000), (need(number=number),))
    assert waiting.OCTETS_MAX - 61_000 < room.waiting._room.octets <= waiting.OCTETS_MAX
    room = Room()
    for number in range(waiting.FLOWS_MAX + 100):
        room.put(b"%d" % number, b"x", (need(number=number),))
    assert len(room.waiting) == waiting.FLOWS_MAX
    assert room.dropped == 100


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 3)),
        st.tuples(st.just("take"), KEYS, st.just(0)),
        st.tuples(st.just("end"), st.just(b""), st.integers(0, 3)),
        st.tuples(st.just("stir"), st.just(b""), st.integers(0, 3)),
        st.tuples(st.just("expire"), st.just(b""), st.integers(0, 40)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_the_books_balance(steps: list[tuple[str, bytes, int]]) -> None:
    room, wait = Room(), None
    wait = room.waiting
    in_line: dict[bytes, int] = {}
    put = 0
    out = 0
    for what, key, number in steps:
        wants = need(bytes((30, 0, 0, number)), number=number)
        if what == "put":
            put += 1
            room.put(key, b"x", (wants,))
        elif what == "take" and key in wait._lines:
            out += len(list(wait.take(key)))
        elif what == "end":
            wait.end(wants)
        elif what == "stir":
            wait.stir((A, wants.dst))
            for ripe, _ in wait.ripe():
                out += len(list(wait.take(ripe)))
        elif what == "expire":
            wait.expire(float(number))
        in_line = {k: len(line.packets) for k, line in wait._lines.items()}
        assert put == out + room.dropped + sum(in_line.values())
        assert wait._room.octets == sum(in_line.values()) * (1 + PACKET_OCTETS)
        assert sum(wait._room.of_policy.values()) == wait._room.octets
        assert {k for keys in wait._by_pair.values() for k in keys} == set(in_line)
        assert all(in_line.values())


# ---------------------------------------------------------------- what the engine is told


def test_a_need_is_told_at_once_then_ten_times_a_second_with_its_packets() -> None:
    needs = Needs()
    assert needs.patience(5.0) is None
    needs.note([need()], 5.0)
    assert needs.take(5.0) == {need(): 1}
    assert needs.patience(5.0) is None
    for _ in range(30):
        needs.note([need()], 5.05)
    assert needs.take(5.05) == {}
    assert needs.patience(5.05) == pytest.approx(0.05)
    assert needs.take(5.2) == {need(): 30}
    needs.note([need()], 1.0)
    assert needs.take(1.0) == {need(): 1}, "the clock was set back"


def test_a_new_need_is_told_before_those_that_were_told() -> None:
    needs = Needs()
    needs.note([need()], 5.0)
    needs.take(5.0)
    needs.note([need(), need(C)], 5.01)
    assert needs.take(5.01) == {need(C): 1}


def test_a_storm_under_one_policy_is_told_in_part_and_silences_no_other() -> None:
    needs = Needs()
    told = 0
    for number in range(20_000):
        needs.note([need(number.to_bytes(4, "big"), number=9)], 5.0)
        told += len(needs.take(5.0))
    assert told == waiting.REPORTS_PER_SECOND
    assert len(needs._shares[9]._known) <= waiting.NEEDS_MAX
    assert needs.patience(5.0) == 1
    needs.note([need()], 5.0)
    assert needs.take(5.0) == {need(): 1}
    assert len(needs.take(6.0)) == waiting.REPORTS_PER_SECOND
    for number in range(1000):
        needs.note([need(number=number)], 6.0)
    assert len(needs._shares) <= waiting.SHARES_MAX


def test_needs_of_two_policies_for_one_sa_are_one() -> None:
    assert need(number=1) == need(number=2)
    assert need(reqid=1) != need()
    assert Need.from_json(need(number=7, reqid=9).to_json()) == need(reqid=9)
