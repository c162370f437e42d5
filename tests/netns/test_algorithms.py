"""Every algorithm by its setkey name, with real packets: each between two addresses of its own."""

import socket
from pathlib import Path

import pytest
from scapy.layers.inet import IP

from pfkey import algorithms
from pfkey.algorithms import Algorithm, Kind
from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.judge import of_sa
from tests.support.system import until
from tests.support.wire import Tap, drain, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

OLD = ["des-32iv", "des-cbc", "null"]  # of esp-old
PADS = ["zero-pad", "random-pad", "seq-pad"]
TEXT = b"each algorithm says this once "


def key_of(row: Algorithm) -> bytes:
    longest = (max(row.key_bits) if row.key_bits else row.max_bits) // 8
    if row.name in ("cast128-cbc", "blowfish-cbc"):
        longest = 16  # scapy knows no others
    return bytes(range(33, 33 + longest))


def hexed(key: bytes) -> str:
    return f" 0x{key.hex()}" if key else ""


def named(kind: Kind, name: str) -> Algorithm:
    row = algorithms.by_name(kind, name)
    assert row
    return row


SHA1 = named(Kind.AUTH, "hmac-sha1")


def cases() -> list[tuple[str, str, Algorithm | None, Algorithm | None]]:
    """(protocol word, what follows the SPI, cipher, authenticator)"""
    found: list[tuple[str, str, Algorithm | None, Algorithm | None]] = []
    for row in algorithms.ENCRYPT:
        if row.wall:
            auth = None if row.is_aead else SHA1
            text = f"-E {row.name}{hexed(key_of(row))}"
            text += f" -A {SHA1.name}{hexed(key_of(SHA1))}" if auth else ""
            found.append(("esp", "-r 64 " + text, row, auth))
    aes, des = named(Kind.ENCRYPT, "aes-cbc"), named(Kind.ENCRYPT, "des-cbc")
    for row in algorithms.AUTH:
        if row.wall and row.icv:
            found.append(("ah", f"-r 64 -A {row.name}{hexed(key_of(row))}", None, row))
            if not row.iv:
                text = f"-E aes-cbc{hexed(key_of(aes))} -A {row.name}{hexed(key_of(row))}"
                found.append(("esp", text, aes, row))
    for name in OLD:
        key = "" if name == "null" else hexed(key_of(des))
        found.append(("esp-old", f"-E {name}{key}", None, None))
    found.append(("esp", f"-E des-deriv{hexed(key_of(des))}", None, None))
    found += [("esp", f"-f {pad} -E aes-cbc{hexed(key_of(aes))}", aes, None) for pad in PADS]
    found.append(("ah-old", f"-A keyed-md5{hexed(bytes(range(16)))}", None, None))
    return found


def judged(packet: bytes, cipher: Algorithm | None, auth: Algorithm | None, spi: int) -> bytes:
    """The datagram as scapy finds it."""
    keys = [key_of(row) if row else b"" for row in (cipher, auth)]
    return bytes(of_sa(spi, cipher, keys[0], auth, keys[1]).decrypt(IP(packet)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_algorithm_carries_a_datagram_and_scapy_reads_it(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path)
    all_cases = cases()
    keys, here, there = "", "", ""
    for n, (proto, what, _, _) in enumerate(all_cases, 1):
        a, b = f"10.1.2.{n}", f"20.1.2.{n}"
        two.a.ip("addr", "add", f"{a}/32", "dev", two.a_dev)
        two.b.ip("addr", "add", f"{b}/32", "dev", two.b_dev)
        keys += f"add {a} {b} {proto} {1000 + n} {what};\n"
        step = f"{proto[:3].rstrip('-')}/transport//require"
        here += f"spdadd {a} {b} any -P out ipsec {step};\n"
        there += f"spdadd {a} {b} any -P in ipsec {step};\n"
    two.a.ip("route", "add", "20.1.2.0/24", "dev", two.a_dev)
    two.b.ip("route", "add", "10.1.2.0/24", "dev", two.b_dev)
    two.da.setkey(keys + here)
    two.db.setkey(keys + there)
    listener = udp_listener(two.b, "0.0.0.0", 4000)  # noqa: S104 - in a host of its own
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(drain(listener))
        return len(got) == len(all_cases)

    with Tap(two.b, two.b_dev) as tap:
        for n in range(1, len(all_cases) + 1):
            sender = udp_listener(two.a, f"10.1.2.{n}", 0)
            sender.sendto(TEXT + bytes((n,)), (f"20.1.2.{n}", 4000))
        until(arrived, 10, "all datagrams arrive")
    assert sorted(got) == [TEXT + bytes((n,)) for n in range(1, len(all_cases) + 1)]
    for n, (proto, _, cipher, auth) in enumerate(all_cases, 1):
        ends = socket.inet_aton(f"10.1.2.{n}") + socket.inet_aton(f"20.1.2.{n}")
        (packet,) = [packet for packet in tap.packets if packet[12:20] == ends]
        assert packet[9] == (51 if proto.startswith("ah") else 50)
        if cipher or auth:
            assert judged(packet, cipher, auth, 1000 + n).endswith(TEXT + bytes((n,)))
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == 0
    shown = two.da.setkey("", "-D")
    assert shown.count("mature") == len(all_cases)
