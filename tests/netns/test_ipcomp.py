"""IPComp between two hosts, with real packets: alone, inside ESP, and in a tunnel (RFC 3173).

What the wire shows is read by zlib, by scapy for the ESP around it, and by tshark.
"""

import os
import socket
import subprocess
import zlib
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.utils import wrpcap

from tests.netns.test_conversation import MEGABYTE, Two, transfer
from tests.support.system import A, B, until
from tests.support.wire import Tap, drain, in_host, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

COMP_KEYS = f"""
add {A} {B} ipcomp 0x1001 -C deflate;
add {B} {A} ipcomp 0x1002 -C deflate;
"""
ESP_KEYS = f"""
add {A} {B} esp 0x2001 -r 32 -E aes-cbc "hogehogehogehoge" -A hmac-sha1 "0123456789abcdef0123";
add {B} {A} esp 0x2002 -r 32 -E aes-cbc "hogehogehogehoge" -A hmac-sha1 "0123456789abcdef0123";
"""
STEPS = {
    "comp": "ipcomp/transport//require",
    "comp-tunnel": "ipcomp/tunnel/{own}-{other}/require",
    "comp-esp": "ipcomp/transport//use esp/transport//require",
    "comp-tunnel-esp": "ipcomp/tunnel/{own}-{other}/require esp/transport//require",
    "comp-esp-tunnel": "ipcomp/transport//require esp/tunnel/{own}-{other}/require",
}
SOFT = b"the same words again and again; "


def load(two: Two, steps: str) -> None:
    for daemon, own, other in ((two.da, A, B), (two.db, B, A)):
        daemon.setkey(
            COMP_KEYS
            + ESP_KEYS
            + f"spdadd {own} {other} any -P out ipsec {steps.format(own=own, other=other)};"
            + f"spdadd {other} {own} any -P in ipsec {steps.format(own=other, other=own)};"
        )


def of_esp(packet: bytes) -> IP:
    """What is inside, as scapy authenticates and decrypts it."""
    sa = SecurityAssociation(
        ESP, spi=0x2001, crypt_algo="AES-CBC", crypt_key=b"hogehogehogehoge",
        auth_algo="HMAC-SHA1-96", auth_key=b"0123456789abcdef0123",
    )  # fmt: skip
    return sa.decrypt(IP(packet))


def inflated(octets: bytes, cpi: int = 0x1001) -> tuple[int, bytes]:
    """(next header, payload) of an IPComp header and what is behind it."""
    assert octets[1:4] == b"\0" + cpi.to_bytes(2, "big")
    return octets[0], zlib.decompress(octets[4:], -15)


def arriving(tap: Tap) -> list[bytes]:
    return [packet for packet in tap.packets if packet[12:16] == socket.inet_aton(A)]


def exchange(two: Two, *datagrams: bytes) -> bool:
    """Send over UDP; whether all arrived as they were. What came in clear may come earlier."""
    listener, sender = udp_listener(two.b, B, 0), udp_listener(two.a, A, 0)
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(drain(listener))
        return len(got) == len(datagrams)

    for datagram in datagrams:
        sender.sendto(datagram, listener.getsockname())
    until(arrived, what="all datagrams arrive")
    return sorted(got) == sorted(datagrams)


def test_alone_it_shrinks_what_shrinks_and_leaves_the_rest(two: Two, tmp_path: Path) -> None:
    load(two, STEPS["comp"])
    soft, hard = SOFT * 40, os.urandom(1200)
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping("-s", "1000", "-p", "00")
        assert exchange(two, soft, hard, b"short")
        assert exchange(two, SOFT * 1900)  # of another flow
    packets = arriving(tap)
    assert [packet[9] for packet in packets] == [108, 108, 108, 17, 17, 108]
    assert max(map(len, packets[:3] + packets[5:])) < 500
    assert inflated(packets[0][20:])[0] == 1
    proto, datagram = inflated(packets[2][20:])
    assert (proto, datagram[8:]) == (17, soft)
    assert packets[3][28:] == hard, "in clear, as section 2.2 wants it"
    assert inflated(packets[5][20:])[1][8:] == SOFT * 1900, "60 KiB, compressed before any cut"
    for daemon in (two.da, two.db):
        assert daemon.counter("ipsec", "in_polvio") == daemon.counter("pfkey", "internal") == 0
    assert two.da.counter("ipcomp", "output") == two.db.counter("ipcomp", "input") == 4
    assert two.da.counter("ipcomp", "useless") == two.da.counter("ipcomp", "minlen") == 1
    wrpcap(str(tmp_path / "c.pcap"), [IP(packet) for packet in packets], linktype=101)
    told = subprocess.run(
        ["tshark", "-r", str(tmp_path / "c.pcap"), "-T", "fields", "-e", "ipcomp.cpi", "-e",
         "ipcomp.flags"], capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split() for line in told] == [["0x1001", "0x00"]] * 3 + [[], []] + [
        ["0x1001", "0x00"]
    ]
    assert "C: deflate" in two.da.setkey("", "-D")


def test_in_a_tunnel_of_its_own_what_does_not_shrink_is_a_packet_in_a_packet(two: Two) -> None:
    """RFC 3173 2.2: without IPComp's header; taken because there is such an SA."""
    load(two, STEPS["comp-tunnel"])
    soft, hard = SOFT * 40, os.urandom(1200)
    with Tap(two.b, two.b_dev) as tap:
        assert exchange(two, soft, hard)
    first, second = arriving(tap)
    assert (first[9], second[9]) == (108, 4)
    proto, inner = inflated(first[20:])
    assert (proto, inner[9], inner[28:]) == (4, 17, soft)
    assert second[48:] == hard
    two.db.setkey(f"delete {A} {B} ipcomp 0x1001;")
    listener, sender = udp_listener(two.b, B, 0), udp_listener(two.a, A, 0)
    with Tap(two.b, two.b_dev) as tap:
        sender.sendto(hard, listener.getsockname())
        until(lambda: arriving(tap), what="it is on the wire")
    assert [packet[9] for packet in arriving(tap)] == [4]
    assert drain(listener) == [], "no SA, no way in"


@pytest.mark.parametrize("name", ["comp-esp", "comp-tunnel-esp", "comp-esp-tunnel"])
def test_inside_esp_nobody_sees_what_shrank(two: Two, name: str) -> None:
    load(two, STEPS[name])
    soft, hard = SOFT * 40, os.urandom(1200)
    with Tap(two.b, two.b_dev) as tap:
        assert exchange(two, soft, hard, b"short")
        assert two.ping("-s", "1400", "-p", "00")
    packets = arriving(tap)
    assert {packet[9] for packet in packets} == {50}
    assert len(packets[0]) < 300 < 1200 < len(packets[1])
    has_tunnel = name == "comp-tunnel-esp"
    found = []
    for packet in packets[:3]:
        inside = of_esp(packet)
        if name == "comp-esp-tunnel":
            assert inside.proto == 4
            inside = inside.payload
        if inside.proto == 108:
            proto, octets = inflated(bytes(inside)[20:])
        else:
            proto, octets = inside.proto, bytes(inside)[20:]
        if has_tunnel:
            assert proto == 4
            proto, octets = octets[9], octets[20:]
        assert proto == 17
        found.append((inside.proto, octets[8:]))
    bare = 4 if has_tunnel else 17
    assert found == [(108, soft), (bare, hard), (bare, b"short")]
    assert two.db.counter("esp", "pdrops") == two.db.counter("ipcomp", "pdrops") == 0


@pytest.mark.parametrize("name", STEPS)
def test_everything_large_passes(two: Two, name: str) -> None:
    load(two, STEPS[name])
    for size in ("56", "1400", "1472", "3000", "20000"):
        assert two.ping("-s", size), size
    sizes = [1, 1000, 5000, 60000]
    assert exchange(two, *(os.urandom(octets) for octets in sizes))
    assert exchange(two, *((SOFT * 2000)[:octets] for octets in sizes))
    with Tap(two.b, two.b_dev) as tap:
        assert transfer(two.a, two.b, B, MEGABYTE) == b"payload-pattern-" * (MEGABYTE // 16)
    packets = arriving(tap)
    assert sum(map(len, packets)) < MEGABYTE / 4, "it compresses well"
    assert max(map(len, packets)) <= 1500
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == daemon.counter("esp", "badauth") == 0
        assert daemon.counter("ipcomp", "crypto") == daemon.counter("ipcomp", "pdrops") == 0


def test_where_esp_is_demanded_ipcomp_is_no_way_in(two: Two) -> None:
    load(two, STEPS["comp-esp"])
    two.da.setkey(f"spdflush; spdadd {A} {B} any -P out ipsec ipcomp/transport//require;")
    assert not two.ping("-s", "1000", "-p", "00")
    assert two.db.counter("ipcomp", "pdrops") >= 1
    assert not two.ping()
    assert two.db.counter("ipsec", "in_polvio") >= 1


def is_counted(two: Two, name: str, number: int) -> bool:
    return two.db.counter("ipcomp", name) == number


def test_bombs_and_nonsense_are_dropped_and_counted(two: Two) -> None:
    load(two, STEPS["comp"])
    raw = in_host(two.a, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 108))
    context = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = context.compress(bytes(50_000_000)) + context.flush()
    for payload, name in (
        (b"\x11\0\x10\x01" + bomb, "crypto"),
        (b"\x11\0\x10\x01nonsense", "crypto"),
        (b"\x11\0\x77\x77nonsense", "notdb"),
        (b"\x11", "hdrops"),
    ):
        expected = two.db.counter("ipcomp", name) + 1
        raw.sendto(payload, (B, 0))
        until(partial(is_counted, two, name, expected), what=name)
    assert two.ping("-s", "1000", "-p", "00")
