"""Every algorithm in every mode over every family, and the wire read and written by scapy.

Each case has addresses of its own, so that one file of keys and one burst of packets does for all:
a sends through its SA, scapy opens what was on the wire, and b delivers it; then scapy seals
under the same keys, and b delivers that. `make matrix` adds all key lengths and more sizes.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from pfkey import algorithms
from pfkey.algorithms import Algorithm, Kind
from pfkey.lab.hosts import Host, Net
from tests.keyd.packet.test_esp import SCAPY_AUTHS, SCAPY_CIPHERS
from tests.netns.test_conversation import Two
from tests.support.attacked import packet_socket
from tests.support.system import ENDS, until
from tests.support.wire import Tap, drain, mac_of, packed, udp_listener

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(0),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]  # fmt: skip

IS_FULL = os.environ.get("MATRIX") == "full"
SIZES = (1, 64, 500, 1200) if IS_FULL else (100,)
PORT = 4000
# mode, family inside, family outside
WAYS = (("transport", 4, 4), ("transport", 6, 6), ("tunnel", 4, 4), ("tunnel", 6, 6),
        ("tunnel", 4, 6), ("tunnel", 6, 4))  # fmt: skip
LAYERS = {4: IP, 6: IPv6}
THEIRS = 1 << 16  # where scapy begins to number
AES, SHA1 = (algorithms.by_name(k, n) for k, n in ((Kind.ENCRYPT, "aes-cbc"),
                                                    (Kind.AUTH, "hmac-sha1")))  # fmt: skip


def lengths(row: Algorithm) -> list[int]:
    """Of keys, in octets: all that there are, or the longest one that scapy takes."""
    if row.name in ("cast128-cbc", "blowfish-cbc"):
        return [16]  # scapy knows no others
    found = sorted(row.key_bits or range(row.min_bits, row.max_bits + 1, row.step_bits or 8))
    return [bits // 8 for bits in (found if IS_FULL else found[-1:])]


@dataclass(frozen=True)
class Case:
    """One SA from a to b, and the policies that send one flow through it."""

    number: int
    mode: str
    inside: int
    outside: int
    cipher: Algorithm | None
    cipher_key: bytes
    auth: Algorithm | None
    auth_key: bytes

    @property
    def name(self) -> str:
        names = [row.name for row in (self.cipher, self.auth) if row]
        return f"{'+'.join(names)} {self.mode} {self.inside}-in-{self.outside}"

    @property
    def proto(self) -> str:
        return "esp" if self.cipher else "ah"

    @property
    def spi(self) -> int:
        return 1000 + self.number

    def ends(self, version: int, *, is_outer: bool) -> tuple[str, str]:
        """Both addresses of the case's own."""
        high, low = divmod(self.number, 200)
        if version == 4:
            return (f"10.{1 + is_outer}.{high}.{low + 1}", f"20.{1 + is_outer}.{high}.{low + 1}")
        return (f"2001:db8:{1 + 2 * is_outer}::{self.number + 16:x}",
                f"2001:db8:{2 + 2 * is_outer}::{self.number + 16:x}")  # fmt: skip

    @property
    def inner(self) -> tuple[str, str]:
        return self.ends(self.inside, is_outer=False)

    @property
    def outer(self) -> tuple[str, str]:
        if self.mode == "transport":
            return self.inner
        return self.ends(self.outside, is_outer=True)

    def addresses(self, side: int) -> set[str]:
        return {self.inner[side], self.outer[side]}

    def key_line(self) -> str:
        text = f"add {self.outer[0]} {self.outer[1]} {self.proto} {self.spi} -r 64"
        for option, row, key in (("-E", self.cipher, self.cipher_key),
                                 ("-A", self.auth, self.auth_key)):  # fmt: skip
            if row:
                text += f" {option} {row.name}" + (f" 0x{key.hex()}" if key else "")
        return text + ";\n"

    def policy(self, way: str) -> str:
        ends = "-".join(self.outer) if self.mode == "tunnel" else ""
        return (
            f"spdadd -{self.inside} {self.inner[0]} {self.inner[1]} any -P {way}"
            f" ipsec {self.proto}/{self.mode}/{ends}/require;\n"
        )

    @property
    def scapy_knows(self) -> bool:
        return (self.cipher is None or self.cipher.name in SCAPY_CIPHERS) and (
            self.auth is None or self.auth.name in SCAPY_AUTHS
        )

    def scapy(self) -> SecurityAssociation:
        keys: dict[str, object] = {}
        if self.auth:
            keys = {"auth_algo": SCAPY_AUTHS[self.auth.name], "auth_key": self.auth_key}
        if self.cipher:
            keys |= {
                "crypt_algo": SCAPY_CIPHERS[self.cipher.name], "crypt_key": self.cipher_key or None,
                "crypt_icv_size": self.cipher.icv or None,
            }  # fmt: skip
        if self.mode == "tunnel":
            keys["tunnel_header"] = LAYERS[self.outside](src=self.outer[0], dst=self.outer[1])
        return SecurityAssociation(ESP if self.cipher else AH, spi=self.spi, **keys)

    def text(self, size: int, *, is_theirs: bool) -> bytes:
        return struct.pack(">IH?", self.number, size, is_theirs) + bytes(size)


def key_of(octets: int) -> bytes:
    return bytes((n * 7 + 33) & 0xFF for n in range(octets))


def suites() -> Iterator[tuple[Algorithm | None, int, Algorithm | None, int]]:
    """(cipher, octets of its key, authenticator, octets of its key): ESP, then AH."""
    assert AES
    assert SHA1
    for row in algorithms.ENCRYPT:
        for octets in lengths(row) if row.wall else ():
            yield row, octets, None if row.is_aead else SHA1, 0 if row.is_aead else 20
    for row in algorithms.AUTH:
        for octets in lengths(row) if row.wall and row.icv else ():
            yield None, 0, row, octets
            if not row.iv:
                yield AES, 16, row, octets


def cases() -> list[Case]:
    return [
        Case(number, *way, cipher, key_of(cipher_octets), auth, key_of(auth_octets))
        for number, (way, (cipher, cipher_octets, auth, auth_octets)) in enumerate(
            (way, suite) for way in WAYS for suite in suites()
        )
    ]


def prepare(
    host: Host, other: str, other6: str, device: str, addresses: set[str], net: str
) -> None:  # fmt: skip
    """The addresses of all cases on the loopback, and one way to those of the other host."""
    lines = [f"address add {one}/{128 if ':' in one else 32} dev lo" + (" nodad" * (":" in one))
             for one in sorted(addresses)]  # fmt: skip
    lines.append(f"route add {net}.0.0.0/8 via {other} dev {device} onlink")
    lines.append(f"route add 2001:db8::/32 via {other6} dev {device} onlink")
    host.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def test_every_algorithm_mode_and_family_both_ways(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path, 6)
    for host, own, device in ((two.a, ENDS[4][0], two.a_dev), (two.b, ENDS[4][1], two.b_dev)):
        host.ip("addr", "add", f"{own}/32", "dev", device)
    every = cases()
    here, there = ({x for case in every for x in case.addresses(n)} for n in (0, 1))
    prepare(two.a, ENDS[4][1], two.other, two.a_dev, here, "20")
    prepare(two.b, ENDS[4][0], two.own, two.b_dev, there, "10")
    keys = "".join(case.key_line() for case in every)
    two.da.setkey(keys + "".join(case.policy("out") for case in every))
    two.db.setkey(keys + "".join(case.policy("in") for case in every))
    listener = udp_listener(two.b, "::", PORT)  # IPv4 comes there too
    senders = {case: udp_listener(two.a, case.inner[0], 0) for case in every}
    inject, mac = packet_socket(two.a), mac_of(two.b, two.b_dev)
    wanted: set[bytes] = set()
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(drain(listener))
        return len(got) >= len(wanted)

    read = 0
    with Tap(two.b, two.b_dev) as tap:
        for case in every:
            for size in SIZES:
                wanted.add(case.text(size, is_theirs=False))
                senders[case].sendto(case.text(size, is_theirs=False), (case.inner[1], PORT))
            until(arrived, 20, case.name)
        wire: dict[bytes, list[bytes]] = {}
        for octets in tap.packets:
            at = slice(12, 20) if octets[0] >> 4 == 4 else slice(8, 40)
            wire.setdefault(octets[at], []).append(octets)
        for case in every:
            sealed = wire[b"".join(map(packed, case.outer))]
            assert {p[9] if p[0] >> 4 == 4 else p[6] for p in sealed} == {50 if case.cipher else 51}
            assert len(sealed) == len(SIZES), case.name
            if not case.scapy_knows:
                continue
            read += 1
            judge = case.scapy()
            for size, octets in zip(SIZES, sealed, strict=True):
                # scapy leaves IPv4 out of AH as octets
                opened = LAYERS[case.inside](bytes(judge.decrypt(LAYERS[case.outside](octets))))
                assert (opened.src, opened.dst) == case.inner, case.name
                assert bytes(opened).endswith(case.text(size, is_theirs=False)), case.name
                text = case.text(size, is_theirs=True)
                wanted.add(text)
                plain = LAYERS[case.inside](src=case.inner[0], dst=case.inner[1])
                plain /= UDP(sport=9, dport=PORT) / text
                made = judge.encrypt(LAYERS[case.inside](bytes(plain)), seq_num=THEIRS + size)
                kind = 0x86DD if case.outside == 6 else 0x0800
                inject.sendto(bytes(made), (two.a_dev, kind, 0, 0, mac))
            until(arrived, 20, f"scapy's {case.name}")
    assert set(got) == wanted
    assert len(got) == len(wanted)
    assert read >= 130
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == 0
