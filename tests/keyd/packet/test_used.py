"""Which policies had packets, in both pipelines, and how often that is told."""

import pytest

from keyd.packet.used import Used
from pfkey.const import Level, PolicyType
from tests.keyd.packet.test_bundles import BUNDLES
from tests.keyd.packet.test_outbound import Rig, policy
from tests.support.packets import frame, ipv4, udp
from tests.support.pipelines import Pair, whole


@pytest.mark.parametrize("name", ["esp", "esp-tunnel"])
def test_both_pipelines_name_the_policy_of_a_packet(name: str) -> None:
    steps, src, dst = BUNDLES[name]
    pair = Pair(steps, src, dst)
    for _ in range(2):  # the second one from the flow cache
        wire = pair.send(frame(whole(src, dst, 17, udp(b"x", src=src, dst=dst))))
        assert pair.out.used.ids == {3}
        pair.receive(wire)
        assert pair.into.used.ids == {2}
        pair.out.used.ids.clear()
        pair.into.used.ids.clear()


def test_a_policy_is_in_use_whatever_it_does_to_packets() -> None:
    for one in (policy(7), policy(7, level=Level.USE)):
        rig = Rig([one])
        rig.put(frame(ipv4(17, udp(b"x"))))
        assert rig.pipeline.used.ids == {7}
    rig = Rig([policy(7, kind=PolicyType.NONE)])
    rig.put(frame(ipv4(17, udp(b"x"))))
    assert rig.pipeline.used.take(5.0) == []


def test_it_is_told_once_a_second() -> None:
    used = Used()
    assert used.patience(5.0) is None
    used.ids |= {0, 9, 17}
    assert sorted(used.take(5.0)) == [9, 17]
    used.ids.add(9)
    assert used.take(5.9) == []
    assert used.patience(5.75) == 0.25
    assert used.take(6.0) == [9]
    used.ids.add(9)
    assert used.take(1.0) == [9], "the clock was set back"
