"""The sockets of one IP version by which the outbound worker sends, and hears of errors."""

import select
import socket
from collections.abc import Iterable

from keyd.shell import raw
from keyd.shell.batches import Sender


class Way:
    """`given` has the descriptors by their names.

    Attributes:
        sealed, clear: what sends.
        icmp: what tells of ICMP errors; of IPv4 the sender's error queue, which poll reports
            without being asked.
        events: what to poll it for.
    """

    def __init__(self, given: dict[str, int], version: int) -> None:
        esp = socket.socket(fileno=given[f"esp_out{version}"])
        self.sealed = Sender(esp)
        self.clear = Sender(socket.socket(fileno=given[f"clear_out{version}"]))
        name = f"icmp{version}"
        has_socket = name in given
        self.icmp = socket.socket(fileno=given[name]) if has_socket else esp
        self.events = select.EPOLLIN if has_socket else 0
        self._read = raw.errors6 if has_socket else raw.errors

    def errors(self) -> Iterable[raw.IcmpError]:
        """Those that have come."""
        return self._read(self.icmp)
