"""Two hosts talk under the FAQ's first policies: what arrives, what the wire shows, what counts."""

import contextlib
import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pfkey.lab.hosts import Host, Net
from tests.support.steering import join
from tests.support.system import (
    AUTHENTIC_KEYS,
    ENDS,
    KEYS,
    A,
    B,
    Daemon,
    over,
    require,
    until,
)
from tests.support.wire import Tap, drain, family, in_host, mac_of, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

OUT_USE_A = f"spdadd {A} {B} any -P out ipsec esp/transport//use;"
OUT_USE_B = f"spdadd {B} {A} any -P out ipsec esp/transport//use;"
MEGABYTE = 1 << 20

SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
    s.sendall(b"payload-pattern-" * (int(sys.argv[3]) // 16))
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
"""


class Two:
    """Hosts a and b, a pfkeyd in each; commands speak of A and B, whatever the IP version."""

    def __init__(self, net: Net, tmp: Path, version: int = 4) -> None:
        self.version = version
        self.own, self.other = ENDS[version]
        self.a, self.b = (net.host(name, ipv6=version == 6) for name in "ab")
        self.a_dev, self.b_dev = join(net, self.a, self.own, self.b, self.other)
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)

    def load(self, text_a: str, text_b: str) -> None:
        self.da.setkey(over(self.version, text_a))
        self.db.setkey(over(self.version, text_b))

    def ping(self, *options: str) -> bool:
        argv = ("ping", "-c2", "-i0.1", "-W1", *options, self.other)
        return self.a.run(*argv, check=False).returncode == 0


def transfer(sender: Host, receiver: Host, address: str, octets: int) -> bytes:
    """Send over TCP; what the receiver got."""
    listener = in_host(receiver, lambda: socket.create_server((address, 0), family=family(address)))
    listener.settimeout(20)
    port = listener.getsockname()[1]
    process = sender.start(sys.executable, "-c", SEND, address, str(port), str(octets))
    with contextlib.closing(listener), listener.accept()[0] as connection:
        connection.settimeout(20)
        got = bytearray()
        while piece := connection.recv(1 << 20):
            got += piece
        connection.send(b"k")
    assert process.wait(10) == 0
    sender.stop(process)
    return bytes(got)


def test_use_without_keys_is_clear_and_with_keys_is_protected(two: Two) -> None:
    two.load(OUT_USE_A, OUT_USE_B)
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        assert set(tap.protocols(A, B)) == {1}
    two.load(KEYS, KEYS)
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        assert set(tap.protocols(A, B)) == {50}
    assert two.da.counter("esp", "output") >= 2
    assert two.db.counter("esp", "input") >= 2


def test_what_policies_count_is_what_all_count(two: Two) -> None:
    """Through a worker's death: what it has told, and the next one goes on from there."""

    def policies(daemon: Daemon) -> dict[str, dict[str, Any]]:
        found = daemon.control("policies")["policies"]
        return {policy["policy"].split(" ", 2)[2]: policy for policy in found}

    def passed(daemon: Daemon) -> dict[str, tuple[int, int]]:
        return {name: (one["packets"], one["octets"]) for name, one in policies(daemon).items()}

    def are_told(ours: dict[str, tuple[int, int]], theirs: dict[str, tuple[int, int]]) -> None:
        until(lambda: (passed(two.da), passed(two.db)) == (ours, theirs), 10, "all is told")

    def is_other(role: str, pid: int) -> bool:
        return two.db.workers().get(role, pid) != pid

    two.load(AUTHENTIC_KEYS + require(A, B, "icmp"), AUTHENTIC_KEYS + require(B, A, "icmp"))
    assert two.ping("-s", "72")
    both = {"icmp -P in": (2, 200), "icmp -P out": (2, 200)}
    are_told(both, both)
    two.da.setkey(f"spdadd {A} {B} udp -P out ipsec ah/transport//require;")
    udp_listener(two.a, A, 0).sendto(b"nobody has a key for this", (B, 9))
    two.db.setkey("flush;")
    assert not two.ping("-s", "72")
    two.db.setkey(AUTHENTIC_KEYS)
    for role, pid in two.db.workers().items():
        os.kill(pid, signal.SIGKILL)
        until(partial(is_other, role, pid), 10, f"another worker {role}")
    assert two.ping("-s", "72")
    both = {"icmp -P in": (4, 400), "icmp -P out": (4, 400)}
    are_told(both | {"icmp -P out": (6, 600), "udp -P out": (0, 0)}, both)
    lost = {"ipsec": {"out_nosa": 1}}
    until(lambda: policies(two.da)["udp -P out"]["drops"] == lost, 10, "the drop is told")
    assert (two.da.counter("esp", "output"), two.da.counter("esp", "obytes")) == (6, 600)
    assert (two.db.counter("esp", "notdb"), two.db.counter("esp", "ibytes")) == (2, 400)
    dumped = json.loads(two.db.setkey("", "-D", "-P", "--json"))["policies"]
    for policy in dumped:
        current = policy["lifetimes"]["current"]
        assert (current["allocations"], current["octets"]) == (4, 400), policy["direction"]


@pytest.mark.parametrize("keys", [KEYS, AUTHENTIC_KEYS], ids=["3des", "aes-sha2"])
def test_large_pings_and_datagrams_pass_protected(two: Two, keys: str) -> None:
    two.load(keys + require(A, B), keys + require(B, A))
    listener = udp_listener(two.b, B, 4000)
    sender = udp_listener(two.a, A, 0)
    with Tap(two.b, two.b_dev) as tap:
        for size in ("56", "1400", "1472", "3000", "20000"):
            assert two.ping("-s", size), size
        for octets in (1, 1000, 5000, 60000):
            sender.sendto(b"x" * octets, (B, 4000))
        got: list[bytes] = []

        def arrived() -> bool:
            got.extend(drain(listener))
            return len(got) == 4

        until(arrived, what="all datagrams arrive")
        assert [len(g) for g in got] == [1, 1000, 5000, 60000]
    assert set(tap.protocols(A, B)) == {50}
    assert max(len(p) for p in tap.packets) <= 1500


def test_tcp_moves_in_super_packets_in_both_directions(two: Two) -> None:
    two.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
    moves_in_super_packets(two.a, two.b, B, two.da, two.db)
    moves_in_super_packets(two.b, two.a, A, two.db, two.da)


def moves_in_super_packets(
    sender: Host, receiver: Host, address: str, out: Daemon, into: Daemon, octets: int = MEGABYTE
) -> None:
    """More than ten segments for each read from one TUN device, and for each write to the other.

    How many there are is the kernels' and the clock's doing as well: on a busy machine senders
    pace themselves. So it has to come true once in a few transfers; each must arrive whole.
    """
    seen: list[tuple[float, float]] = []

    def moves() -> bool:
        sent, got = counted(out), counted(into)
        assert len(transfer(sender, receiver, address, octets)) == octets
        sent, got = grown(out, sent), grown(into, got)
        seen.append((
            sent["segments_out"] / max(sent["superpacket_in"], 1),
            got["coalesced_segments"] / max(got["coalesced_writes"], 1),
        ))  # fmt: skip
        return min(seen[-1]) > 10

    assert any(moves() for _ in range(12)), seen


def counted(daemon: Daemon) -> dict[str, int]:
    """The counters of batches."""
    found: dict[str, int] = daemon.control("counters")["counters"]["pfkey"]
    return found


def grown(daemon: Daemon, before: dict[str, int]) -> dict[str, int]:
    """By how much they grew."""
    return {name: n - before[name] for name, n in counted(daemon).items()}


@pytest.mark.parametrize("keys", [KEYS, AUTHENTIC_KEYS], ids=["3des", "aes-sha2"])
def test_a_transfer_arrives_whole_and_the_wire_shows_none_of_it(two: Two, keys: str) -> None:
    two.load(keys + require(A, B), keys + require(B, A))
    with Tap(two.b, two.b_dev) as tap:
        got = transfer(two.a, two.b, B, MEGABYTE)
    assert got == b"payload-pattern-" * (MEGABYTE // 16)
    assert set(tap.protocols(A, B)) == {50}
    assert not [p for p in tap.packets if b"payload-pattern" in p]


def test_a_super_packet_that_use_lets_out_in_clear_is_segmented(two: Two) -> None:
    two.load(OUT_USE_A, OUT_USE_B)
    with Tap(two.b, two.b_dev) as tap:
        got = transfer(two.a, two.b, B, MEGABYTE)
    assert got == b"payload-pattern-" * (MEGABYTE // 16)
    assert set(tap.protocols(A, B)) == {6}
    assert max(len(p) for p in tap.packets) <= 1500
    counters = two.da.control("counters")["counters"]["pfkey"]
    assert counters["segments_out"] / counters["superpacket_in"] > 10
    assert counters["clear_out"] > 0


def test_a_wrong_key_is_dropped_and_counted(two: Two) -> None:
    two.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
    assert two.ping()
    wrong = AUTHENTIC_KEYS.replace('"0123456789abcdef0123456789abcdef"', "0x" + "77" * 32)
    two.db.setkey("flush;" + wrong)
    before = two.db.counter("esp", "badauth")
    assert not two.ping()
    assert two.db.counter("esp", "badauth") >= before + 2


def test_an_unknown_spi_is_dropped_and_counted(two: Two) -> None:
    two.load(KEYS + require(A, B), KEYS + require(B, A))
    two.db.setkey("flush;")
    assert not two.ping()
    assert two.db.counter("esp", "notdb") >= 2


def test_a_replayed_packet_is_dropped_and_counted(two: Two) -> None:
    two.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        again = next(p for p in tap.packets if p[9] == 50)
    link = in_host(two.a, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
    before = two.db.counter("esp", "replay")
    link.sendto(again, (two.a_dev, 0x0800, 0, 0, mac_of(two.b, two.b_dev)))
    link.close()
    until(lambda: two.db.counter("esp", "replay") == before + 1)


def test_require_without_keys_sends_nothing_and_counts(two: Two) -> None:
    two.da.setkey(require(A, B))
    with Tap(two.b, two.b_dev) as tap:
        assert not two.ping()
        assert tap.protocols(A, B) == {}
    assert two.da.counter("ipsec", "out_nosa") >= 2


def test_clear_packets_are_refused_by_require_and_taken_without(two: Two) -> None:
    two.load(KEYS + OUT_USE_A, "")
    # the peer has no policy: it answers in clear, and so does the FAQ's first example accept
    two.db.setkey(KEYS)
    assert two.ping()
    two.da.setkey(f"spdadd {B} {A} any -P in ipsec esp/transport//require;")
    before = two.da.counter("ipsec", "in_polvio")
    assert not two.ping()
    assert two.da.counter("ipsec", "in_polvio") >= before + 2


def test_the_first_matching_policy_decides(two: Two) -> None:
    two.load(
        KEYS + f"spdadd {A} {B}[5001] udp -P out none; spdadd {A} {B}[5002] udp -P out discard;"
        f"spdadd {A} 20.1.1.0/24 any -P out ipsec esp/transport//require;",
        KEYS,
    )
    listeners = {port: udp_listener(two.b, B, port) for port in (5001, 5002, 5003)}
    sender = udp_listener(two.a, A, 0)
    with Tap(two.b, two.b_dev) as tap:
        for port in listeners:
            with contextlib.suppress(OSError):
                sender.sendto(b"to %d" % port, (B, port))
        until(lambda: tap.protocols(A, B) == {17: 1, 50: 1}, what="one clear, one protected")
    got = {port: drain(listener) for port, listener in listeners.items()}
    assert got == {5001: [b"to 5001"], 5002: [], 5003: [b"to 5003"]}
    assert two.da.counter("ipsec", "out_polvio") == 1


def test_what_others_send_into_the_tun_goes_nowhere(two: Two) -> None:
    two.da.setkey(f"{KEYS} spdadd {A} {B} udp -P out ipsec esp/transport//use;")

    def bound() -> socket.socket:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, 25, b"pfkey0")
        return s

    intruder = in_host(two.a, bound)
    with Tap(two.b, two.b_dev) as tap:
        intruder.sendto(b"x", ("30.3.3.3", 9))
        until(lambda: two.da.counter("pfkey", "foreign") == 1)
        assert not [p for p in tap.packets if p[16:20] == socket.inet_aton("30.3.3.3")]


def test_a_path_learned_from_icmp_shrinks_what_is_sent(net: Net, tmp_path: Path) -> None:
    """A router in the middle has a small link and only it knows: TCP adapts."""
    a, r, b = net.host("a"), net.host("r"), net.host("b")
    net.link(a, f"{A}/32", r, "10.1.1.254/32")
    net.link(r, "20.1.1.254/32", b, f"{B}/32", mtu=1000)
    a.ip("route", "add", B, "via", "10.1.1.254", "dev", "tor", "src", A)
    b.ip("route", "add", A, "via", "20.1.1.254", "dev", "tor", "src", B)
    # the far end believes in 1500 too, so that only the router knows
    b.ip("link", "set", "tor", "mtu", "1500")
    r.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    da, db = Daemon(a, tmp_path), Daemon(b, tmp_path)
    da.setkey(AUTHENTIC_KEYS + require(A, B))
    db.setkey(AUTHENTIC_KEYS + require(B, A))
    assert len(transfer(a, b, B, MEGABYTE)) == MEGABYTE


def test_a_saturated_data_path_never_delays_an_answer(two: Two) -> None:
    two.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
    listener = in_host(two.b, lambda: socket.create_server((B, 0)))
    flood = two.a.start(
        sys.executable, "-c", SEND, B, str(listener.getsockname()[1]), str(200 * MEGABYTE)
    )
    connection = listener.accept()[0]
    try:
        connection.settimeout(5)
        for _ in range(20):
            assert connection.recv(1 << 16)
            # the answer comes within the client's patience, which setkey sets to one second
            assert "mature" in two.da.setkey("dump;")
    finally:
        connection.close()
        listener.close()
        flood.kill()
        two.a.stop(flood)
