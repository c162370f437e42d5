"""The file at the start and on SIGHUP: in force before READY, replaced without a gap."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_leak import Pair
from tests.support.keymanager import KeyManager
from tests.support.system import AUTHENTIC_KEYS, BIN, A, B, require, until
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

GOOD = "flush; spdflush;\n" + AUTHENTIC_KEYS + require(A, B)
NARROW = f"spdadd {A} {B} udp -P out ipsec esp/transport//require;\n"
OTHER = f"spdadd {A} 20.1.1.9 any -P out discard;\n"
# what an operator may do to the file; every one of them protects all that passes between A and B
FILES = (
    GOOD,
    GOOD + OTHER,
    "flush; spdflush;\n" + NARROW + require(A, B) + AUTHENTIC_KEYS,
    GOOD.replace("spdflush;", "").replace("flush;", ""),
    GOOD.replace("-r 32", "-r 32 -lh 9999"),
    GOOD.replace("spdadd 20.1.1.1 10.1.1.1 any", "spdadd 20.1.1.0/24 10.1.1.1 any"),
)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "conf"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


@pytest.fixture
def pair(net: Net, tmp_path: Path, conf: Path) -> Pair:
    """A loads the file; a stop leaves what it protects refused."""
    return Pair(net, tmp_path, 4, AUTHENTIC_KEYS, "--load", str(conf), "--hold")


def reload(pair: Pair, event: str = "loaded file=") -> None:
    before = pair.daemon.log.count(event)
    pair.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: pair.daemon.log.count(event) > before, what=event)


def start(pair: Pair, conf: Path) -> "subprocess.CompletedProcess[str]":
    """A start that ends by itself."""
    argv = (str(BIN / "pfkeyd"), "--hold", "--load", str(conf))
    return pair.host.run(*argv, check=False, timeout=20)


def test_all_of_it_is_in_force_when_it_is_ready(pair: Pair) -> None:
    log = pair.daemon.log
    assert 0 < log.index("loaded file=") < log.index("ready socket=")
    with Tap(pair.watcher, pair.tap) as tap:
        assert pair.works()
    assert set(tap.protocols(A, B)) == {50}


def test_reloads_leak_nothing_whatever_the_file_becomes(pair: Pair, conf: Path) -> None:
    with pair.watched():
        for text in (*FILES, *FILES[::-1]):
            conf.write_text(text)
            reload(pair)
        conf.write_text("spdflush; spdad;")
        reload(pair, "reload-refused")
    assert pair.works()
    assert "own-dropped" not in pair.daemon.log


def test_an_unchanged_file_disturbs_nothing(pair: Pair) -> None:
    shown = pair.daemon.setkey("", "-D")
    flood = pair.host.start("ping", "-n", "-q", "-c", "200", "-i", "0.005", B)
    for _ in range(10):
        reload(pair)
    said, _ = flood.communicate(timeout=30)
    assert " 0% packet loss" in said, said
    created = re.findall("created: (.*?)\t", shown)
    assert re.findall("created: (.*?)\t", pair.daemon.setkey("", "-D")) == created
    assert pair.peer.counter("esp", "replay") == 0


def test_a_new_key_for_both_ends_takes_over_at_once(pair: Pair, conf: Path) -> None:
    assert pair.works()
    keys = AUTHENTIC_KEYS.replace("hogehogehogehoge", "mogamogamogamoga")
    conf.write_text(GOOD.replace(AUTHENTIC_KEYS, keys))
    with Tap(pair.watcher, pair.tap) as tap:
        reload(pair)
        assert not pair.works(), "the other end has the old one"
        pair.peer.setkey("flush;" + keys)
        assert pair.works()
    assert set(tap.protocols(A, B)) == {50}


def test_what_waits_for_an_sa_is_sent_by_the_reload_that_brings_it(pair: Pair, conf: Path) -> None:
    conf.write_text(GOOD.replace(AUTHENTIC_KEYS, ""))
    reload(pair)
    manager = KeyManager(pair.daemon.socket)
    pinging = pair.host.start("ping", "-n", "-c1", "-W15", B)
    manager.acquire()
    conf.write_text(GOOD)
    reload(pair)
    assert pinging.wait(20) == 0
    assert pair.daemon.counter("pfkey", "queue_dropped") == 0
    manager.close()


def test_a_restart_with_hold_leaks_nothing(pair: Pair) -> None:
    with pair.watched():
        pair.daemon.stop()
        assert not pair.works()
        pair.daemon.start()
    assert pair.works()
    assert pair.daemon.control("status")["holds"] == 0


def test_with_a_bad_file_what_a_predecessor_protected_stays_closed(pair: Pair, conf: Path) -> None:
    with pair.watched():
        pair.daemon.kill()
        for text in ("spdad;", f"add {A} {B} esp 1 -E 3des-cbc 0x00;\n" + GOOD):
            conf.write_text(text)
            done = start(pair, conf)
            assert done.returncode == 1
            assert f"pfkeyd: {conf}: a fault, so it is not loaded: {conf}:1:" in done.stderr
            assert not pair.works()
        conf.write_text(GOOD)
        pair.daemon.start()
    assert pair.works()


def test_with_a_bad_file_and_no_predecessor_nothing_is_left_behind(net: Net, conf: Path) -> None:
    host = net.host("a")
    looks = [("nft", "list", "tables"), ("ip", "rule"), ("ip", "-o", "link")]
    before = [host.run(*look).stdout for look in looks]
    conf.write_text(GOOD + "spdad;")
    done = host.run(str(BIN / "pfkeyd"), "--load", str(conf), check=False, timeout=20)
    assert done.returncode == 1
    assert [host.run(*look).stdout for look in looks] == before
