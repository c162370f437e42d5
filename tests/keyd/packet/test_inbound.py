"""The inbound pipeline: RFC 4301 section 5.2, RFC 4303 section 3.4."""

import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import counters as count
from keyd.packet.association import InSa
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS
from keyd.packet.esp import EspSa
from keyd.packet.inbound import Inbound
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A, B, ipv4, sums_hold, tcp, udp

NOW = 1_700_000_000_000_000
IV = b"sixteen octets.."


def spec(
    slot: int = 0, spi: int = 9876, *, auth: bool = True, replay: int = 32, reqid: int = 0,
    hard_packets: int = 0, key: bytes = b"k" * 16, src: bytes = A, is_dying: bool = False,
) -> SaSpec:  # fmt: skip
    return SaSpec(
        slot=slot, proto=50, spi=spi, src=src, dst=B, mode=Mode.ANY, reqid=reqid, encrypt=12,
        encrypt_key=key, auth=5 if auth else 0, auth_key=b"a" * 32 if auth else b"",
        replay_packets=replay, hard_packets=hard_packets, is_dying=is_dying,
    )  # fmt: skip


def policy(
    number: int = 1, kind: PolicyType = PolicyType.IPSEC, level: Level = Level.REQUIRE, *,
    proto: int = UNSPEC_PROTO, requests: Sequence[tuple[int, Mode, int]] = ((50, Mode(1), 0),),
    is_hold: bool = False, order: int = 0,
) -> PolicySpec:  # fmt: skip
    return PolicySpec(
        id=number, dir=Dir.IN, type=kind, is_hold=is_hold, order=order,
        selector=Selector(Range(A, 32), Range(B, 32), proto),
        requests=tuple(
            Request(proto=p, mode=m, level=level, reqid=q) for p, m, q in requests
        ) if kind == PolicyType.IPSEC else (),
    )  # fmt: skip


def sealed(
    payload: bytes, seq: int = 1, sa: SaSpec | None = None, *, proto: int = 17, src: bytes = A
) -> bytes:
    esp = EspSa(sa or spec())
    return ipv4(50, esp.seal(seq, payload, proto, IV[: esp.iv_octets]), src=src)


class Rig:
    def __init__(self, policies: Sequence[PolicySpec] = (), sas: Sequence[SaSpec] = ()) -> None:
        self.values = array.array("Q", [0] * len(count.ROWS))
        self.parts: dict[int, array.array[int]] = {}
        self.own = {B}
        self.pipeline = Inbound(memoryview(self.values), lambda address: address in self.own)
        self.pipeline.update_policies(policies, ())
        for sa in sas:
            self.install(sa)

    def install(self, sa: SaSpec, edge: int = 0, since: int = 0) -> None:
        part = self.parts.setdefault(sa.spi, array.array("Q", [edge, 0, 0, 0, 0, 0]))
        self.pipeline.install(InSa(sa, memoryview(part), (0, 0, since)))

    def put(self, packet: bytes) -> list[bytes]:
        self.pipeline.process(packet, NOW)
        return [b"".join(buffers)[10:] for _, _, buffers in self.pipeline.flush()]

    @property
    def counted(self) -> dict[str, int]:
        return {name: n for (_, name), n in zip(count.ROWS, self.values, strict=True) if n}


def test_a_packet_comes_out_as_it_was() -> None:
    rig = Rig(sas=[spec()])
    (packet,) = rig.put(sealed(udp(b"hello"), 5))
    assert packet == ipv4(17, udp(b"hello"))
    assert sums_hold(packet)
    part = rig.parts[9876]
    assert (part[EDGE], part[PACKETS], part[OCTETS]) == (5, 1, 33)
    assert part[FIRST_USE] == part[LAST_USE] == NOW
    assert (rig.counted["input"], rig.counted["ibytes"]) == (1, 33)


def flipped(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes((packet[at] ^ 0x40,)) + packet[at + 1 :]


GOOD = sealed(udp(b"hello"))


@pytest.mark.parametrize(
    ("packet", "counter"),
    [
        (GOOD[:19], "hdrops"),
        (GOOD[:27], "hdrops"),
        (ipv4(50, GOOD[20:27]), "hdrops"),
        (b"", "hdrops"),
        (flipped(GOOD, 22), "notdb"),
        (flipped(GOOD, 18), "notdb"),
        (flipped(GOOD, 13), "invalid"),
        (flipped(GOOD, 50), "badauth"),
        (flipped(GOOD, len(GOOD) - 1), "badauth"),
        (ipv4(50, GOOD[20:-1]), "badilen"),
        (sealed(udp(b"x"), sa=spec(key=b"z" * 16)), "badenc"),
        (sealed(ipv4(17, b"x"), proto=4), "pdrops"),
        (sealed(bytes((5, 1)) + bytes(30), proto=1), "nd_refused"),
    ],
)
def test_a_bad_packet_is_dropped_and_counted(packet: bytes, counter: str) -> None:
    rig = Rig(sas=[spec()])
    assert rig.put(packet) == []
    assert rig.counted.pop(counter) == 1
    rig = Rig(sas=[spec()])
    rig.put(GOOD)
    assert rig.counted == {"input": 1, "ibytes": 33, "spdcachelookup": 1, "spdcachemiss": 1}


def test_a_forged_packet_does_not_move_the_window() -> None:
    rig = Rig(sas=[spec()])
    rig.put(flipped(sealed(udp(b"x"), 5000), 60))
    assert rig.parts[9876][EDGE] == 0
    assert rig.put(sealed(udp(b"x"), 1))


def test_a_replayed_packet_is_dropped_once_seen() -> None:
    rig = Rig(sas=[spec()])
    assert [bool(rig.put(sealed(udp(b"x"), n))) for n in (1, 3, 2, 3, 40, 8, 9, 0)] == [
        True, True, True, False, True, False, True, False,
    ]  # fmt: skip
    assert rig.counted["replay"] == 3


def test_after_a_restart_everything_up_to_the_edge_was_seen() -> None:
    rig = Rig()
    rig.install(spec(), edge=100)
    assert [bool(rig.put(sealed(udp(b"x"), n))) for n in (99, 100, 101)] == [False, False, True]


def test_an_sa_that_is_added_again_begins_with_a_new_window() -> None:
    rig = Rig(sas=[spec()])
    assert rig.put(sealed(udp(b"x"), 500))
    rig.pipeline.remove(0)
    rig.install(spec(), since=NOW + 1)
    assert rig.put(sealed(udp(b"x"), 1))


def test_an_update_of_the_same_sa_keeps_its_window() -> None:
    rig = Rig(sas=[spec()])
    rig.put(sealed(udp(b"x"), 5))
    rig.install(spec(is_dying=True))
    assert [bool(rig.put(sealed(udp(b"x"), n))) for n in (5, 4, 3, 4)] == [False, True, True, False]
    assert rig.counted["replay"] == 2
    rig.pipeline.remove(0)
    rig.put(sealed(udp(b"x"), 7))
    assert rig.counted["notdb"] == 1


def test_without_a_window_repetitions_pass() -> None:
    rig = Rig(sas=[spec(replay=0)])
    assert [len(rig.put(sealed(udp(b"x"), n, spec(replay=0)))) for n in (7, 7, 1)] == [1, 1, 1]


def test_a_hard_limit_ends_the_sa() -> None:
    rig = Rig(sas=[spec(hard_packets=2)])
    assert [len(rig.put(sealed(udp(b"x"), n))) for n in (1, 2, 3)] == [1, 1, 0]
    assert rig.counted["expired"] == 1


ESP, AH = (50, Mode.TRANSPORT, 0), (51, Mode.TRANSPORT, 0)


@pytest.mark.parametrize(
    ("policies", "counter"),
    [
        ([], None),
        ([policy(kind=PolicyType.NONE)], None),
        ([policy()], None),
        ([policy(level=Level.USE)], None),
        ([policy(proto=6)], None),
        ([policy(requests=((50, Mode.ANY, 0),))], None),
        ([policy(requests=((50, Mode.TRANSPORT, 7),))], None),
        ([policy(requests=(AH, ESP), level=Level.USE)], None),
        ([policy(requests=((50, Mode.TRANSPORT, 8),))], "pdrops"),
        ([policy(requests=((50, Mode.TUNNEL, 0),))], "pdrops"),
        ([policy(requests=(AH,))], "pdrops"),
        ([policy(requests=(AH,), level=Level.USE)], "pdrops"),
        ([policy(requests=(ESP, AH))], "pdrops"),
        ([policy(requests=(AH, ESP))], "pdrops"),
        ([policy(kind=PolicyType.DISCARD)], "in_polvio"),
        ([policy(is_hold=True)], "hold_dropped"),
        ([policy(kind=PolicyType.DISCARD), policy(2, order=1)], "in_polvio"),
    ],
)
def test_the_first_policy_must_ask_for_what_the_packet_had(
    policies: list[PolicySpec], counter: str | None
) -> None:
    rig = Rig(policies, [spec(reqid=7)])
    got = rig.put(sealed(udp(b"x")))
    assert len(got) == (counter is None)
    if counter:
        assert rig.counted[counter] == 1


@pytest.mark.parametrize("first", [0, 127, 169, 224, 255])
def test_an_impossible_source_is_refused(first: int) -> None:
    src = bytes((first, 254, 0, 1))
    rig = Rig(sas=[spec(src=src)])
    assert rig.put(sealed(udp(b"x"), src=src)) == []
    assert rig.counted["spoofed"] == 1


def test_a_source_that_is_our_own_is_refused() -> None:
    rig = Rig(sas=[spec()])
    rig.own.add(A)
    assert rig.put(sealed(udp(b"x"))) == []
    assert rig.counted["spoofed"] == 1


@pytest.mark.parametrize(
    ("policies", "proto", "passes"),
    [
        ([], 17, True),
        ([], 200, False),
        ([policy()], 17, True),
        ([policy()], 200, False),
        ([policy(proto=6)], 6, True),
        ([policy(proto=6)], 17, False),
        ([policy(proto=200)], 200, True),
    ],
)
def test_without_authenticator_the_protocol_must_be_one_that_is_expected(
    policies: list[PolicySpec], proto: int, passes: bool
) -> None:
    bare = spec(auth=False)
    rig = Rig(policies, [bare])
    assert bool(rig.put(sealed(udp(b"x"), 1, bare, proto=proto))) == passes
    assert rig.counted.get("badkcr", 0) == (not passes)


def test_a_wrong_key_without_authenticator_lets_next_to_nothing_through() -> None:
    bare = spec(auth=False, replay=0)
    rig = Rig([policy(proto=17)], [bare])
    wrong = spec(auth=False, key=b"z" * 16)
    passed = sum(
        len(rig.put(sealed(udp(seq.to_bytes(4, "big") * 20), seq, wrong))) for seq in range(1, 500)
    )
    assert passed <= 1
    assert rig.counted["badenc"] + rig.counted.get("badkcr", 0) + passed == 499


def test_a_dummy_packet_vanishes() -> None:
    rig = Rig(sas=[spec()])
    assert rig.put(sealed(bytes(40), proto=59)) == []
    assert rig.counted == {"input": 1, "ibytes": 60, "dummies": 1}


def test_a_batch_of_tcp_is_written_at_once_if_it_is_authentic() -> None:
    for sa, writes in ((spec(), 1), (spec(auth=False), 5)):
        rig = Rig(sas=[sa])
        for n in range(5):
            payload = tcp(bytes(1000), seq=1000 * n)
            rig.pipeline.process(sealed(payload, n + 1, sa, proto=6), NOW)
        assert len(list(rig.pipeline.flush())) == writes


ENDS = (
    "hdrops", "notdb", "invalid", "badauth", "badilen", "badenc", "badkcr", "replay", "expired",
    "pdrops", "in_polvio", "hold_dropped", "spoofed", "nd_refused", "dummies", "tunnel", "crypto",
)  # fmt: skip


@given(st.data())
def test_no_octets_raise_and_every_packet_is_counted_once(data: st.DataObject) -> None:
    sa = spec(auth=data.draw(st.booleans()), replay=data.draw(st.sampled_from((0, 32))))
    kinds = st.sampled_from((PolicyType.IPSEC, PolicyType.NONE, PolicyType.DISCARD))
    rig = Rig([policy(1, data.draw(kinds), proto=17), policy(2, data.draw(kinds), order=1)], [sa])
    octets = data.draw(st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda b: ipv4(50, bytes.fromhex("00002694") + b)),
        st.tuples(st.binary(max_size=99), st.integers(0, 99), st.integers(0, 255)).map(
            lambda t: sealed(t[0], t[1], sa, proto=t[2])
        ),
    ))  # fmt: skip
    got = rig.put(octets)
    ends = sum(rig.counted.get(name, 0) for name in ENDS)
    assert 1 <= rig.counted["input"] <= 2, "once for each layer, and random octets may show two"
    if got:
        assert not ends
    else:
        assert ends == 1
