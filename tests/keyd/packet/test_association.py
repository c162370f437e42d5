"""SAs with their numbers: RFC 4303 sections 3.3.3 and 3.4.3, and what outlives a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import SaSpec
from keyd.packet import counters as count
from keyd.packet.association import InSa, OutSa
from keyd.packet.counters import EDGE, IV, LAST_USE
from keyd.packet.esp import ESN_MAX, SEQ_MAX, peek
from pfkey.const import KameFlag, SaFlag
from tests.support.packets import A, B, frame, tcp, udp
from tests.support.pipelines import AH, ESP, NOW, TRANSPORT, Pair, Step, joined, part, sa, whole

ESN, CYCSEQ = int(SaFlag.ESN), int(SaFlag.CYCSEQ)
STEP: Step = (ESP, TRANSPORT, A, B)


def made(slot: int, step: Step, **more: int) -> SaSpec:
    base = sa(slot, step)
    return SaSpec(**{**{name: getattr(base, name) for name in base.__slots__}, **more})


def pair_of(step: Step, out_edge: int, in_edge: int, **more: int) -> Pair:
    """A pair whose numbers are already there."""
    pair = Pair([step], A, B)
    pair.out.install(OutSa(made(0, step, **more), part(out_edge), (0, 0, 0)))
    pair.into.remove(0)  # or the new one would go on with the window of the old
    pair.into.install(InSa(made(0, step, **more), part(in_edge), (0, 0, 0)))
    return pair


def numbers(wire: list[bytes], at: int = 24) -> list[int]:
    return [int.from_bytes(packet[at : at + 4], "big") for packet in wire]


@pytest.mark.parametrize("proto", [ESP, AH])
@pytest.mark.parametrize(("flags", "last"), [(0, SEQ_MAX), (ESN, ESN_MAX)])
def test_an_sa_stops_at_its_last_number(proto: int, flags: int, last: int) -> None:
    """What is left of a batch is sent; the rest is counted, and all that comes after it."""
    pair = pair_of((proto, TRANSPORT, A, B), last - 2, last - 3, flags=flags)
    data = bytes(9000)
    super_packet = frame(whole(A, B, 6, tcp(data)), gso=1, gso_size=1000, csum=(20, 16))
    wire = pair.send(super_packet)
    at = 24 if proto == ESP else 28
    assert numbers(wire, at) == [SEQ_MAX - 2, SEQ_MAX - 1, SEQ_MAX]
    wrap = count.WRAP if proto == ESP else count.AH_WRAP
    assert pair.out_values[wrap] == 6
    assert joined(pair.receive(wire)) == data[:3000]
    assert pair.send(super_packet) == []
    assert pair.out_values[wrap] == 15


def test_without_a_window_an_sa_may_begin_again_where_asked_to() -> None:
    pair = pair_of(STEP, SEQ_MAX, 0, flags=CYCSEQ, replay_packets=0)
    wire = [packet for _ in range(3) for packet in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    assert numbers(wire) == [SEQ_MAX, 0, 1]
    assert len(pair.receive(wire)) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"encrypt": 20, "auth": 0, "flags": CYCSEQ, "replay_packets": 0},
        {"flags": CYCSEQ | KameFlag.DERIV, "encrypt": 2, "replay_packets": 0},
        {"flags": CYCSEQ, "replay_packets": 1},
    ],
)
def test_what_must_not_repeat_never_begins_again(more: dict[str, int]) -> None:
    keys = {20: b"k" * 20, 2: b"k" * 8}.get(more.get("encrypt", 0))
    extra = {"encrypt_key": keys, "auth_key": b"" if more.get("auth") == 0 else b"a" * 32}
    spec = made(0, STEP, **more, **(extra if keys else {}))  # type: ignore[arg-type]
    assert OutSa(spec, part(SEQ_MAX), (0, 0, 0)).numbers_left == 1
    assert OutSa(spec, part(SEQ_MAX + 1), (0, 0, 0)).numbers_left == 0


@given(st.integers(1, ESN_MAX), st.integers(0, SEQ_MAX))
def test_what_was_sent_is_recognised_by_its_lower_half(edge: int, low: int) -> None:
    out = OutSa(made(0, STEP, flags=ESN), part(edge), (0, 0, 0))
    newest = edge - 1 - ((edge - 1 - low) % 2**32)
    assert out.has_sent(low) == (newest >= 1)


def test_all_was_sent_by_an_sa_that_is_used_up() -> None:
    out = OutSa(made(0, STEP, flags=ESN), part(0), (0, 0, 0))
    assert out.numbers_left == 0
    assert out.has_sent(0)
    assert out.has_sent(SEQ_MAX)


def test_extended_numbers_cross_into_the_next_upper_half_with_loss_and_disorder() -> None:
    for proto in (ESP, AH):
        pair = pair_of((proto, TRANSPORT, A, B), SEQ_MAX - 20, SEQ_MAX - 21, flags=ESN)
        wire = [p for n in range(40) for p in pair.send(frame(whole(A, B, 17, udp(b"%d" % n))))]
        arrived = wire[10:20] + wire[:10][::-1] + wire[30:][::-1] + wire[21:30]
        got = [octets[10 + 28 :] for octets in pair.receive(arrived)]
        assert got == [b"%d" % wire.index(packet) for packet in arrived]
        assert pair.receive(arrived) == []
        group = "esp" if proto == ESP else "ah"
        assert pair.dropped()[group, "replay"] == len(arrived)
        assert peek(wire[-1][20:] if proto == ESP else wire[-1][24:]) == (1000, 18)


def test_after_a_restart_an_extended_window_goes_on() -> None:
    """The upper half cannot be had from packets: it comes out of the state file."""
    edge = 5 << 32 | 7
    pair = pair_of(STEP, edge + 1, edge, flags=ESN)
    (first,) = pair.send(frame(whole(A, B, 17, udp(b"x"))))
    assert len(pair.receive([first])) == 1
    kept = part(edge + 1)
    kept[LAST_USE] = NOW
    for since, expected in ((0, 0), (NOW + 1, 1)):
        # a worker that was restarted knows the number; after an ADD only where it counts
        pair.into.remove(0)
        pair.into.install(InSa(made(0, STEP, flags=ESN), kept, (0, 0, since)))
        assert len(pair.receive([first])) == expected
    assert kept[EDGE] == edge + 1


def test_an_sa_added_again_begins_anew_without_extended_numbers() -> None:
    kept = part(1000)
    kept[LAST_USE] = NOW
    assert InSa(made(0, STEP), kept, (0, 0, NOW)).window.edge == 1000
    assert InSa(made(0, STEP), kept, (0, 0, NOW + 1)).window.edge == 0


def test_counters_of_a_counter_mode_skip_the_word_that_says_none() -> None:
    spec = SaSpec(
        slot=0, proto=ESP, spi=1, src=A, dst=B, mode=TRANSPORT, encrypt=20, encrypt_key=bytes(20)
    )
    numbers = part(1)
    out = OutSa(spec, numbers, (0, 0, 0))
    assert out.take_counters(2, 2**64 - 2) == bytes.fromhex("fffffffffffffffe" + "ffffffffffffffff")
    assert numbers[IV] == 1
    assert out.take_counters(1, 77) == bytes(7) + b"\1"


@given(st.integers(0, 255), st.lists(st.integers(1, 100), max_size=60))
def test_each_number_is_opened_once_whatever_the_order(size: int, order: list[int]) -> None:
    """The window in front of the real thing."""
    pair = pair_of(STEP, 1, 0, replay_packets=size)
    wire = [p for _ in range(100) for p in pair.send(frame(whole(A, B, 17, udp(b"x"))))]
    taken = [number for number in order if pair.receive([wire[number - 1]])]
    if size:
        assert len(taken) == len(set(taken))
    else:
        assert taken == order
