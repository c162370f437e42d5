"""Nothing leaks (fail closed): no clear packet under `require`, whatever is killed.

Two hosts under `require` in both directions. One sends without pause by every way a host has;
the wire is watched at the other end. The other end injects clear packets, whole and in
fragments, past its own guard; a socket behind the policy must never get one.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.support import traffic
from tests.support.system import AUTHENTIC_KEYS, KEYS, A, B, Daemon, require, until
from tests.support.wire import Tap, drain, in_host, ipv4, mac_of, udp, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 9996


class Injector:
    """Clear packets from one host's device, past its own nft: whole datagrams and fragments."""

    def __init__(self, host: Host, device: str, mac: bytes, src: str, dst: str) -> None:
        self._socket = in_host(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        self._to = (device, 0x0800, 0, 0, mac)
        self._src, self._dst = src, dst
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def _run(self) -> None:
        ident = 1
        while not self._stop.is_set():
            ident = (ident + 1) & 0xFFFF
            small = udp(self._src, self._dst, 1, PORT, traffic.MARKER)
            large = udp(self._src, self._dst, 1, PORT, traffic.MARKER * 40)
            head = ipv4(self._src, self._dst, 17, large[:800], ident=ident, more=True)
            tail = ipv4(self._src, self._dst, 17, large[800:], ident=ident, offset=800)
            other = (ident + 30000) & 0xFFFF
            head2 = ipv4(self._src, self._dst, 17, large[:800], ident=other, more=True)
            tail2 = ipv4(self._src, self._dst, 17, large[800:], ident=other, offset=800)
            for packet in (ipv4(self._src, self._dst, 17, small), head, tail, tail2, head2):
                with contextlib.suppress(OSError):
                    self._socket.sendto(packet, self._to)
                    self.sent += 1
            time.sleep(0.002)

    def __enter__(self) -> "Injector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


class Pair:
    """Two hosts under `require`, traffic running, the wire and the listener watched."""

    def __init__(self, net: Net, tmp: Path, keys: str, *options: str) -> None:
        self.a, self.b = net.host("a"), net.host("b")
        self.a_dev, self.b_dev = net.link(self.a, f"{A}/32", self.b, f"{B}/32")
        self.keys = keys
        self.da, self.db = Daemon(self.a, tmp, *options), Daemon(self.b, tmp)
        if "--load" not in options:
            self.load()
        self.db.setkey(keys + require(B, A))
        self.mac = mac_of(self.a, self.a_dev)
        self.listener = udp_listener(self.a, A, PORT)
        self.sink = in_host(self.b, lambda: socket.create_server((B, 9997)))

    def load(self) -> None:
        self.da.setkey(self.keys + require(A, B))

    def works(self) -> bool:
        return self.a.run("ping", "-c1", "-W1", B, check=False).returncode == 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[Tap]:
        """Traffic out and in for as long as the body runs, then the verdict."""
        with (
            Tap(self.b, self.b_dev) as tap,
            Injector(self.b, self.b_dev, self.mac, B, A) as injector,
        ):
            out = self.a.start(sys.executable, traffic.__file__, A, B, self.a_dev, stderr=None)
            until(lambda: tap.protocols(A, B).get(50, 0) > 50, 10, "protected packets flow")
            yield tap
            time.sleep(0.5)
            assert out.poll() is None, "the traffic ended by itself"
            self.a.stop(out)
        assert set(tap.protocols(A, B)) <= {50}, tap.protocols(A, B)
        assert not [
            p for p in tap.packets if p[12:16] == socket.inet_aton(A) and traffic.MARKER in p
        ]
        assert injector.sent > 100
        got = drain(self.listener)
        assert not [g for g in got if traffic.MARKER in g], f"{len(got)} clear packets came in"


@pytest.fixture(params=[KEYS, AUTHENTIC_KEYS], ids=["3des", "aes-sha2"])
def pair(request: pytest.FixtureRequest, net: Net, tmp_path: Path) -> Pair:
    return Pair(net, tmp_path, request.param)


@pytest.fixture
def one(net: Net, tmp_path: Path) -> Pair:
    return Pair(net, tmp_path, AUTHENTIC_KEYS)


def test_steady_traffic_is_protected_and_clear_packets_stay_out(pair: Pair) -> None:
    with pair.watched():
        time.sleep(1)
        assert pair.works()
    assert pair.da.counter("ipsec", "in_polvio") > 100


@pytest.mark.parametrize("role", ["out", "in"])
def test_sigkill_of_a_worker_leaks_nothing_and_it_comes_back(one: Pair, role: str) -> None:
    with one.watched():
        for _ in range(3):
            pid = one.da.workers()[role]
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: one.da.workers().get(role, pid) != pid, 10, "a new worker")  # type: ignore[misc]
            until(one.works, 10, "traffic flows again")


def test_sigkill_of_the_daemon_leaks_nothing_and_a_new_one_takes_over(one: Pair) -> None:
    with one.watched():
        one.da.kill()
        time.sleep(1)
        assert not one.works()
        one.da.start()
        time.sleep(0.5)
        assert not one.works(), "the leftover policies hold until they are loaded again"
        one.load()
        until(one.works, 10, "traffic flows again")


def test_sigkill_of_all_processes_at_once_leaks_nothing(one: Pair) -> None:
    with one.watched():
        pids = [one.da.process.pid, *one.da.workers().values()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        one.da.process.wait()
        time.sleep(1)
        one.da.start()
        one.load()
        until(one.works, 10, "traffic flows again")


def test_stop_with_hold_and_restart_leak_nothing(net: Net, tmp_path: Path) -> None:
    pair = Pair(net, tmp_path, AUTHENTIC_KEYS)
    pair.da.stop()
    pair.da = Daemon(pair.a, tmp_path, "--hold")
    pair.load()
    with pair.watched():
        for _ in range(2):
            pair.da.stop()
            time.sleep(0.5)
            pair.da.start()
            pair.load()
            until(pair.works, 10, "traffic flows again")


def test_reloading_keys_leaks_nothing(one: Pair) -> None:
    with one.watched():
        for _ in range(5):
            one.da.setkey("flush;" + one.keys)
        until(one.works, 10, "traffic flows again")


def _nft_flush(host: Host) -> None:
    host.run("nft", "flush", "ruleset", check=False)


def _nft_delete(host: Host) -> None:
    host.run("nft", "delete", "table", "inet", "pfkey", check=False)


def _rule_flush(host: Host) -> None:
    host.run("ip", "rule", "flush", check=False)
    host.run("ip", "rule", "add", "priority", "32766", "lookup", "main", check=False)


def _route_flush(host: Host) -> None:
    host.run("ip", "route", "flush", "table", "7575", check=False)


def _device_down(host: Host) -> None:
    host.run("ip", "link", "set", "pfkey0", "down", check=False)


def _device_gone(host: Host) -> None:
    host.run("ip", "link", "del", "pfkey0", check=False)


HANDS: list[Callable[[Host], None]] = [
    _nft_flush, _nft_delete, _rule_flush, _route_flush, _device_down, _device_gone,
]  # fmt: skip


@pytest.mark.parametrize("hand", HANDS, ids=lambda h: h.__name__.strip("_"))
def test_foreign_hands_open_nothing_and_what_they_took_is_put_back(
    one: Pair, hand: Callable[[Host], None]
) -> None:
    with one.watched():
        for _ in range(3):
            hand(one.a)
            time.sleep(0.3)
            until(one.works, 10, "what was taken is back")


def test_a_plain_stop_leaves_the_host_as_it_was(net: Net, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, f"{A}/32", b, f"{B}/32")

    def state() -> list[str]:
        looks = (
            ("nft", "list", "ruleset"), ("ip", "rule"), ("ip", "route", "show", "table", "all"),
            ("ip", "-o", "link"), ("sysctl", "-ae"),
        )  # fmt: skip
        return [a.run(*look, check=False).stdout for look in looks[:-1]]

    run = Path("/run/pfkey")
    before = state()
    daemon = Daemon(a, tmp_path)
    daemon.setkey(KEYS + require(A, B))
    daemon.stop()
    assert state() == before
    left = [p.name for p in run.iterdir() if p.name.startswith(str(a.inode))]
    assert left in ([], [f"{a.inode}.sock.state"])
    assert a.run("ping", "-c1", "-W1", B).returncode == 0
