"""Two hosts with a pfkeyd each whose sockets have policies, and a tap on what arrives."""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pfkey import set_policy
from pfkey.lab.hosts import Host, Net
from pfkey.setkey.main import main as setkey
from tests.support.sites import join_both, side
from tests.support.system import AUTHENTIC_KEYS, ENDS, A, B, Daemon, until
from tests.support.wire import Tap, in_host

ESP, AH, UDP, TCP, ICMP, ICMPV6 = 50, 51, 17, 6, 1, 58
OUT, IN = "out ipsec esp/transport//require", "in ipsec esp/transport//require"
REQUIRE = (OUT, IN)
BYPASS = ("out bypass", "in bypass")
WORD = b"a datagram"
ports = itertools.count(9000)


class Two:
    """Hosts a and b with a pfkeyd each; what arrives at b is seen.

    `version` is the one that a test speaks; A and B in what it loads stand for the addresses.
    """

    def __init__(self, net: Net, tmp: Path) -> None:
        self.version = 4
        self.a, self.b = net.host("a", ipv6=True), net.host("b", ipv6=True)
        self.a_dev, self.b_dev = "tob", "toa"
        join_both(net, self.a, side(ENDS, 0), self.b, side(ENDS, 1))
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)
        self._file = tmp / "setkey.conf"
        self.sockets: list[socket.socket] = []
        self._before: dict[str, dict[str, int]] = {}

    def begin(self, keys: str = AUTHENTIC_KEYS) -> None:
        """As if it were new."""
        self.close()
        for daemon in (self.da, self.db):
            self.load(daemon, f"flush; spdflush; {keys}")
        self._before = self.db.control("counters")["counters"]
        self.tap.forget()

    @property
    def at_a(self) -> str:
        """The address of a."""
        return ENDS[self.version][0]

    @property
    def at_b(self) -> str:
        """The address of b."""
        return ENDS[self.version][1]

    def text(self, commands: str) -> str:
        """With the addresses of the version."""
        return commands.replace(A, self.at_a).replace(B, self.at_b)

    def load(self, daemon: Daemon, commands: str) -> None:
        """Commands for one of them, by setkey without a process of its own: tests do it often."""
        self._file.write_text(self.text(commands))
        assert setkey(["--socket", str(daemon.socket), "-f", str(self._file)]) == 0

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
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        made = in_host(host, lambda: socket.socket(family, kind, proto))
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
        self.open(self.a, *client).sendto(WORD, (self.at_b, port))
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
        return set(self.tap.protocols(self.at_a, self.at_b))

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
