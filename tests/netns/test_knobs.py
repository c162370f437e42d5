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
    until(lambda: f"dropped=1 group=esp reason=badauth {where}" in two.db.log, what="it is logged")
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
    assert two.ping(), "so that there is a number to repeat"
    before = two.db.counter("esp", "replay")
    two.turn(two.da, "net.inet.ipsec.test_replay=1")
    assert not two.ping()
    assert two.db.counter("esp", "replay") >= before + 2
    two.turn(two.da, "net.inet.ipsec.test_replay=0")
    assert two.ping()


def passes(two: Knobbed, address: str) -> bool:
    return two.a.run("ping", "-c1", "-W1", address, check=False).returncode == 0


@pytest.mark.parametrize(
    ("tree", "near", "far", "own", "anywhere"),
    [
        ("net.inet.ipsec", "10.2.2.1/24", "10.2.2.2", "127.0.0.1", "0.0.0.0/0"),
        ("net.inet6.ipsec6", "fd22::1/64", "fd22::2", "::1", "::/0"),
    ],
    ids=["v4", "v6"],
)
def test_what_no_policy_selects_is_discarded_where_the_knob_says_so(
    net: Net, tmp_path: Path, tree: str, near: str, far: str, own: str, anywhere: str
) -> None:
    """Also through a crash, and until the knob is turned back."""
    a, b = net.host("a", ipv6=True), net.host("b", ipv6=True)
    net.link(a, f"{A}/32", b, f"{B}/32")
    prefix = near.partition("/")[2]
    for host, address, dev in ((a, near, "tob"), (b, f"{far}/{prefix}", "toa")):
        host.ip("addr", "add", address, "dev", dev, *(["nodad"] if ":" in address else []))
    two = Knobbed.__new__(Knobbed)
    two.a, two.b = a, b
    two.da = Daemon(a, tmp_path)
    assert passes(two, far)
    assert passes(two, own)
    two.turn(two.da, f"{tree}.def_policy=0")
    assert not passes(two, far)
    assert not passes(two, own)
    assert two.da.counter("ipsec", "out_polvio") >= 2
    is_v6 = tree.endswith("6")
    assert passes(two, B) == is_v6, "the other version has a knob of its own"
    if not is_v6:
        lines = f"{anywhere} {far} any -P out none; spdadd {far} {anywhere} any -P in none;"
        two.da.setkey(f"spdadd {lines}")
        assert passes(two, far)
        assert not passes(two, own)
        two.da.setkey("spdflush;")
        assert not passes(two, far)
    two.da.kill()
    assert not passes(two, far)
    two.da.start()
    assert not passes(two, far)
    shown = a.run(str(BIN / "pfkey"), "sysctl", f"{tree}.def_policy").stdout
    assert shown == f"{tree}.def_policy = 0\n"
    two.turn(two.da, f"{tree}.def_policy=1")
    assert passes(two, far)
    assert passes(two, own)
    two.da.stop()
    assert "pfkey" not in a.run("nft", "list", "tables").stdout


def test_a_worker_that_is_started_anew_knows_the_knobs(two: Knobbed) -> None:
    two.turn(two.db, "net.inet.ipsec.esp_enable=0")
    old = two.db.workers()["in"]
    two.b.run("kill", "-9", str(old))
    until(lambda: two.db.workers().get("in", old) != old, 10, "another worker")
    assert not two.ping()
    two.turn(two.db, "net.inet.ipsec.esp_enable=1")
    assert two.ping()
