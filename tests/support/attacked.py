"""Two hosts under `require`, and the means to attack them: crafted packets onto their wire."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from keyd.model import SaSpec
from keyd.packet.esp import EspSa
from pfkey.const import Mode
from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two
from tests.support.steering import ESP, ICMPV6, UDP, datagram, packet
from tests.support.system import AUTHENTIC_KEYS, A, B, Daemon, require
from tests.support.wire import Tap, in_host, mac_of, packed

PORT = 9996
ICMP = 1
# what a packet that came in by the ESP socket can end in, besides the application
DROPS = (
    "hdrops", "notdb", "badilen", "badenc", "badauth", "replay", "invalid", "pdrops", "badkcr",
    "spoofed", "nd_refused", "expired", "hold_dropped", "internal", "qfull",
)  # fmt: skip


def counters(daemon: Daemon) -> dict[str, int]:
    """All counters that have grown since the test began, by name."""
    before = _before.get(daemon, {})
    grown = {row: n - before.get(row, 0) for row, n in _rows(daemon).items()}
    return {name: n for (_, name), n in grown.items() if n}


def _rows(daemon: Daemon) -> dict[tuple[str, str], int]:
    groups = daemon.control("counters")["counters"]
    return {(group, name): n for group, rows in groups.items() for name, n in rows.items()}


_before: WeakKeyDictionary[Daemon, dict[tuple[str, str], int]] = WeakKeyDictionary()


def packet_socket(host: Host) -> socket.socket:
    """A sender past everything that a host is."""
    return in_host(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))


class Attacked(Two):
    """Two hosts under `require` with keys; crafted packets go onto the wire towards b or a."""

    def __init__(self, net: Net, tmp: Path, version: int = 4) -> None:
        super().__init__(net, tmp, version)
        self.icmp = ICMPV6 if version == 6 else ICMP
        self._numbers = itertools.count(1000)
        self._esp = EspSa(
            SaSpec(
                slot=0, proto=ESP, spi=9876, src=packed(self.own), dst=packed(self.other),
                mode=Mode.ANY, encrypt=12, encrypt_key=b"hogehogehogehoge", auth=5,
                auth_key=b"0123456789abcdef0123456789abcdef",
            )
        )  # fmt: skip
        self.again()

    def again(self) -> None:
        """As at the start, for another test: keys and policies, counters from zero, sockets."""
        for daemon in (self.da, self.db):
            daemon.setkey("flush; spdflush;")
        self.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
        kind = 0x86DD if self.version == 6 else 0x0800
        self._to_b = packet_socket(self.a), (self.a_dev, kind, 0, 0, mac_of(self.b, self.b_dev))
        self._to_a = packet_socket(self.b), (self.b_dev, kind, 0, 0, mac_of(self.a, self.a_dev))
        for daemon in (self.da, self.db):
            _before[daemon] = _rows(daemon)

    def to_b(self, *packets: bytes) -> None:
        """Onto the wire, as from a."""
        for octets in packets:
            self._to_b[0].sendto(octets, self._to_b[1])

    def to_a(self, *packets: bytes) -> None:
        """Onto the wire, as from b."""
        for octets in packets:
            self._to_a[0].sendto(octets, self._to_a[1])

    def datagram(self, payload: bytes = b"hello") -> bytes:
        """UDP from a to b."""
        return datagram(self.own, self.other, PORT, payload)

    def sealed(self, payload: bytes = b"hello", proto: int = UDP, seq: int = 0) -> bytes:
        """ESP as a would send it; a UDP datagram unless `proto` says otherwise."""
        inner = self.datagram(payload) if proto == UDP else payload
        return self._esp.seal(seq or next(self._numbers), inner, proto, os.urandom(16))

    def esp(self, octets: bytes, src: str = "", dst: str = "") -> bytes:
        """An IP packet with ESP."""
        return packet(src or self.own, dst or self.other, ESP, octets)


class Pairs:
    """A pair of each IP version for all the tests of a module."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._nets = contextlib.ExitStack()
        self._made: dict[int, Attacked] = {}

    def pair(self, version: int) -> Attacked:
        """As good as new."""
        if version in self._made:
            self._made[version].again()
        else:
            net = self._nets.enter_context(Net())
            self._made[version] = Attacked(net, self._factory.mktemp("attacked"), version)
        return self._made[version]

    def close(self) -> None:
        """Take all down."""
        self._nets.close()


@contextlib.contextmanager
def only_esp(two: Two) -> Iterator[Tap]:
    """Nothing but ESP goes from a to b meanwhile."""
    with Tap(two.b, two.b_dev) as tap:
        yield tap
        time.sleep(0.1)
    assert set(tap.protocols(two.own, two.other)) <= {ESP}, tap.protocols(two.own, two.other)
