"""The sockets of one IP version by which the outbound worker sends, and hears of errors."""

import select
import socket
from collections.abc import Container, Iterator

from keyd.shell import raw
from keyd.shell.batches import Sender


class Way:
    """`given` has the descriptors by their names.

    Attributes:
        sealed, clear: what sends.
        events: what to poll for, by descriptor: of IPv4 error queues, which poll reports without
            being asked, of IPv6 a socket for ICMPv6.
    """

    def __init__(self, given: dict[str, int], version: int) -> None:
        esp = socket.socket(fileno=given[f"esp_out{version}"])
        self.sealed = Sender(esp)
        self.clear = Sender(socket.socket(fileno=given[f"clear_out{version}"]))
        names = [name for name in (f"icmp{version}", f"icmp_udp{version}") if name in given]
        self._sockets = [socket.socket(fileno=given[name]) for name in names]
        has_icmp = f"icmp{version}" in given
        if not has_icmp:
            self._sockets.append(esp)
        self._read = raw.errors6 if has_icmp else raw.errors
        mask = select.EPOLLIN if has_icmp else 0
        self.events = {sock.fileno(): mask for sock in self._sockets}

    def errors(self, ready: Container[int]) -> Iterator[raw.IcmpError]:
        """Those that have come to descriptors that are ready."""
        for sock in self._sockets:
            if sock.fileno() in ready:
                yield from self._read(sock)
