"""Marks, NAT, addresses and the TUN device: what others on the host may do, over either family."""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, transfer
from tests.support.attacked import PORT, Attacked, Pairs, counters, only_esp
from tests.support.steering import ESP, UDP, join, packet
from tests.support.system import Daemon, until
from tests.support.wire import Tap, drain, family, in_host, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

BYPASS, PROTECT = 0x4C000000, 0x4B000000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    made = Pairs(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def two(request: pytest.FixtureRequest, pairs: Pairs) -> Attacked:
    made = pairs.pair(request.param)
    for table in ("x", "n", "seen"):  # what a test before may have made
        made.a.run("nft", "delete", "table", "inet", table, check=False)
    return made


CLOBBER = "table inet x {{\n chain c {{\n type {} hook {} priority {};\n meta mark set 1\n }}\n}}\n"


@pytest.mark.parametrize(
    "hook",
    [("filter", "postrouting", -150), ("filter", "output", 0), ("route", "output", -150),
     ("route", "output", 0)],
    ids=lambda h: "-".join(map(str, h)),
)  # fmt: skip
def test_marks_that_others_overwrite_open_nothing(
    two: Attacked, hook: tuple[str, str, int]
) -> None:
    """MARK --set-mark without a mask, as many a firewall has it."""
    two.a.run("nft", "-f", "-", stdin=CLOBBER.format(*hook))
    with only_esp(two) as tap:
        assert two.ping()
        two.a.run("ping", "-c2", "-i0.1", "-W0.3", "-I", two.a_dev, two.other, check=False)
        assert two.ping("-s", "3000")
    assert tap.protocols(two.own, two.other)[ESP] >= 4
    assert counters(two.da)["out_guard"] >= 2, "the bound socket met the guard"


def test_our_marks_on_others_packets_open_nothing(two: Attacked) -> None:
    """CAP_NET_RAW is enough to set marks; the bypass mark counts for ESP and our own user."""
    whole = packet(two.own, two.other, UDP, two.datagram())

    def send() -> None:
        for mark in (BYPASS, PROTECT, BYPASS | 1, 0xFFFFFFFF):
            for kind, proto, octets in (
                (socket.SOCK_DGRAM, 0, b"hello"),
                (socket.SOCK_RAW, socket.IPPROTO_RAW, whole),
            ):
                for device in (b"", two.a_dev.encode()):
                    with socket.socket(family(two.other), kind, proto) as sender:
                        sender.setsockopt(socket.SOL_SOCKET, 36, struct.pack("=I", mark))
                        if device:
                            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
                        with contextlib.suppress(OSError):
                            sender.sendto(octets, (two.other, PORT if not proto else 0))

    with only_esp(two) as tap:
        in_host(two.a, send)
        until(lambda: len(tap.between(two.own, two.other)) >= 8)
    assert counters(two.da)["out_guard"] >= 8


def test_masquerading_beside_us_changes_nothing(two: Attacked) -> None:
    table = (
        "table inet n {\n chain c {\n type nat hook postrouting priority 100;\n masquerade\n }\n}\n"
    )
    two.a.run("nft", "-f", "-", stdin=table)
    with only_esp(two):
        assert two.ping("-s", "3000")
        assert len(transfer(two.a, two.b, two.other, MEGABYTE)) == MEGABYTE
        assert len(transfer(two.b, two.a, two.own, MEGABYTE)) == MEGABYTE


def test_our_fragments_are_not_joined_by_connection_tracking(two: Attacked) -> None:
    """Joined and cut again they would differ, be late, and cost twice."""
    watching = """
table inet seen {
 counter whole { }
 chain c {
  type filter hook output priority 0;
  ct state new counter
  meta l4proto esp meta length > 1500 counter name whole
 }
}
"""
    two.a.run("nft", "-f", "-", stdin=watching)
    with only_esp(two) as tap:
        for size in ("3000", "60000"):
            assert two.ping("-s", size)
    listing = json.loads(two.a.run("nft", "-j", "list", "counters").stdout)["nftables"]
    counted = {o["counter"]["name"]: o["counter"]["packets"] for o in listing if "counter" in o}
    assert counted["whole"] == 0
    assert len(tap.packets) > 80


@pytest.mark.parametrize("level", ["use", "require"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_broadcast_and_multicast_go_in_clear_or_not_at_all(
    net: Net, tmp_path: Path, level: str, version: int
) -> None:
    """No routing rule leads them to the TUN, so nft decides: `use` lets them pass."""
    a, b = (net.host(name, ipv6=version == 6) for name in "ab")
    daemon = Daemon(a, tmp_path)
    if version == 4:
        net.link(a, "10.1.1.1/24", b, "10.1.1.2/24")
        wanted = ["10.1.1.255", "255.255.255.255", "224.0.0.5"]
        for group in ("224.0.0.0/4", "255.255.255.255"):
            a.ip("route", "add", group, "dev", "tob")
        own, selector = "10.1.1.1", "10.1.1.0/24 0.0.0.0/0"
    else:
        join(net, a, "2001:db8:1::1", b, "2001:db8:1::2")
        wanted = ["ff02::5%tob", "ff05::9", "ff0e::9"]
        own, selector = "2001:db8:1::1", "2001:db8:1::/64 ::/0"
    daemon.setkey(f"spdadd {selector} any -P out ipsec esp/transport//{level};")
    sender = udp_listener(a, own, 0)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    with Tap(b, "toa") as tap:
        for to in wanted:
            with contextlib.suppress(OSError):
                in_host(a, lambda to=to: sender.sendto(b"all", (to, 9)))  # type: ignore[misc]
        if level == "use":
            until(lambda: len(tap.packets) == 3)
    at = slice(16, 20) if version == 4 else slice(24, 40)
    got = [socket.inet_ntop(family(own), p[at]) for p in tap.packets if p[-3:] == b"all"]
    assert got == ([to.split("%")[0] for to in wanted] if level == "use" else [])
    assert counters(daemon).get("out_polvio", 0) == (0 if level == "use" else 3)


def test_what_the_sender_wrote_into_the_ip_header_stays(two: Attacked) -> None:
    """Class of service with its ECN bits, hop limit, DF; and UDP without a checksum stays so."""
    listener = udp_listener(two.b, two.other, PORT)
    sender = udp_listener(two.a, two.own, 0)
    if two.version == 4:
        sender.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB9)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB9)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33)
        sender.setsockopt(socket.IPPROTO_IPV6, 70, 1)  # IPV6_AUTOFLOWLABEL
    with only_esp(two) as tap, Tap(two.b, "pfkey0") as inner:
        sender.sendto(b"small", (two.other, PORT))
        sender.sendto(b"large" * 1000, (two.other, PORT))
        until(lambda: len(inner.packets) == 2)
    assert [len(got) for got in drain(listener)] == [5, 5000]
    for octets in tap.packets + inner.packets:
        if two.version == 4:
            assert (octets[1], octets[8]) == (0xB9, 33)
        else:
            assert (octets[0], octets[1] & 0xF0, octets[7]) == (0x6B, 0x90, 33)
    first, *pieces = tap.packets
    if two.version == 6:
        assert len({(p[1:4]) for p in tap.packets + inner.packets}) == 1, "the flow label"
        assert len({p[44:48] for p in pieces}) == 1
        return
    assert [p[26:28] for p in inner.packets] == [bytes(2)] * 2
    assert first[6:8] == b"\x40\0"
    assert len({p[4:6] for p in pieces}) == 1
    assert all(not p[6] & 0x40 for p in pieces)


def test_what_others_send_into_the_tun_goes_nowhere(two: Attacked) -> None:
    """Anybody may bind a socket to pfkey0; each packet read is looked up again."""
    elsewhere = {4: "30.3.3.3", 6: "2001:db8:30::3"}[two.version]

    def send() -> None:
        with socket.socket(family(elsewhere), socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"pfkey0")
            sender.bind((two.own, 0))
            sender.sendto(b"hello", (elsewhere, 9))
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as past:
            kind = 0x86DD if two.version == 6 else 0x0800
            junk = packet("::1" if two.version == 6 else "127.0.0.1", elsewhere, UDP, os.urandom(9))
            for octets in (junk, junk[:30], os.urandom(60), b"\x60" + bytes(39)):
                past.sendto(octets, ("pfkey0", kind, 0, 0, b""))

    two.a.ip("route", "add", elsewhere, "dev", "pfkey0")
    with Tap(two.b, two.b_dev) as tap:
        in_host(two.a, send)
        until(
            lambda: counters(two.da).get("foreign", 0) + counters(two.da).get("tun_short", 0) >= 5
        )
        assert two.ping()
    assert not [p for p in tap.packets if b"hello" in p]
    assert set(tap.protocols(two.own, two.other)) == {ESP}
    assert "internal" not in counters(two.da)


def test_the_tun_takes_nobodys_advice(two: Attacked) -> None:
    """Router advertisements and redirects that would give pfkey0 addresses or routes."""
    if two.version == 6:
        assert "inet6" not in two.a.ip("addr", "show", "pfkey0")
    settings = {
        4: ("accept_redirects", "send_redirects", "accept_source_route"),
        6: ("accept_ra", "accept_redirects", "autoconf"),
    }[two.version]
    for name in settings:
        shown = two.a.run("sysctl", "-n", f"net.ipv{two.version}.conf.pfkey0.{name}").stdout
        assert shown == "0\n", name
