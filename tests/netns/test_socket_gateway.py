"""A gateway's own sockets have policies; what it forwards is no affair of theirs.

a 10.1.1.1 ── 10.1.1.254 g 20.1.1.254 ── 20.1.1.1 b; pfkeyd is on g alone.
"""

import socket
from pathlib import Path

import pytest

from pfkey import set_policy
from pfkey.lab.hosts import Net
from tests.support.system import A, B, Daemon, until
from tests.support.wire import drain, in_host, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

G_A, G_B = "10.1.1.254", "20.1.1.254"


def test_a_bypass_at_any_address_lets_nothing_through_a_gateway(net: Net, tmp_path: Path) -> None:
    """The kernel finds a wildcard's socket for what is on its way to others as well."""
    a, g, b = (net.host(name) for name in "agb")
    net.link(a, f"{A}/24", g, f"{G_A}/24")
    net.link(g, f"{G_B}/24", b, f"{B}/24")
    a.ip("route", "add", "default", "via", G_A)
    b.ip("route", "add", "default", "via", G_B)
    g.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    daemon = Daemon(g, tmp_path)
    ike = in_host(g, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    ike.setblocking(False)
    for direction in ("in", "out"):
        set_policy(ike, f"{direction} bypass", path=daemon.socket)
    ike.bind(("", 500))
    sender, receiver = udp_listener(a, A, 0), udp_listener(b, B, 500)
    sender.sendto(b"before", (B, 500))
    until(lambda: drain(receiver) == [b"before"], 5)
    daemon.setkey(f"spdadd 10.1.1.0/24 0.0.0.0/0 any -P in ipsec esp/tunnel/{A}-{G_A}/require;")
    before = daemon.counter("ipsec", "in_polvio")
    sender.sendto(b"in clear", (B, 500))
    sender.sendto(b"for the socket", (G_A, 500))
    until(lambda: drain(ike) == [b"for the socket"], 5)
    assert daemon.counter("ipsec", "in_polvio") == before + 1
    assert drain(receiver) == []
