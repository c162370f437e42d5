"""Shell: the supervisor's connection to pfkeyd's control socket, which never makes it wait.

A call may hand over a descriptor (SCM_RIGHTS). Its answer comes as a record like all else.
"""

import json
import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfkey.errors import ShellError
from pfkey.transport import control_path, open_unix

_RECORD_OCTETS = 1 << 16


@dataclass(frozen=True, slots=True)
class Record:
    """What pfkeyd says: the answer to the call `id`, or with `id` 0 a notification."""

    id: int
    method: str
    values: dict[str, Any]
    is_refusal: bool = False


class Handed(Protocol):
    """What can be handed over: a socket, or an open directory."""

    def fileno(self) -> int:
        """The descriptor; -1 when it is closed."""


class Link:
    """One connection.

    Raises:
        ShellError: nobody listens there, we may not, or too many want to at once.
        OSError: no descriptor is left.
    """

    def __init__(self, path: Path) -> None:
        sock = open_unix(control_path(path))
        if sock is None:
            raise ShellError(f"{path}: pfkeyd takes no connection just now", "try again")
        self._sock = sock
        self._id = 0
        self._unsent: deque[tuple[bytes, Handed]] = deque()

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close."""
        self._sock.close()

    def call(self, method: str, params: dict[str, Any], given: Handed) -> int:
        """Call a method with a descriptor; the number of the call.

        Whoever closes it before it is sent has no use for the answer: none comes.
        """
        self._id += 1
        call = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        self._unsent.append((json.dumps(call).encode(), given))
        self._send()
        return self._id

    def _send(self) -> None:
        """Send what there is room for: an answer to what was sent makes room for the rest."""
        while self._unsent:
            octets, given = self._unsent[0]
            try:
                if given.fileno() >= 0:
                    socket.send_fds(self._sock, [octets], [given.fileno()], socket.MSG_NOSIGNAL)
            except OSError:  # no room, too many on their way, or pfkeyd is gone, as `receive` tells
                return
            self._unsent.popleft()

    def receive(self) -> list[Record] | None:
        """What pfkeyd has said by now; None: it is gone, and all it said has been given."""
        records: list[Record] = []
        while True:
            try:
                octets = self._sock.recv(_RECORD_OCTETS)
            except BlockingIOError:
                self._send()
                return records
            except OSError:
                octets = b""
            if not octets:  # what it said before its end still counts
                return records or None
            if (record := _read(octets)) is not None:
                records.append(record)


def _read(octets: bytes) -> Record | None:
    """A record; None if it is not of a form that pfkeyd sends."""
    try:
        said = json.loads(octets)
        if "method" in said:
            return Record(0, str(said["method"]), dict(said["params"]))
        if "error" in said:
            return Record(int(said["id"]), "", dict(said["error"]), is_refusal=True)
        return Record(int(said["id"]), "", dict(said["result"]))
    except (ValueError, KeyError, TypeError):
        return None
