"""Beside firewalls, connection tracking and NAT of others; and a hub that joins two tunnels."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two, transfer
from tests.support.sites import BEHIND, KEY, MAC, Vpn
from tests.support.steering import ESP, ICMPV6, join
from tests.support.system import AUTHENTIC_KEYS, ENDS, A, B, Daemon, nft, require, until, versions
from tests.support.wire import Tap, family, in_host

pytestmark = [pytest.mark.root, pytest.mark.slow]

MANUAL = Path(__file__).parents[2] / "docs/pfkeyd.8"
OCTETS = 1 << 17
ICMP = {4: 1, 6: ICMPV6}
MASQUERADE = """
table inet nat {
 chain out { type nat hook postrouting priority srcnat; masquerade; }
}
"""


def tracked(host: Host, src: str, dst: str) -> list[str]:
    """The connections between two IPv4 addresses that the kernel keeps track of there."""
    lines = host.run("cat", "/proc/net/nf_conntrack").stdout.splitlines()
    return [line for line in lines if f" src={src} dst={dst} " in line]


# ---------------------------------------------------------------- NAT


def keeps_nat_away(vpn: Vpn) -> bool:
    return all("chain as_it_is" in g.run("nft", "list", "ruleset").stdout for g in (vpn.g, vpn.r))


def nothing_is_rewritten(vpn: Vpn, inside: int, outside: int) -> None:
    """Neither what goes into the tunnel nor what comes out; what no policy selects is."""
    h, k = BEHIND[inside]
    with Tap(vpn.r, "tog") as wire, Tap(vpn.k, "tor") as far, Tap(vpn.h, "tog") as near:
        assert vpn.ping(k)
        assert vpn.ping(h, host=vpn.k)
        assert len(transfer(vpn.h, vpn.k, k, OCTETS)) == OCTETS
        assert len(transfer(vpn.k, vpn.h, h, OCTETS)) == OCTETS
    assert set(wire.protocols(*ENDS[outside])) == {ESP}
    for tap, src, dst in ((far, h, k), (near, k, h)):
        assert set(tap.protocols(src, dst)) == {ICMP[inside], 6}
        assert len(tap.between(src, dst)) == len(tap.packets), "all with the sender's address"
    assert vpn.dg.counter("pfkey", "foreign") == vpn.dr.counter("pfkey", "foreign") == 0
    other = ENDS[4][1]
    with Tap(vpn.r, "tog") as wire:
        assert vpn.ping(other), "what no policy selects is masqueraded as ever"
    assert set(wire.protocols(ENDS[4][0], other)) == {1}


@pytest.mark.parametrize(
    ("ways", "is_first"), [((4, 4), True), ((4, 4), False), ((6, 6), False), ((4, 6), False)],
    ids=["4-in-4-before-us", "4-in-4", "6-in-6", "4-in-6"],
)  # fmt: skip
def test_masquerading_without_a_device_leaves_inner_packets_alone(
    vpn: Vpn, ways: tuple[int, int], is_first: bool
) -> None:
    """On both gateways, with nft; the chain of ours goes when the other's has gone."""
    inside, outside = ways
    vpn.load(inside, outside)
    if is_first:  # the next daemon finds it
        vpn.dg.stop()
    for gateway in (vpn.g, vpn.r):
        nft(gateway, MASQUERADE)
    try:
        if is_first:
            vpn.dg.start()
            vpn.load_g(inside, outside)
        until(lambda: keeps_nat_away(vpn))
        nothing_is_rewritten(vpn, inside, outside)
    finally:
        for gateway in (vpn.g, vpn.r):
            gateway.run("nft", "delete", "table", "inet", "nat")
    for gateway in (vpn.g, vpn.r):
        until(lambda g=gateway: "as_it_is" not in g.run("nft", "list", "ruleset").stdout)  # type: ignore[misc]


def test_masquerading_with_iptables_leaves_inner_packets_alone(net: Net, tmp_path: Path) -> None:
    """Through nft's tables and, last, through the old ones, which stay as long as the host does."""
    vpn = Vpn(net, tmp_path)
    for command, version in (("iptables-nft", 4), ("iptables-legacy", 4), ("ip6tables-legacy", 6)):
        vpn.load(version, version)
        for gateway in (vpn.g, vpn.r):
            gateway.run(command, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
        until(lambda: keeps_nat_away(vpn), what=command)
        nothing_is_rewritten(vpn, version, version)
        for gateway in (vpn.g, vpn.r) if command == "iptables-nft" else ():
            gateway.run("nft", "delete", "table", "ip", "nat")


def test_connections_are_tracked_only_where_others_do(vpn: Vpn) -> None:
    """Once, inside; and not at all without NAT, which spares every packet the search."""
    h, k = BEHIND[4]
    vpn.load(4, 4)
    before = tracked(vpn.g, h, k)
    assert vpn.ping(k)
    assert len(tracked(vpn.g, h, k)) <= len(before)
    nft(vpn.g, MASQUERADE)
    try:
        assert vpn.ping(k)
        assert len(tracked(vpn.g, h, k)) > len(before)
    finally:
        vpn.g.run("nft", "delete", "table", "inet", "nat")


# ---------------------------------------------------------------- firewalls


def firewall() -> str:
    """The example of the manual page."""
    text = MANUAL.read_text().split(".Ss Firewalls and NAT")[1].split(".Ss")[0]
    found = re.search(r"\.Bd -literal[^\n]*\n(.*?)\.Ed", text, re.DOTALL)
    assert found
    return found[1]


def listens(host: Host, address: str, port: int) -> socket.socket:
    server = in_host(host, lambda: socket.create_server((address, port), family=family(address)))
    server.settimeout(3)
    return server


def can_connect(host: Host, address: str, port: int) -> bool:
    def job() -> bool:
        try:
            socket.create_connection((address, port), timeout=0.5).close()
        except OSError:
            return False
        return True

    return in_host(host, job)


@versions
def test_a_firewall_that_drops_by_default_lets_pass_what_it_names(
    net: Net, tmp_path: Path, version: int
) -> None:
    """Sealed packets by protocol, what is inside by device, mark and connection."""
    two = Two(net, tmp_path, version)
    two.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
    rules = firewall()
    nft(two.a, rules)
    with Tap(two.b, two.b_dev) as wire:
        assert two.ping("-s", "3000")
        assert len(transfer(two.a, two.b, two.other, OCTETS)) == OCTETS
        servers = [listens(two.a, two.own, port) for port in (22, 23)]
        assert can_connect(two.b, two.own, 22)
        assert not can_connect(two.b, two.own, 23), "the rules see what is inside"
        for server in servers:
            server.close()
    assert set(wire.protocols(two.own, two.other)) == {ESP}
    for rule in ("meta l4proto { esp, ah } accept", "ct state established,related accept"):
        assert rules.count(rule) == 2
        rules = rules.replace(rule, "")
    nft(two.a, "flush ruleset\n" + rules)
    with Tap(two.b, two.b_dev) as wire:
        assert not two.ping(), "sealed packets are dropped where nobody names them"
    assert wire.protocols(two.own, two.other) == {}


def test_the_same_firewall_on_a_gateway(vpn: Vpn) -> None:
    vpn.load(4, 6)
    _, k = BEHIND[4]
    nft(vpn.g, firewall())
    try:
        assert vpn.ping(k, "-s", "3000")
        assert len(transfer(vpn.h, vpn.k, k, OCTETS)) == OCTETS
        assert not vpn.ping(ENDS[4][1]), "what is not for the tunnel is not forwarded"
        vpn.g.run("nft", "flush", "chain", "inet", "firewall", "forward")
        assert not vpn.ping(k)
    finally:
        vpn.g.run("nft", "delete", "table", "inet", "firewall")


# ---------------------------------------------------------------- hub and spoke

SPOKES = {4: ("10.1.0.1", "10.2.0.1"), 6: ("2001:db8:a1::1", "2001:db8:a2::1")}
_FAR = ("192.0.2.1", "192.0.2.2")  # the spokes' addresses outside
_HUB = ("192.0.2.101", "192.0.2.102")  # and the hub's towards each
SA = f'-r 32 -E aes-cbc "{KEY}" -A hmac-sha2-256 "{MAC}"'


class Hub:
    """s, hub, t: two tunnels over IPv4, and hosts of either version at their ends."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.spokes = (net.host("s", ipv6=True), net.host("t", ipv6=True))
        self.hub = net.host("hub", ipv6=True)
        self.hub.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        keys, self.taps = "", []
        daemons = []
        for n, spoke in enumerate(self.spokes):
            dev, hub_dev = join(net, spoke, _FAR[n], self.hub, _HUB[n])
            self.taps.append((self.hub, hub_dev))
            for version, ends in SPOKES.items():
                spoke.ip("addr", "add", f"{ends[n]}/{32 if version == 4 else 128}", "dev", "lo")
                way = ("via", _HUB[n]) if version == 4 else ()
                spoke.ip("route", "add", ends[1 - n], *way, "dev", dev, "src", ends[n])
                self.hub.ip("route", "add", ends[n], "dev", hub_dev)
            mine = f"add {_FAR[n]} {_HUB[n]} esp {300 + n} {SA};\n"
            mine += f"add {_HUB[n]} {_FAR[n]} esp {400 + n} {SA};\n"
            keys += mine
            daemons.append(Daemon(spoke, tmp))
            daemons[n].setkey(mine + self.policies(n, at_hub=False))
        self.dhub = Daemon(self.hub, tmp)
        self.keys = keys
        self.load("")

    def policies(self, n: int, *, at_hub: bool) -> str:
        """Of the tunnel to spoke n, seen from one of its ends: both directions, both versions."""
        ways = ("out", "in")[:: -1 if at_hub else 1]
        return "".join(
            f"spdadd -{version} {ends[n]} {ends[1 - n]} any -P {ways[0]} ipsec"
            f" esp/tunnel/{_FAR[n]}-{_HUB[n]}/require;\n"
            f"spdadd -{version} {ends[1 - n]} {ends[n]} any -P {ways[1]} ipsec"
            f" esp/tunnel/{_HUB[n]}-{_FAR[n]}/require;\n"
            for version, ends in SPOKES.items()
        )

    def load(self, first: str, without: str = "") -> None:
        """The hub's four policies a version, some line before them, lines with a word left out."""
        lines = (self.policies(0, at_hub=True) + self.policies(1, at_hub=True)).splitlines()
        kept = [line for line in lines if not without or without not in line]
        self.dhub.setkey("flush; spdflush;" + self.keys + first + "\n".join(kept))

    def ping(self, version: int) -> bool:
        own, other = SPOKES[version]
        argv = ("ping", "-c2", "-i0.05", "-W0.5", "-I", own, other)
        return self.spokes[0].run(*argv, check=False).returncode == 0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Net() as net:
        yield Hub(net, tmp_path_factory.mktemp("hub"))


@versions
def test_from_tunnel_to_tunnel_through_a_hub_obeys_both_policies(hub: Hub, version: int) -> None:
    own, other = SPOKES[version]
    hub.load("")
    with contextlib.ExitStack() as stack:
        near, far = (stack.enter_context(Tap(*tap)) for tap in hub.taps)
        leaves = stack.enter_context(Tap(hub.spokes[1], "tohub"))
        assert hub.ping(version)
        hub.spokes[0].run("ping", "-c1", "-W1", "-s", "9000", "-I", own, other)
        assert len(transfer(hub.spokes[1], hub.spokes[0], own, OCTETS)) == OCTETS
        for tap, src, dst in ((near, _FAR[0], _HUB[0]), (leaves, _HUB[1], _FAR[1]),
                              (far, _FAR[1], _HUB[1])):  # fmt: skip
            assert set(tap.protocols(src, dst)) == {ESP}
            assert tap.protocols(own, other) == tap.protocols(other, own) == {}
        leaves.forget()
        drops = hub.dhub.counter("esp", "pdrops")
        hub.load("", f"{own} {other} any -P in")
        assert not hub.ping(version), "the first tunnel's policy lets nothing out of it"
        assert hub.dhub.counter("esp", "pdrops") >= drops + 2
        drops = hub.dhub.counter("ipsec", "out_polvio")
        way = f"{own} {other} any -P out"
        hub.load(f"spdadd -{version} {way} discard;", way)
        assert not hub.ping(version), "the second one's lets nothing into it"
        assert hub.dhub.counter("ipsec", "out_polvio") >= drops + 2
        hub.dhub.setkey(f"spdflush; delete {_HUB[1]} {_FAR[1]} esp 401;")
        hub.dhub.setkey(hub.policies(0, at_hub=True) + hub.policies(1, at_hub=True))
        assert not hub.ping(version), "without its SA the second tunnel stays shut"
        assert leaves.protocols(own, other) == {}
    hub.load("")
    assert hub.ping(version)
