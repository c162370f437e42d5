"""`pfkey sysctl` against running data paths: a knob that is turned has its effect at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.system import AUTHENTIC_KEYS, BIN, A, B, Daemon, require, until

pytestmark = [pytest.mark.root, pytest.mark.slow]


class Knobbed(Two):
    def __init__(self, net: Net, tmp: Path) -> None:
        super().__init__(net, tmp)
        self.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))

    def turn(self, daemon: Daemon, *settings: str) -> None:
        """As its superuser does."""
        daemon.host.run(str(BIN / "pfkey"), "sysctl", "-w", *settings)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knobbed]:
    with Net() as net:
        yield Knobbed(net, tmp_path_factory.mktemp("knobs"))


def test_debug_logs_what_is_dropped_and_why(two: Knobbed) -> None:
    two.turn(two.db, "net.inet.ipsec.debug=1")
    two.turn(two.da, "net.inet.ipsec.test_integrity=1")
    assert not two.ping()
    where = f"src={A} dst={B} proto=50"
    until(lambda: f"dropped=1 group=esp reason=badauth {where}" in two.db.log, 5, "it is logged")
    two.turn(two.da, "net.inet.ipsec.test_integrity=0")
    two.turn(two.db, "net.inet6.ipsec6.debug=0")
    assert two.ping()


def test_a_protocol_is_switched_off_and_on(two: Knobbed) -> None:
    before = two.da.counter("esp", "pdrops")
    two.turn(two.da, "net.inet.ipsec.esp_enable=0")
    assert not two.ping()
    assert two.da.counter("esp", "pdrops") >= before + 2
    assert two.da.counter("pfkey", "internal") == 0
    two.turn(two.da, "net.inet.ipsec.esp_enable=1")
    assert two.ping()


def test_a_receiver_is_tried_with_one_number_again_and_again(two: Knobbed) -> None:
    before = two.db.counter("esp", "replay")
    two.turn(two.da, "net.inet.ipsec.test_replay=1")
    assert not two.ping()
    assert two.db.counter("esp", "replay") >= before + 2
    two.turn(two.da, "net.inet.ipsec.test_replay=0")
    assert two.ping()


def test_a_worker_that_is_started_anew_knows_the_knobs(two: Knobbed) -> None:
    two.turn(two.db, "net.inet.ipsec.esp_enable=0")
    old = two.db.workers()["in"]
    two.b.run("kill", "-9", str(old))
    until(lambda: two.db.workers().get("in", old) != old, 10, "another worker")
    assert not two.ping()
    two.turn(two.db, "net.inet.ipsec.esp_enable=1")
    assert two.ping()
