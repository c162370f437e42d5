"""Packets that lack an SA: ACQUIRE, the wait, the key manager's work, and the packets go."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.const import MsgType
from pfkey.ext_x_policy import Policy
from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.keymanager import KeyManager, negotiate
from tests.support.system import A, B, Daemon, require, until
from tests.support.wire import Tap, in_host, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

A4, B4 = socket.inet_aton(A), socket.inet_aton(B)


class Asked(Two):
    """Two hosts, and key managers that end with the test."""

    def __init__(self, net: Net, tmp: Path, version: int = 4) -> None:
        super().__init__(net, tmp, version)
        self.managers: list[KeyManager] = []
        self._before: dict[str, dict[str, int]] = {}

    def begin(self) -> None:
        """As if it were new."""
        for daemon in (self.da, self.db):
            daemon.setkey("flush; spdflush;")
        self._before = self.da.control("counters")["counters"]

    def end(self) -> None:
        """Whoever listened is gone."""
        while self.managers:
            self.managers.pop().close()

    def grew(self, group: str, name: str) -> int:
        """By how much a counter of a grew since the test began."""
        return self.da.counter(group, name) - self._before[group][name]

    def manager(self, daemon: Daemon, *, pid: int | None = None) -> KeyManager:
        self.managers.append(KeyManager(daemon.socket, pid=pid))
        return self.managers[-1]

    def pair(self) -> tuple[KeyManager, KeyManager]:
        """One for each host."""
        return self.manager(self.da), self.manager(self.db)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with Net() as net:
        yield Asked(net, tmp_path_factory.mktemp("acquire"))


@pytest.fixture
def two(stand: Asked) -> Iterator[Asked]:
    stand.begin()
    yield stand
    stand.end()


def ping(two: Asked, *options: str) -> subprocess.Popen[str]:
    """One echo request, and ten seconds of patience."""
    return two.a.start("ping", "-n", "-c1", "-W10", *options, two.other)


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether it was answered."""
    return process.wait(15) == 0


def waits(two: Asked) -> bool:
    """Whether a is asking."""
    return bool(two.da.control("status")["acquires"])


def test_the_first_packet_waits_for_its_sa_and_arrives(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    here, there = two.pair()
    with Tap(two.b, two.b_dev) as tap:
        pinging = ping(two)
        wanted = here.acquire()
        assert wanted.src is not None
        assert wanted.dst is not None
        assert (wanted.src.address, wanted.dst.address) == (A4, B4)
        assert isinstance(wanted.policy, Policy)
        assert f"spid={wanted.policy.id} " in two.da.setkey("spddump;")
        negotiate(here, there, wanted)
        assert ended(pinging), "the packet that asked is the one that is answered"
    assert set(tap.protocols(A, B)) == {50}
    assert two.grew("pfkey", "queue_dropped") == two.grew("ipsec", "out_nosa") == 0
    assert two.da.setkey("dump;").count("state=mature") == 2
    assert not waits(two)


def test_over_ipv6_it_waits_and_arrives_as_well(net: Net, tmp_path: Path) -> None:
    two = Asked(net, tmp_path, 6)
    two.begin()
    two.load(require(A, B), require(B, A))
    here, there = two.pair()
    with Tap(two.b, two.b_dev) as tap:
        pinging = ping(two)
        negotiate(here, there, here.acquire())
        assert ended(pinging)
    assert set(tap.protocols(two.own, two.other)) == {50}
    assert two.grew("pfkey", "queue_dropped") == two.grew("ipsec", "out_nosa") == 0
    two.end()


def test_many_packets_of_one_flow_wait_in_their_order(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    here, there = two.pair()
    listener, sender = udp_listener(two.b, B, 4000), udp_listener(two.a, A, 0)
    for number in range(50):
        sender.sendto(b"%d" % number, (B, 4000))
    negotiate(here, there, here.acquire())
    listener.settimeout(5)
    assert [listener.recv(10) for _ in range(50)] == [b"%d" % n for n in range(50)]
    assert two.grew("pfkey", "queue_dropped") == 0


def test_use_leaves_in_clear_and_asks_and_is_protected_from_then_on(two: Asked) -> None:
    use = f"spdadd {A} {B} any -P out ipsec esp/transport//use;"
    two.load(use, use.replace(A, "X").replace(B, A).replace("X", B))
    here, there = two.pair()
    assert two.ping()
    assert two.grew("pfkey", "clear_out") == 2
    negotiate(here, there, here.acquire())
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
    assert set(tap.protocols(A, B)) == {50}


def test_a_refusal_drops_what_waits(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    here = two.manager(two.da)
    sender = udp_listener(two.a, A, 0)
    sender.sendto(b"x", (B, 4000))
    seq = here.acquire().seq
    here.refuse(seq)
    until(lambda: two.grew("pfkey", "queue_dropped") == 1, what="it is dropped")
    sender.sendto(b"y", (B, 4000))
    until(lambda: two.grew("pfkey", "queue_dropped") == 2, what="so is the next")
    assert list(here.notices(MsgType.ACQUIRE, 0.3)) == []
    assert f"acquire-refused seq={seq} errno=2" in two.da.log


def test_under_a_wildcard_the_packets_own_peer_is_asked_for_and_never_the_host_itself(
    two: Asked,
) -> None:
    two.da.setkey("spdadd 0.0.0.0/0 0.0.0.0/0 udp -P out ipsec ah/transport//require;")
    here = two.manager(two.da)
    sender = udp_listener(two.a, A, 0)
    for address in (A, "127.0.0.1"):
        with pytest.raises(PermissionError):
            sender.sendto(b"x", (address, 4000))
    sender.sendto(b"x", (B, 4000))
    wanted = here.acquire()
    assert wanted.dst is not None
    assert (wanted.satype, wanted.dst.address, wanted.dst.prefixlen) == (2, B4, 32)
    assert list(here.notices(MsgType.ACQUIRE, 0.3)) == []


def test_bundles_ask_for_each_sa_and_go_when_all_are_there(two: Asked) -> None:
    steps = "esp/transport//require ah/transport//require"
    for own, other, daemon in ((A, B, two.da), (B, A, two.db)):
        daemon.setkey(
            f"spdadd {own} {other} any -P out ipsec {steps};"
            f"spdadd {other} {own} any -P in ipsec {steps};"
        )
    here, there = two.pair()
    pinging = ping(two)
    wanted = [here.acquire(), here.acquire()]
    assert [m.satype for m in wanted] == [3, 2]
    assert len({m.seq for m in wanted}) == 2
    for one in wanted:
        negotiate(here, there, one)
    assert ended(pinging)
    assert list(here.notices(MsgType.ACQUIRE, 0.3)) == []


def test_of_two_daemons_one_dies_in_the_middle(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    first, second = two.manager(two.da), two.manager(two.da, pid=77)
    there = two.manager(two.db)
    pinging = ping(two)
    wanted = first.acquire()
    assert second.acquire() == wanted
    first.getspi(B4, A4, seq=wanted.seq)
    first.close()
    negotiate(second, there, wanted)
    assert ended(pinging)


def test_the_only_daemon_dies_and_its_successor_is_asked(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    there = two.manager(two.db)
    first = two.manager(two.da)
    pinging = ping(two, "-i0.3", "-c30")
    first.acquire()
    first.close()
    until(lambda: two.grew("pfkey", "queue_dropped") > 0, what="nobody makes the SA")
    until(lambda: two.grew("ipsec", "out_nosa") > 0, what="and nothing waits any more")
    second = two.manager(two.da)
    negotiate(second, there, second.acquire())
    two.a.run("ping", "-c1", "-W2", B)
    pinging.terminate()
    pinging.wait(5)


def test_a_worker_that_is_started_anew_knows_that_somebody_listens(two: Asked) -> None:
    two.load(require(A, B), require(B, A))
    here, there = two.pair()
    old = two.da.workers()["out"]
    two.a.run("kill", "-9", str(old))
    until(lambda: two.da.workers().get("out", old) != old, 10, "another worker")
    pinging = ping(two)
    negotiate(here, there, here.acquire())
    assert ended(pinging)


def test_a_storm_is_a_few_acquires_and_nothing_stands_still(two: Asked) -> None:
    """As spoofed connection attempts to a server make it answer to thousands of strangers."""
    two.a.ip("route", "add", "30.0.0.0/8", "dev", two.a_dev)
    two.da.setkey(
        "spdadd 0.0.0.0/0 30.0.0.0/8 any -P out ipsec esp/transport//require;" + require(A, B)
    )
    two.db.setkey(require(B, A))
    here, there = two.pair()

    def storm() -> socket.socket:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for number in range(20_000):
            sender.sendto(b"x", (socket.inet_ntoa(bytes((30, 0, number >> 8, number & 255))), 9))
        return sender

    in_host(two.a, storm)
    pinging = ping(two, "-c5")  # the queue of the device may be full of the storm still
    asked = 0
    for notice in here.notices(MsgType.ACQUIRE, 10):
        assert notice.dst is not None
        if notice.dst.address == B4:
            negotiate(here, there, notice)
            break
        asked += 1
    assert ended(pinging)
    assert asked < 200
    until(lambda: "acquires-limited" in two.da.log, what="the log tells of it")
    status = two.da.control("status")
    assert status["acquires_limited"] > 0
    assert status["acquires"] < 200
