"""Every algorithm in every mode over every family, in both directions, and scapy on either side.

Each case has addresses and two SAs of its own, so that one file of keys and one burst of packets
does for all. Datagrams up to 64 KiB, pings and TCP go both ways; what the wire shows in either
direction is opened by `tests.support.judge`; then that seals under the same keys, and each host
delivers it. `make matrix` adds all key lengths and more sizes.
"""

import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import UDP

from pfkey import algorithms
from pfkey.algorithms import Algorithm, Kind
from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two
from tests.support.attacked import packet_socket
from tests.support.judge import IPCOMP, LAYERS, Deflated, Judge, of_sa
from tests.support.pieces import cut, joined
from tests.support.system import ENDS, until
from tests.support.wire import (
    Tap,
    drain,
    family,
    in_host,
    mac_of,
    packed,
    protocol,
    udp_listener,
)

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(0),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]  # fmt: skip

IS_FULL = os.environ.get("MATRIX") == "full"
SIZES = (1, 64, 500, 1200, 9000, 65000) if IS_FULL else (100, 65000)
STREAM = 1 << 18 if IS_FULL else 1 << 14
PORT = 4000
WAYS = ((0, 1), (1, 0))  # from a to b, from b to a
# mode, family inside, family outside
MODES = (("transport", 4, 4), ("transport", 6, 6), ("tunnel", 4, 4), ("tunnel", 6, 6),
         ("tunnel", 4, 6), ("tunnel", 6, 4))  # fmt: skip
PINGS = {4: (socket.IPPROTO_ICMP, 8), 6: (socket.IPPROTO_ICMPV6, 128)}
AES, SHA1 = (algorithms.by_name(k, n) for k, n in ((Kind.ENCRYPT, "aes-cbc"),
                                                    (Kind.AUTH, "hmac-sha1")))  # fmt: skip
THEIRS = 1 << 14  # where scapy begins to number
COMPRESSED = 120  # octets of payload from which IPComp begins, with room
AT_ONCE = 8  # cases whose packets are under way together


@dataclass(frozen=True)
class Suite:
    """A protocol and its algorithms; keys of the way back are the same octets turned round."""

    proto: str
    cipher: Algorithm | None = None
    cipher_octets: int = 0
    auth: Algorithm | None = None
    auth_octets: int = 0

    def keys(self, way: int) -> tuple[bytes, bytes]:
        step = -1 if way else 1
        return tuple(
            bytes((n * 7 + 33) & 0xFF for n in range(octets))[::step]
            for octets in (self.cipher_octets, self.auth_octets)
        )  # type: ignore[return-value] # two of them

    def words(self, way: int) -> str:
        """For setkey, from the algorithms on."""
        if self.proto == "ipcomp":
            return "-C deflate"
        text = "-r 64"
        for option, row, key in zip(("-E", "-A"), (self.cipher, self.auth), self.keys(way),
                                    strict=True):  # fmt: skip
            if row:
                text += f" {option} {row.name}" + (f" 0x{key.hex()}" if key else "")
        return text


@dataclass(frozen=True)
class Case:
    """Two SAs, and the policies that send what two addresses say to each other through them."""

    number: int
    mode: str
    inside: int
    outside: int
    suite: Suite

    def __str__(self) -> str:
        names = [row.name for row in (self.suite.cipher, self.suite.auth) if row]
        what = f"{self.suite.proto} {'+'.join(names)}"
        return f"{what} {self.mode} {self.inside}-in-{self.outside}"

    def spi(self, way: int) -> int:
        return 1000 + self.number * 2 + way

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

    def lines(self, own: int) -> str:
        """Of the side whose addresses come first where `own` is 0, else second."""
        text = ""
        for here, there in WAYS:
            src, dst = self.outer[here], self.outer[there]
            text += f"add {src} {dst} {self.suite.proto} {self.spi(here)} {self.suite.words(here)};"
            ends = f"{src}-{dst}" if self.mode == "tunnel" else ""
            text += (
                f"spdadd -{self.inside} {self.inner[here]} {self.inner[there]} any"
                f" -P {'out' if here == own else 'in'}"
                f" ipsec {self.suite.proto}/{self.mode}/{ends}/require;\n"
            )
        return text

    def judge(self, way: int) -> Judge:
        tunnel = None
        if self.mode == "tunnel":
            src, dst = self.outer[::-1] if way else self.outer
            tunnel = LAYERS[self.outside](src=src, dst=dst)
        if self.suite.proto == "ipcomp":
            return Deflated(self.spi(way), tunnel)
        cipher_key, auth_key = self.suite.keys(way)
        return of_sa(
            self.spi(way), self.suite.cipher, cipher_key, self.suite.auth, auth_key, tunnel
        )

    @property
    def protocol(self) -> int:
        return {"esp": 50, "ah": 51, "ipcomp": IPCOMP}[self.suite.proto]

    @property
    def bare(self) -> set[int]:
        """What the wire may show instead where a packet does not shrink (RFC 3173 2.2)."""
        if self.suite.proto != "ipcomp":
            return set()
        return {6} if self.mode == "transport" else {{4: 4, 6: 41}[self.inside]}

    @property
    def sizes(self) -> list[int]:
        return [n for n in SIZES if n >= COMPRESSED or self.suite.proto != "ipcomp"] + (
            [COMPRESSED] if self.suite.proto == "ipcomp" else []
        )

    def text(self, size: int, what: bytes, way: int = 0) -> bytes:
        return struct.pack(">II", self.number, size << 1 | way) + what + bytes(size)


def lengths(row: Algorithm) -> list[int]:
    """Of keys, in octets: all that there are, or the longest one that scapy takes."""
    if row.name in ("cast128-cbc", "blowfish-cbc"):
        return [16]  # scapy knows no others
    found = sorted(row.key_bits or range(row.min_bits, row.max_bits + 1, row.step_bits or 8))
    return [bits // 8 for bits in (found if IS_FULL else found[-1:])]


def suites() -> Iterator[Suite]:
    assert AES
    assert SHA1
    for row in algorithms.ENCRYPT:
        for octets in lengths(row) if row.wall else ():
            yield Suite("esp", row, octets, *((None, 0) if row.is_aead else (SHA1, 20)))
    for row in algorithms.AUTH:
        for octets in lengths(row) if row.wall and row.icv else ():
            yield Suite("ah", None, 0, row, octets)
            if not row.iv:
                yield Suite("esp", AES, 16, row, octets)
    yield Suite("ipcomp")


def cases() -> list[Case]:
    return [
        Case(number, *way, suite)
        for number, (way, suite) in enumerate((way, suite) for way in MODES for suite in suites())
    ]


class Matrix:
    """Two hosts with the addresses, keys and policies of all cases."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.two = two = Two(net, tmp, 6)
        self.cases = cases()
        self.hosts, self.devices = (two.a, two.b), (two.a_dev, two.b_dev)
        nexts = ((ENDS[4][1], two.other, "20"), (ENDS[4][0], two.own, "10"))
        for side, (host, device) in enumerate(zip(self.hosts, self.devices, strict=True)):
            host.ip("addr", "add", f"{ENDS[4][side]}/32", "dev", device)
            host.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 0")
            self._addresses(host, device, side, *nexts[side])
        for side, daemon in enumerate((two.da, two.db)):
            daemon.setkey("".join(case.lines(side) for case in self.cases))
        self.listeners = [udp_listener(host, "::", PORT) for host in self.hosts]  # and IPv4
        for listener in self.listeners:
            listener.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self.senders = {
            (case, here): udp_listener(self.hosts[here], case.inner[here], 0)
            for case in self.cases for here, _ in WAYS
        }  # fmt: skip

        self._injectors = [
            (packet_socket(self.hosts[here]), mac_of(self.hosts[there], self.devices[there]))
            for here, there in WAYS
        ]

    def _addresses(
        self, host: Host, device: str, side: int, gateway: str, gateway6: str, net: str
    ) -> None:
        """Those of all cases on the loopback, and one way to those of the other host."""
        own = {one for case in self.cases for one in (case.inner[side], case.outer[side])}
        lines = [f"address add {one}/{128 if ':' in one else 32} dev lo" + " nodad" * (":" in one)
                 for one in sorted(own)]  # fmt: skip
        lines.append(f"route add {net}.0.0.0/8 via {gateway} dev {device} onlink")
        lines.append(f"route add 2001:db8::/32 via {gateway6} dev {device} onlink")
        host.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    def few(self) -> Iterator[list[Case]]:
        for first in range(0, len(self.cases), AT_ONCE):
            yield self.cases[first : first + AT_ONCE]

    def delivered(self, send: Callable[[Case, int], list[bytes]], what: str) -> None:
        """What `send` says it sent arrives at the other host, each once and nothing else."""
        for some in self.few():
            wanted: list[list[bytes]] = [[], []]
            got: list[list[bytes]] = [[], []]
            for case in some:
                for here, there in WAYS:
                    wanted[there] += send(case, here)

            def arrived() -> bool:
                for side, listener in enumerate(self.listeners):
                    got[side] += drain(listener)  # noqa: B023
                return all(len(got[n]) >= len(wanted[n]) for n in (0, 1))  # noqa: B023

            until(arrived, 60, f"{what}: {some[0]} to {some[-1]}")
            for side in (0, 1):
                assert sorted(got[side]) == sorted(wanted[side]), (what, list(map(str, some)))

    def datagrams(self, case: Case, here: int) -> list[bytes]:
        texts = [case.text(size, b"ours", here) for size in case.sizes]
        for text in texts:
            self.senders[case, here].sendto(text, (case.inner[1 - here], PORT))
        return texts

    def theirs(self, case: Case, here: int) -> list[bytes]:
        """Sealed by the judge, and put on the wire before the other host."""
        there, judge = 1 - here, case.judge(here)
        texts: list[bytes] = []
        inject, mac = self._injectors[here]
        for size in case.sizes:
            text = case.text(size, b"theirs", here)
            plain = LAYERS[case.inside](src=case.inner[here], dst=case.inner[there])
            plain /= UDP(sport=9, dport=PORT) / text
            made = judge.encrypt(LAYERS[case.inside](bytes(plain)), seq_num=THEIRS + len(texts))
            kind = 0x86DD if case.outside == 6 else 0x0800
            for piece in cut(bytes(made), ident=len(texts) + 1):
                inject.sendto(piece, (self.devices[here], kind, 0, 0, mac))
            texts.append(text)
        return texts

    def pings(self) -> None:
        """One echo of each case: the request goes one way, the reply the other."""
        for some in self.few():
            waiting = {}
            for case in some:
                proto, request = PINGS[case.inside]
                ping = in_host(self.hosts[0], lambda: socket.socket(
                    family(case.inner[0]), socket.SOCK_DGRAM, proto))  # noqa: B023 # fmt: skip
                ping.bind((case.inner[0], 0))
                ping.settimeout(10)
                head = struct.pack(">BBHHH", request, 0, 0, 0, 1)
                ping.sendto(head + case.text(COMPRESSED, b"ping"), (case.inner[1], 0))
                waiting[case] = ping
            for case, ping in waiting.items():
                with ping:
                    assert ping.recv(2000)[8:] == case.text(COMPRESSED, b"ping"), str(case)

    def streams(self) -> None:
        """TCP of each case: so many octets there, and the same back."""
        server = in_host(self.hosts[1], lambda: socket.create_server(
            ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64))  # fmt: skip

        def echo(_: Case) -> None:
            with server.accept()[0] as connection:
                got = bytearray()
                while piece := connection.recv(1 << 20):
                    got += piece
                connection.sendall(got)

        def ask(case: Case) -> bool:
            text = (case.text(0, b"stream") * (STREAM // 14 + 1))[:STREAM]
            with in_host(self.hosts[0], lambda: socket.create_connection(
                (case.inner[1], PORT), 20, (case.inner[0], 0))) as connection:  # fmt: skip
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                got = bytearray()
                while piece := connection.recv(1 << 20):
                    got += piece
                return got == text

        server.settimeout(20)
        with ThreadPoolExecutor(AT_ONCE) as servers, ThreadPoolExecutor(AT_ONCE) as clients:
            done = servers.map(echo, self.cases)
            assert all(clients.map(ask, self.cases))
            list(done)


def by_case(every: list[Case], tap: Tap, way: int) -> dict[Case, list[bytes]]:
    """The packets of the wire, joined, by whose outer addresses they have."""
    found = defaultdict(list)
    for octets in joined(tap.packets):
        at = slice(12, 20) if octets[0] >> 4 == 4 else slice(8, 40)
        found[octets[at]].append(octets)
    cases = {b"".join(packed(case.outer[side]) for side in WAYS[way]): case for case in every}
    assert found.keys() == cases.keys(), "nothing else is on the wire"
    return {cases[ends]: packets for ends, packets in found.items()}


def opened(case: Case, way: int, packets: list[bytes]) -> list[bytes]:
    """What the packets carry behind the headers of UDP or ICMP, as the judge sees it."""
    judge = case.judge(way)
    inside = []
    for packet in packets:
        outer = LAYERS[case.outside](packet)
        assert packet[9 if case.outside == 4 else 6] == case.protocol, str(case)
        inside.append(bytes(judge.decrypt(outer)))  # where tunnels cut, they cut before they seal
    found = []
    for packet in joined(inside):
        inner = LAYERS[case.inside](packet)
        ends = case.inner[::-1] if way else case.inner
        assert (inner.src, inner.dst) == ends, str(case)
        found.append(packet[28 if case.inside == 4 else 48 :])
    return sorted(found)


def test_every_algorithm_mode_and_family_both_ways(net: Net, tmp_path: Path) -> None:
    matrix = Matrix(net, tmp_path)
    two = matrix.two
    with Tap(two.b, two.b_dev) as to_b, Tap(two.a, two.a_dev) as to_a:
        matrix.delivered(matrix.datagrams, "ours")
        matrix.pings()
        for way, tap in enumerate((to_b, to_a)):
            for case, packets in by_case(matrix.cases, tap, way).items():
                wanted = [case.text(size, b"ours", way) for size in case.sizes]
                wanted.append(case.text(COMPRESSED, b"ping"))
                assert opened(case, way, packets) == sorted(wanted), str(case)
            tap.forget()
        matrix.streams()
        for way, tap in enumerate((to_b, to_a)):
            for case, packets in by_case(matrix.cases, tap, way).items():
                seen = {protocol(packet) for packet in packets}
                # what does not shrink has no header of IPComp
                assert case.protocol in seen <= {case.protocol} | case.bare, str(case)
    matrix.delivered(matrix.theirs, "theirs")
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == 0
