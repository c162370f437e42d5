"""Two hosts with a pfkeyd each whose sockets have policies, and a tap on what arrives."""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pfkey import set_policy
from pfkey.lab.hosts import Host, Net
from tests.support.system import AUTHENTIC_KEYS, A, B, Daemon, until
from tests.support.wire import Tap, in_host

ESP, AH, UDP, TCP, ICMP = 50, 51, 17, 6, 1
OUT, IN = "out ipsec esp/transport//require", "in ipsec esp/transport//require"
REQUIRE = (OUT, IN)
BYPASS = ("out bypass", "in bypass")
WORD = b"a datagram"
ports = itertools.count(9000)


class Two:
    """Hosts a and b with a pfkeyd each; what arrives at b is seen."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a"), net.host("b")
        self.a_dev, self.b_dev = net.link(self.a, f"{A}/32", self.b, f"{B}/32")
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)
        self.sockets: list[socket.socket] = []
        self._before: dict[str, dict[str, int]] = {}

    def begin(self, keys: str = AUTHENTIC_KEYS) -> None:
        """As if it were new."""
        self.close()
        for daemon in (self.da, self.db):
            daemon.setkey(f"flush; spdflush; {keys}")
        self._before = self.db.control("counters")["counters"]
        self.tap.forget()

    def close(self) -> None:
        """The sockets of a test."""
        while self.sockets:
            self.sockets.pop().close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[Self]:
        """With a tap, and all that a test has opened closed at its end."""
        with Tap(self.b, self.b_dev) as self.tap:
            yield self
            self.close()

    def watch_back(self) -> Tap:
        """A tap on what arrives at a."""
        return Tap(self.a, self.a_dev)

    def grew(self, group: str, name: str) -> int:
        """By how much a counter of b grew since the test began."""
        return self.db.counter(group, name) - self._before[group][name]

    def of(self, host: Host) -> Daemon:
        return self.da if host is self.a else self.db

    def open(
        self, host: Host, *policies: str, kind: int = socket.SOCK_DGRAM, proto: int = 0,
        port: int = 0, address: str = "",
    ) -> socket.socket:  # fmt: skip
        """A socket in a host with policies and perhaps a port; five seconds of patience."""
        made = in_host(host, lambda: socket.socket(socket.AF_INET, kind, proto))
        self.sockets.append(made)
        made.settimeout(5)
        for policy in policies:
            set_policy(made, policy, path=self.of(host).socket)
        if port:
            made.bind((address, port))
        return made

    def pair(self, client: tuple[str, ...], server: tuple[str, ...]) -> tuple[socket.socket, int]:
        """UDP at b with policies, and what it got from a is WORD; its socket and its port."""
        port = next(ports)
        receiver = self.open(self.b, *server, port=port)
        self.open(self.a, *client).sendto(WORD, (B, port))
        assert receiver.recv(100) == WORD
        return receiver, port

    def listener(self, *policies: str) -> tuple[socket.socket, int]:
        """TCP at b."""
        port = next(ports)
        made = self.open(self.b, *policies, kind=socket.SOCK_STREAM, port=port)
        made.listen()
        return made, port

    def seen(self) -> set[int]:
        """The protocols of what arrived from a at b."""
        return set(self.tap.protocols(A, B))

    def wire(self, *protocols: int) -> None:
        """Nothing but these has arrived, and each of them has."""
        until(lambda: self.seen() >= set(protocols), what=f"on the wire: {self.seen()}")
        assert self.seen() == set(protocols)


def is_empty(receiver: socket.socket) -> bool:
    """Whether nothing waits; what could have come did so before something else that did."""
    receiver.settimeout(0)
    try:
        receiver.recv(65536)
    except BlockingIOError:
        return True
    return False
