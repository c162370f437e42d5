"""Nothing leaks (fail closed): no clear packet under `require`, whatever is killed.

Sites over either family: two hosts in transport mode, and a gateway that forwards for a host
behind it through a tunnel. One side sends without pause by every way a host has; the wire is
watched at the other end. The other end injects clear packets, whole and in fragments of both
orders, past its own guard; a socket behind the policy must never get one.
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
from tests.support.sites import BEHIND, Vpn
from tests.support.steering import UDP, datagram, fragments, join, packet
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
    versions,
)
from tests.support.wire import Tap, drain, family, in_host, mac_of, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 9996
ESP = 50


class Injector:
    """Clear packets from one host's device, past its own nft: whole datagrams and fragments."""

    def __init__(self, host: Host, device: str, mac: bytes, src: str, dst: str) -> None:
        self._socket = in_host(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        self._to = (device, 0x86DD if ":" in src else 0x0800, 0, 0, mac)
        self._src, self._dst = src, dst
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def _run(self) -> None:
        src, dst = self._src, self._dst
        ident = 1
        small = packet(src, dst, UDP, datagram(src, dst, PORT, traffic.MARKER))
        large = datagram(src, dst, PORT, traffic.MARKER * 40)
        while not self._stop.is_set():
            ident = (ident + 1) % 30000
            head, tail = fragments(src, dst, UDP, large, ident=ident)
            head2, tail2 = fragments(src, dst, UDP, large, ident=ident + 30000)
            for octets in (small, head, tail, tail2, head2):
                with contextlib.suppress(OSError):
                    self._socket.sendto(octets, self._to)
                    self.sent += 1
            time.sleep(0.002)

    def __enter__(self) -> "Injector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


class Site:
    """Under `require`, traffic running, the wire and the listener watched.

    Attributes:
        host, daemon: where things are killed.
        sender, device: the host that sends, and its device towards the wire.
        src, dst: of what it sends, and
        outer: the addresses on the wire.
        watcher, tap: the host at the other end of the wire, and its device there.
    """

    def __init__(
        self, host: Host, daemon: Daemon, sender: tuple[Host, str], watcher: tuple[Host, str],
        ends: tuple[str, str], outer: tuple[str, str], server: Host, device: str,
    ) -> None:  # fmt: skip
        self.host, self.daemon = host, daemon
        self.sender, self.device = sender
        self.watcher, self.tap = watcher
        self.src, self.dst = ends
        self.outer = outer
        self.mac = mac_of(host, device)
        self.server = server

    def load(self) -> None:
        """The keys and policies of `daemon`."""
        raise NotImplementedError

    def reload_keys(self) -> None:
        """The same keys anew."""
        raise NotImplementedError

    def works(self) -> bool:
        argv = ("ping", "-c1", "-W1", self.dst)
        return self.sender.run(*argv, check=False).returncode == 0

    def verdict(self, tap: Tap, after: str = "", *, has_address: bool = True) -> None:
        """Nothing of what was sent has been on the wire in clear.

        A host without its address sends from another, or from none, which no policy selects.
        """
        allowed = {ESP}
        if self.outer != (self.src, self.dst):
            assert tap.protocols(self.src, self.dst) == {}, after
            # no policy is about the gateways themselves: a kernel without pfkeyd may well answer
            # "protocol unreachable" to ESP
            allowed |= {1, 58}
        assert set(tap.protocols(*self.outer)) <= allowed, (after, tap.protocols(*self.outer))
        seen = tap.packets if has_address else tap.between(self.src, self.dst)
        assert not [packet for packet in seen if traffic.MARKER in packet], after

    @contextlib.contextmanager
    def watched(self) -> Iterator[Tap]:
        """Traffic out and in for as long as the body runs, then the verdict."""
        listener = udp_listener(self.sender, self.src, PORT)
        kind = family(self.dst)
        sink = in_host(self.server, lambda: socket.create_server((self.dst, 9997), family=kind))
        with (
            Tap(self.watcher, self.tap) as tap,
            Injector(self.watcher, self.tap, self.mac, self.dst, self.src) as injector,
        ):
            argv = (sys.executable, traffic.__file__, self.src, self.dst, self.device)
            out = self.sender.start(*argv, stderr=None)
            until(lambda: tap.protocols(*self.outer).get(ESP, 0) > 50, 10, "protected packets flow")
            yield tap
            time.sleep(0.5)
            assert out.poll() is None, "the traffic ended by itself"
            self.sender.stop(out)
        sink.close()
        self.verdict(tap)
        assert injector.sent > 100
        got = drain(listener)
        listener.close()
        assert not [g for g in got if traffic.MARKER in g], f"{len(got)} clear packets came in"


class Pair(Site):
    """Two hosts in transport mode."""

    def __init__(self, net: Net, tmp: Path, version: int, keys: str, *options: str) -> None:
        a, b = (net.host(name, ipv6=version == 6) for name in "ab")
        self.version, self.keys = version, keys
        ends = ENDS[version]
        a_dev, b_dev = join(net, a, ends[0], b, ends[1])
        super().__init__(a, Daemon(a, tmp, *options), (a, a_dev), (b, b_dev), ends, ends, b, a_dev)
        self.peer = Daemon(b, tmp)
        self.peer.setkey(over(version, keys + require(B, A)))
        if "--load" not in options:
            self.load()

    def load(self) -> None:
        self.daemon.setkey(over(self.version, self.keys + require(A, B)))

    def reload_keys(self) -> None:
        self.daemon.setkey("flush;" + over(self.version, self.keys))


class Gateway(Site):
    """A gateway and the host behind it, through a tunnel that may be of the other family."""

    def __init__(self, net: Net, tmp: Path, inside: int, outside: int, *options: str) -> None:
        self.vpn, self.ways = Vpn(net, tmp, *options), (inside, outside)
        vpn = self.vpn
        super().__init__(
            vpn.g, vpn.dg, (vpn.h, "tog"), (vpn.r, "tog"), BEHIND[inside], ENDS[outside], vpn.k,
            "tor",
        )  # fmt: skip
        vpn.load_r(inside, outside)
        self.load()

    def load(self) -> None:
        self.vpn.load_g(*self.ways)

    def reload_keys(self) -> None:
        self.vpn.reload_keys_g(self.ways[1])


Make = Callable[..., Site]
SITES: dict[str, Make] = {
    "ipv4": lambda net, tmp, *options: Pair(net, tmp, 4, AUTHENTIC_KEYS, *options),
    "ipv6": lambda net, tmp, *options: Pair(net, tmp, 6, AUTHENTIC_KEYS, *options),
    "gateway-4-in-6": lambda net, tmp, *options: Gateway(net, tmp, 4, 6, *options),
    "gateway-6-in-4": lambda net, tmp, *options: Gateway(net, tmp, 6, 4, *options),
}


class Standing:
    """Sites that stand for as long as they work: what is killed is to come back."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._standing: dict[str, tuple[Net, Site]] = {}

    def site(self, name: str) -> Site:
        if name in self._standing:
            net, site = self._standing[name]
            if site.daemon.process.poll() is None and site.works():
                return site
            net.__exit__(None, None, None)
        net = Net().__enter__()
        self._standing[name] = net, SITES[name](net, self._factory.mktemp(name))
        return self._standing[name][1]

    def close(self) -> None:
        for net, _ in self._standing.values():
            net.__exit__(None, None, None)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    sites = Standing(tmp_path_factory)
    yield sites
    sites.close()


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, standing: Standing) -> Site:
    return standing.site(request.param)


def test_steady_traffic_is_protected_and_clear_packets_stay_out(site: Site) -> None:
    before = site.daemon.counter("ipsec", "in_polvio")
    with site.watched():
        time.sleep(0.5)
        assert site.works()
    assert site.daemon.counter("ipsec", "in_polvio") > before + 100


def test_the_faqs_cipher_leaks_nothing_either(net: Net, tmp_path: Path) -> None:
    pair = Pair(net, tmp_path, 4, KEYS)
    with pair.watched():
        assert pair.works()


@pytest.mark.parametrize("role", ["out", "in"])
def test_sigkill_of_a_worker_leaks_nothing_and_it_comes_back(site: Site, role: str) -> None:
    with site.watched():
        for _ in range(2):
            pid = site.daemon.workers()[role]
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: site.daemon.workers().get(role, pid) != pid, 10, "a new worker")  # type: ignore[misc]
            until(site.works, 10, "traffic flows again")


def test_sigkill_of_the_daemon_leaks_nothing_and_a_new_one_takes_over(site: Site) -> None:
    with site.watched():
        site.daemon.kill()
        time.sleep(0.5)
        assert not site.works()
        site.daemon.start()
        time.sleep(0.3)
        assert not site.works(), "the leftover policies hold until they are loaded again"
        site.load()
        until(site.works, 10, "traffic flows again")


def test_sigkill_of_all_processes_at_once_leaks_nothing(site: Site) -> None:
    with site.watched():
        pids = [site.daemon.process.pid, *site.daemon.workers().values()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        site.daemon.process.wait()
        time.sleep(0.5)
        site.daemon.start()
        site.load()
        until(site.works, 10, "traffic flows again")


@pytest.mark.parametrize("name", SITES)
def test_stop_with_hold_and_restart_leak_nothing(name: str, net: Net, tmp_path: Path) -> None:
    held = SITES[name](net, tmp_path, "--hold")
    with held.watched():
        held.daemon.stop()
        time.sleep(0.5)
        assert not held.works()
        held.daemon.start()
        held.load()
        until(held.works, 10, "traffic flows again")


def test_reloading_keys_leaks_nothing(site: Site) -> None:
    with site.watched():
        for _ in range(5):
            site.reload_keys()
        until(site.works, 10, "traffic flows again")


def _nft_flush(host: Host) -> None:
    host.run("nft", "flush", "ruleset", check=False)


def _nft_delete(host: Host) -> None:
    host.run("nft", "delete", "table", "inet", "pfkey", check=False)


def _rule_flush(host: Host) -> None:
    for version in ("-4", "-6"):
        host.run("ip", version, "rule", "flush", check=False)
        host.run("ip", version, "rule", "add", "priority", "32766", "lookup", "main", check=False)


def _route_flush(host: Host) -> None:
    for version in ("-4", "-6"):
        host.run("ip", version, "route", "flush", "table", "7575", check=False)


def _device_down(host: Host) -> None:
    host.run("ip", "link", "set", "pfkey0", "down", check=False)


def _device_gone(host: Host) -> None:
    host.run("ip", "link", "del", "pfkey0", check=False)


def _ipv6_off(host: Host) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.pfkey0.disable_ipv6=1", check=False)


HANDS: list[Callable[[Host], None]] = [
    _nft_flush, _nft_delete, _rule_flush, _route_flush, _device_down, _device_gone, _ipv6_off,
]  # fmt: skip


def test_foreign_hands_open_nothing_and_what_they_took_is_put_back(site: Site) -> None:
    with site.watched() as tap:
        for hand in HANDS:
            for _ in range(2):
                said = site.daemon.log.count("restored what=")
                hand(site.host)
                if hand not in (_nft_flush, _nft_delete):  # nobody can take an owned table
                    until(lambda said=said: site.daemon.log.count("restored what=") > said, 10,  # type: ignore[misc]
                          f"{hand.__name__} is in the log")  # fmt: skip
                until(site.works, 10, f"what {hand.__name__} took is back")
            site.verdict(tap, hand.__name__)
            tap.forget()


@contextlib.contextmanager
def _lasting(host: Host, device: str) -> Iterator[None]:
    """Addresses and routes of a device come back as they were."""
    kept = [
        (version, what, host.ip(f"-{version}", "-o", *what.split(), "show", "dev", device))
        for version in (4, 6) for what in ("addr", "route")
    ]  # fmt: skip
    yield
    host.ip("link", "set", device, "up")
    for version, what, lines in kept:
        for line in sorted(lines.splitlines(), key=lambda line: " via " in line):
            words = line.replace("\\", " ").split()
            if what == "addr" and "link" not in words:
                how = ("nodad",) if version == 6 else ()
                host.ip("addr", "replace", words[3], "dev", device, *how)
            elif what == "route" and words[0] not in ("fe80::/64", "multicast", "anycast"):
                kept_words = [w for w in words if w not in ("pref", "medium", "linkdown")]
                host.ip(f"-{version}", "route", "replace", *kept_words, "dev", device)


def _link_down(host: Host, device: str, _: str) -> None:
    host.ip("link", "set", device, "down")


def _link_renamed(host: Host, device: str, _: str) -> None:
    host.ip("link", "set", device, "down")
    host.ip("link", "set", device, "name", "elsewhere")
    host.ip("link", "set", "elsewhere", "up")
    host.ip("link", "set", "elsewhere", "down")
    host.ip("link", "set", "elsewhere", "name", device)


def _addresses_gone(host: Host, device: str, _: str) -> None:
    host.ip("addr", "flush", "dev", device)


def _address_new(host: Host, device: str, _: str) -> None:
    for address in ("172.31.1.1/32", "2001:db8:31::1/128"):
        host.run("ip", "addr", "add", address, "dev", device, check=False)
        host.run("ip", "addr", "del", address, "dev", device, check=False)


def _route_elsewhere(host: Host, _: str, dst: str) -> None:
    host.ip("link", "add", "aside", "type", "veth", "peer", "name", "beyond")
    host.ip("link", "set", "aside", "up")
    host.ip("route", "replace", dst, "dev", "aside")
    host.ip("link", "del", "aside")


def _routes_gone(host: Host, device: str, _: str) -> None:
    for version in ("-4", "-6"):
        host.run("ip", version, "route", "flush", "dev", device, check=False)


def _unreachable(host: Host, _: str, dst: str) -> None:
    host.ip("route", "add", "unreachable", dst, "metric", "1")
    host.ip("route", "del", "unreachable", dst, "metric", "1")


CHANGES: list[Callable[[Host, str, str], None]] = [
    _link_down, _link_renamed, _addresses_gone, _address_new, _route_elsewhere, _routes_gone,
    _unreachable,
]  # fmt: skip


def test_changes_of_links_addresses_and_routes_open_nothing(site: Site) -> None:
    """On the host with the policies, of the device towards the wire."""
    wire = next(d for d in ("tor", "tob") if f" {d}@" in site.host.ip("-o", "link"))
    faults = site.daemon.counter("pfkey", "internal")
    with site.watched() as tap:
        for change in CHANGES:
            with _lasting(site.host, wire):
                change(site.host, wire, site.dst)
            until(site.works, 10, f"traffic flows again after {change.__name__}")
            site.verdict(tap, change.__name__, has_address=change is not _addresses_gone)
            tap.forget()
    assert site.daemon.counter("pfkey", "internal") == faults


LOOKS = (
    "nft list ruleset", "ip -4 rule", "ip -6 rule", "ip -4 route show table all",
    "ip -6 route show table all", "ip -o link", "ip -o addr",
    r"sysctl -a --pattern ^net\.ipv[46]\.(conf|ip_forward)",
)  # fmt: skip


@versions
def test_a_plain_stop_leaves_the_host_as_it_was(net: Net, tmp_path: Path, version: int) -> None:
    a, b = (net.host(name, ipv6=version == 6) for name in "ab")
    own, other = ENDS[version]
    join(net, a, own, b, other)

    def state() -> list[str]:
        return [a.run(*look.split(), check=False).stdout for look in LOOKS]

    run = Path("/run/pfkey")
    until(lambda: a.run("ping", "-c1", "-W1", other, check=False).returncode == 0)
    before = state()
    daemon = Daemon(a, tmp_path)
    daemon.setkey(over(version, AUTHENTIC_KEYS + require(A, B)))
    assert "pfkey0" in "".join(state())
    daemon.stop()
    assert state() == before
    left = [p.name for p in run.iterdir() if p.name.startswith(str(a.inode))]
    assert left in ([], [f"{a.inode}.sock.state"])
    assert a.run("ping", "-c1", "-W1", other).returncode == 0
