"""What each policy did with packets, in both pipelines, and how often that is told."""

from collections.abc import Sequence

import pytest

from keyd.packet import counters as count
from keyd.packet.tallies import KNOWN_MAX, Tallies, Told
from pfkey.const import Level, PolicyType
from tests.keyd.packet.test_bundles import BUNDLES
from tests.keyd.packet.test_outbound import Rig, policy
from tests.support.packets import frame, ipv4, udp
from tests.support.pipelines import Pair, whole


def take(tallies: Tallies, now: float = 5.0) -> list[Told]:
    return tallies.take(now)


@pytest.mark.parametrize("name", ["esp", "esp-tunnel", "ah", "esp-ah", "two-tunnels"])
def test_both_pipelines_count_under_the_policy_of_a_packet(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    packet = whole(src, dst, 17, udp(b"x" * 100, src=src, dst=dst))
    for now in (5.0, 6.0):  # the second one from the flow cache
        wire = pair.send(frame(packet))
        assert take(pair.out.tallies, now) == [Told(3, 1, len(packet), ())]
        pair.receive(wire)
        assert take(pair.into.tallies, now) == [Told(2, 1, len(packet), ())]


def test_a_policy_counts_what_it_does_whatever_that_is() -> None:
    def told(one: int, **kinds: object) -> Sequence[Told]:
        rig = Rig([policy(one, **kinds)])  # type: ignore[arg-type]
        rig.put(frame(ipv4(17, udp(b"x"))))
        return take(rig.pipeline.tallies)

    octets = 20 + 8 + 1
    assert told(7) == [Told(7, 0, 0, ((count.OUT_NOSA, 1),))]
    assert told(7, level=Level.USE) == [Told(7, 1, octets, ())]
    assert told(7, kind=PolicyType.DISCARD) == [Told(7, 0, 0, ((count.OUT_POLVIO, 1),))]
    assert told(7, is_hold=True) == [Told(7, 0, 0, ((count.HOLD_DROPPED, 1),))]
    assert told(7, kind=PolicyType.NONE) == []


def test_it_is_told_once_a_second_and_again_when_nobody_heard() -> None:
    tallies = Tallies()
    assert tallies.patience(5.0) is None
    tallies.busy.add(tallies.nobody)
    tallies.drop(9, count.WRAP, 2)
    told = tallies.take(5.0)
    assert told == [Told(9, 0, 0, ((count.WRAP, 2),))]
    assert tallies.patience(5.0) is None
    tallies.put_back(told)
    tallies.put_back([Told(9, 3, 40, ((count.WRAP, 1),))])
    assert tallies.take(5.9) == []
    assert tallies.patience(5.75) == 0.25
    assert tallies.take(6.0) == [Told(9, 3, 40, ((count.WRAP, 3),))]
    tallies.busy.add(tallies.of(9))
    assert tallies.take(1.0) == [Told(9, 0, 0, ())], "the clock was set back"


def test_a_policy_that_was_forgotten_loses_nothing() -> None:
    tallies = Tallies()
    kept = tallies.of(1)
    for number in range(2, KNOWN_MAX + 2):
        tallies.of(number)
    assert len(tallies._known) < KNOWN_MAX
    tallies.drop(1, count.WRAP, 1)
    kept.packets += 1
    tallies.busy.add(kept)
    assert sorted(told.packets for told in tallies.take(5.0)) == [0, 1]
