"""ICMP errors about packets that came protected: they leave as protected as their answer would.

The wire between the gateways, or the hosts, is watched from outside of both pfkeyds.
"""

import contextlib
import socket
import struct
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two
from tests.support.sites import BEHIND, SPI, Vpn
from tests.support.steering import ICMPV6, datagram, packet
from tests.support.system import AUTHENTIC_KEYS, ENDS, A, B, Daemon, require, until, versions
from tests.support.wire import Tap, checksum, family, in_host, packed, protocol

pytestmark = [pytest.mark.root, pytest.mark.slow]

ICMP, ESP = {4: 1, 6: ICMPV6}, 50
EXCEEDED, UNREACHABLE = {4: 11, 6: 3}, {4: 3, 6: 1}  # types
ROUTER = {4: "10.9.9.9", 6: "2001:db8:9::9"}  # somewhere behind k, in no policy
STRANGER = {4: "10.8.8.8", 6: "2001:db8:8::8"}


def error(version: int, src: str, dst: str, quoted: bytes, kind: int, code: int = 0) -> bytes:
    """An ICMP error about a packet."""
    body = struct.pack(">BBHI", kind, code, 0, 0) + quoted
    pseudo = b""
    if version == 6:
        pseudo = packed(src) + packed(dst) + struct.pack(">II", len(body), ICMPV6)
    body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
    return packet(src, dst, ICMP[version], body)


def errors(tap: Tap, version: int) -> list[bytes]:
    """The ICMP errors that went by in clear."""
    at = 20 if version == 4 else 40
    found = [p for p in tap.packets if p[0] >> 4 == version and protocol(p) == ICMP[version]]
    if version == 4:
        return [p for p in found if p[at] not in (0, 8)]
    return [p for p in found if p[at] < 128]


def sends(host: Host, version: int, *packets: bytes) -> None:
    """Put packets on their way from a host, whatever their source."""
    option = (socket.IPPROTO_IP, 3) if version == 4 else (socket.IPPROTO_IPV6, 36)  # HDRINCL
    at = slice(16, 20) if version == 4 else slice(24, 40)
    fam = socket.AF_INET if version == 4 else socket.AF_INET6
    with in_host(host, lambda: socket.socket(fam, socket.SOCK_RAW, socket.IPPROTO_RAW)) as sender:
        sender.setsockopt(*option, 1)
        for one in packets:
            sender.sendto(one, (socket.inet_ntop(fam, one[at]), 0))


@pytest.fixture
def vpn(net: Net, tmp_path: Path) -> Vpn:
    made = Vpn(net, tmp_path)
    for version in (4, 6):
        made.load_g(version, version)
        made.load_r(version, version)
        made.g.ip("route", "add", ROUTER[version], "via", ENDS[version][1], "dev", "tor")
    return made


def test_the_way_through_a_tunnel_can_be_traced(vpn: Vpn) -> None:
    # over IPv6 Linux takes an address that the policy selects anyhow
    for version, far in ((4, ENDS[4][1]), (6, "2001:db8:b::1")):
        with Tap(vpn.g, "tor") as tap:
            argv = ("ping", "-c1", "-W3", "-t2", BEHIND[version][1])
            said = vpn.h.run(*argv, check=False).stdout
            assert f"From {far} icmp_seq=1 Time" in said, said
            assert vpn.ping(BEHIND[version][1])
            assert {protocol(p) for p in tap.packets if p[0] >> 4 == version} == {ESP}
    for daemon in (vpn.dg, vpn.dr):
        assert daemon.counter("pfkey", "internal") == daemon.counter("pfkey", "clear_out") == 0


def test_an_error_without_an_sa_is_dropped_and_counted(vpn: Vpn) -> None:
    for number, version in enumerate((4, 6), 1):
        own, other = ENDS[version]
        vpn.dr.setkey(f"delete {other} {own} esp {SPI[ESP, 'in']};")
        with Tap(vpn.g, "tor") as tap:
            argv = ("ping", "-c1", "-W1", "-t2", BEHIND[version][1])
            assert vpn.h.run(*argv, check=False).returncode == 1

            def is_dropped(number: int = number) -> bool:
                return vpn.dr.counter("ipsec", "out_nosa") == number

            until(is_dropped, what="it is dropped")
            assert errors(tap, version) == []


def test_errors_of_routers_behind_a_gateway_go_by_what_they_quote(vpn: Vpn) -> None:
    for version in (4, 6):
        h, k = BEHIND[version]
        sender, kind, stranger = ROUTER[version], EXCEEDED[version], STRANGER[version]
        quoted = packet(h, k, 17, datagram(h, k, 7, b"the secret"))
        other = packet(h, stranger, 17, datagram(h, stranger, 7, b"no secret"))
        with Tap(vpn.h, "tog") as near, Tap(vpn.g, "tor") as wire:
            for one in (quoted, other):
                sends(vpn.k, version, error(version, sender, h, one, kind))

            def arrived(tap: Tap = near, ends: tuple[str, str] = (sender, h)) -> bool:
                return len(tap.between(*ends)) >= 2

            until(arrived, what="both arrive")
            found = near.between(sender, h)
            in_clear = wire.between(sender, h)
        assert sorted(b"the secret" in p for p in found) == [False, True]
        assert [b"the secret" in p for p in in_clear] == [False]


def test_what_nobody_asked_for_is_not_taken_out_of_a_tunnel(vpn: Vpn) -> None:
    """The peer's gateway sends errors through the tunnel about what never was in it."""
    for number, version in enumerate((4, 6), 1):
        h, k = BEHIND[version]
        far, near = ENDS[version][::-1]
        sender, stranger = ROUTER[version], STRANGER[version]
        vpn.dr.setkey(f"spdadd {sender} {h} any -P out ipsec esp/tunnel/{far}-{near}/require;")
        other = packet(h, stranger, 17, datagram(h, stranger, 7))
        with Tap(vpn.h, "tog") as tap:
            sends(vpn.k, version, error(version, sender, h, other, EXCEEDED[version]))

            def is_refused(number: int = number) -> bool:
                return vpn.dg.counter("esp", "pdrops") == number

            until(is_refused, what="it is refused")
            assert vpn.ping(k)
            assert tap.between(sender, h) == []


@versions
@pytest.mark.parametrize("first", ["", f"spdadd {B} {A} {{}} -P out none;"], ids=["", "none"])
def test_a_closed_port_is_told_under_policies_for_udp_alone(
    net: Net, tmp_path: Path, version: int, first: str
) -> None:
    two = Two(net, tmp_path, version)
    two.load(
        AUTHENTIC_KEYS + require(A, B, "udp"),
        AUTHENTIC_KEYS + first.format("icmp" if version == 4 else "icmp6") + require(B, A, "udp"),
    )
    with Tap(two.a, two.a_dev) as tap:
        talker = in_host(two.a, lambda: socket.socket(family(two.other), socket.SOCK_DGRAM))
        talker.settimeout(5)
        talker.connect((two.other, 4444))
        talker.send(b"the secret")
        with pytest.raises(ConnectionRefusedError):
            talker.recv(1)
        assert set(tap.protocols(two.other, two.own)) == {ESP}
        assert two.ping(), "echoes are under no policy"
        assert set(tap.protocols(two.other, two.own)) == {ESP, ICMP[version]}
        assert errors(tap, version) == []
    assert two.db.counter("pfkey", "clear_out") == 0


def test_errors_about_what_no_policy_selects_are_left_alone(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path)
    two.load(AUTHENTIC_KEYS + require(A, B, "tcp"), AUTHENTIC_KEYS + require(B, A, "tcp"))
    with Tap(two.a, two.a_dev) as tap:
        talker = in_host(two.a, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        talker.settimeout(5)
        talker.connect((B, 4444))
        talker.send(b"no secret")
        with pytest.raises(ConnectionRefusedError):
            talker.recv(1)
        (told,) = errors(tap, 4)
    assert b"no secret" in told
    assert two.db.counter("pfkey", "clear_out") == 1, "its addresses are those of the policy"


def test_what_a_crash_leaves_behind_holds_errors_back(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path)
    two.load(AUTHENTIC_KEYS + require(A, B, "udp"), AUTHENTIC_KEYS + require(B, A, "udp"))
    two.db.kill()
    quoted = packet(A, B, 17, datagram(A, B, 7, b"the secret"))
    one = error(4, B, A, quoted, UNREACHABLE[4], 3)
    with Tap(two.a, two.a_dev) as tap:
        with contextlib.suppress(OSError):  # as long as the workers live it is sealed
            sends(two.b, 4, one)
        two.db = Daemon(two.b, tmp_path)
        with pytest.raises(PermissionError):
            sends(two.b, 4, one)
        assert two.b.run("ping", "-c1", "-W2", A).returncode == 0, "what was sent has arrived"
        assert errors(tap, 4) == []
    assert two.db.counter("pfkey", "hold_dropped") >= 1
