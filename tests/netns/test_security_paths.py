"""ICMP errors, path MTU and fragments, with real packets over either family (RFC 4301 7, 8)."""

import socket
import struct
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, transfer
from tests.support.attacked import ICMP, PORT, Attacked, counters, only_esp
from tests.support.steering import (
    AH,
    ESP,
    FRAGMENT,
    ICMPV6,
    OPTIONS,
    UDP,
    extension,
    join,
    packet,
    piece,
)
from tests.support.system import AUTHENTIC_KEYS, ENDS, A, B, Daemon, over, require, until, versions
from tests.support.wire import Tap, checksum, drain, in_host, ipv4, packed, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROUTER = {4: "20.1.1.254", 6: "2001:db8:2::fe"}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
HARD = {4: ((3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0)),
        6: ((1, 0), (1, 1), (1, 4), (3, 0), (4, 0), (4, 1), (4, 2))}  # fmt: skip


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def two(request: pytest.FixtureRequest, net: Net, tmp_path: Path) -> Attacked:
    return Attacked(net, tmp_path, request.param)


def icmp_error(version: int, quoted: bytes, mtu: int, kind: int, code: int) -> bytes:
    """From a router to a."""
    own, _ = ENDS[version]
    if version == 4:
        body = struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quoted
        total = checksum(body)
    else:
        body = struct.pack(">BBHI", kind, code, 0, mtu) + quoted
        ends = packed(ROUTER[6]) + packed(own) + struct.pack(">II", len(body), ICMPV6)
        total = checksum(ends + body)
    body = body[:2] + struct.pack(">H", total) + body[4:]
    return packet(ROUTER[version], own, ICMP if version == 4 else ICMPV6, body)


def quotation(two: Attacked, spi: int, seq: int) -> bytes:
    return two.esp(struct.pack(">II", spi, seq) + bytes(20))


def told(two: Attacked, quoted: bytes, mtu: int, kind: int, code: int) -> int:
    """Whether a believed an error: 1 or 0."""
    before = counters(two.da)
    two.to_a(icmp_error(two.version, quoted, mtu, kind, code))

    def heard() -> bool:
        now = counters(two.da)
        return any(
            now.get(name, 0) > before.get(name, 0) for name in ("icmp_ignored", "icmp_accepted")
        )

    until(heard, what=f"type {kind} code {code}")
    return counters(two.da).get("icmp_accepted", 0) - before.get("icmp_accepted", 0)


def test_a_forged_icmp_error_teaches_neither_us_nor_the_kernel(two: Attacked) -> None:
    """TCP would obey the kernel's memory: it shares the address with the outer packets."""
    assert two.ping()
    too_big = TOO_BIG[two.version]
    assert told(two, quotation(two, 1, 1), 1300, *too_big) == 0
    assert told(two, quotation(two, 9876, 5000), 1300, *too_big) == 0
    assert told(two, quotation(two, 9876, 1), 0, *too_big) == 0
    assert told(two, quotation(two, 9876, 1), 65535, *too_big) == 0
    if two.version == 6:  # of IPv4 the kernel keeps such to itself
        assert told(two, quotation(two, 9876, 1)[:-24], 1300, *too_big) == 0
        sealed = quotation(two, 9876, 1)[40:]
        behind = extension(ESP, b"\0" * len(sealed), kind=OPTIONS)
        tail = piece(ESP, sealed, 800, more=False)
        for kind, octets in ((OPTIONS, behind), (FRAGMENT, tail), (AH, sealed)):
            quoted = packet(two.own, two.other, kind, octets)
            assert told(two, quoted, 1300, *too_big) == 0
    for kind, code in HARD[two.version]:
        assert told(two, quotation(two, 9876, 5000), 0, kind, code) == 0
        assert told(two, quotation(two, 9876, 1), 0, kind, code) == 1
    assert "mtu" not in two.a.ip("route", "get", two.other)
    assert len(transfer(two.a, two.b, two.other, MEGABYTE)) == MEGABYTE, "hard errors stay soft"
    assert counters(two.da)["icmp_relayed"]
    assert counters(two.da)["output"] < 1000, "the segments are as large as ever"


def test_a_true_one_lowers_the_path_to_the_floor_and_no_further(two: Attacked) -> None:
    """RFC 8201 4: never below 1280. And the kernel learns nothing of it."""
    assert two.ping()
    floor = {4: 576, 6: 1280}[two.version]
    for mtu in (1400, floor, floor - 100, 100):
        assert told(two, quotation(two, 9876, 1), mtu, *TOO_BIG[two.version]) == 1
        with only_esp(two) as tap:
            assert two.ping("-s", "3000")
        largest = max(map(len, tap.between(two.own, two.other)))
        assert max(mtu, floor) - 8 < largest <= max(mtu, floor)
    assert "mtu" not in two.a.ip("route", "get", two.other)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_fragments_that_an_application_makes_cross_as_one_datagram(
    two: Attacked, order: tuple[int, ...]
) -> None:
    """Transport mode protects whole datagrams (RFC 4301 section 7); a missing piece is nobody's."""
    kind = socket.AF_INET if two.version == 4 else socket.AF_INET6
    sender = in_host(two.a, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))
    listener = udp_listener(two.b, two.other, PORT)

    def pieces(word: bytes, ident: int) -> list[bytes]:
        whole = two.datagram(word * 300)
        made = []
        for at in range(0, len(whole), 800):
            part, more = whole[at : at + 800], at < 1600
            if two.version == 4:
                made.append(ipv4(A, B, UDP, part, ident=ident, offset=at, more=more))
            else:
                part = piece(UDP, part, at, more=more, ident=ident)
                made.append(packet(two.own, two.other, FRAGMENT, part))
        return made

    lost, whole = pieces(b"gone..", 7), pieces(b"hello.", 8)
    assert len(whole) == 3
    with only_esp(two):
        for octets in [*lost[:2], *(whole[n] for n in order)]:
            sender.sendto(octets, (two.other, 0))
        until(lambda: drain(listener) == [b"hello." * 300])
    seen = counters(two.da)
    assert "frag_dropped" not in seen
    assert (seen["frag_held"], seen["frag_joined"], seen["output"]) == (5, 1, 1)


@versions
def test_tcp_adapts_at_once_to_a_small_link_that_only_a_router_knows(
    net: Net, tmp_path: Path, version: int
) -> None:
    """a ── r ── b, 1300 octets behind r: it says so, and the next segments fit."""
    a, r, b = (net.host(name, ipv6=True) for name in "arb")
    own, other = ENDS[version]
    near = {4: ("10.1.1.254", "20.1.1.254"), 6: ("2001:db8:1::fe", "2001:db8:2::fe")}[version]

    join(net, a, own, r, near[0])
    join(net, b, other, r, near[1])
    a.ip("route", "add", other, "via", near[0], "dev", "tor", "src", own)
    b.ip("route", "add", own, "via", near[1], "dev", "tor", "src", other)
    r.ip("link", "set", "tob", "mtu", "1300")
    r.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    da, db = Daemon(a, tmp_path), Daemon(b, tmp_path)
    da.setkey(over(version, AUTHENTIC_KEYS + require(A, B)))
    db.setkey(over(version, AUTHENTIC_KEYS + require(B, A)))
    with Tap(b, "tor") as tap:
        assert len(transfer(a, b, other, MEGABYTE)) == MEGABYTE
    assert da.counter("pfkey", "icmp_accepted") >= 1
    assert max(map(len, tap.between(own, other))) <= 1300
    assert set(tap.protocols(own, other)) == {ESP}
    assert db.counter("esp", "badauth") == 0
