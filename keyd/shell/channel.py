"""The channel between the control process and a worker: JSON records over SOCK_SEQPACKET.

    to the worker    {"op": "sa+", "sa": SaSpec.to_json(), "record": n}   install or replace
                     {"op": "sa-", "slot": n}
                     {"op": "policy", "added": […], "removed": [ids], "more": bool}
                     {"op": "settings", …Settings.to_json()}
                     {"op": "wait-", "need": Need.to_json()}   no SA will come for it
                     {"op": "door+", "door": n, "pair": SocketPair.to_json() or null}
                         a TUN device, whose descriptor comes along; see `keyd.doors`
                     {"op": "door-", "door": n}
    from the worker  {"op": "ready"}   {"op": "log", "level": n, "text": "…"}
                     {"op": "need", "need": Need.to_json(), "packets": n}
                     {"op": "used", "policies": [[id, packets, octets, [[row, packets], …]], …]}
                         what these did since they were told last; see `keyd.packet.tallies`

A change of policies larger than `POLICIES` is sent as several records, all but the last with
`more`; the worker acts on the last. The worker's half waits for nothing and imports no trio: see
`keyd.shell.worker` for why. The other half is `keyd.shell.spawn.Worker`.
"""

import json
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from keyd.model import PolicySpec

ROOM = 8 << 20
RECORD_MAX = 1 << 18
POLICIES = 256
_SO_SNDBUFFORCE = 32
_DONTWAIT = socket.MSG_DONTWAIT
_INT_OCTETS = 4
_ONE_DESCRIPTOR = socket.CMSG_LEN(_INT_OCTETS)

Record = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """(control's end, worker's end), with room for thousands of records on the way down."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, ROOM)
    except PermissionError:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def encode(record: Record) -> bytes:
    """A record as octets."""
    return json.dumps(record, separators=(",", ":")).encode()


def decode(octets: bytes | bytearray | memoryview) -> Record:
    """The inverse of `encode`.

    Raises:
        ValueError: TypeError: it is none.
    """
    try:
        record = json.loads(bytes(octets))
    except RecursionError:
        raise ValueError("a record is not that deep") from None
    if not isinstance(record, dict):
        raise TypeError(f"a record is an object, not {type(record).__name__}")
    return record


def policy_records(added: Iterable[PolicySpec], removed: Sequence[int]) -> Iterator[Record]:
    """One change of policies as records of a bounded size."""
    plus, minus = iter(added), iter(removed)
    first, ids = list(islice(plus, POLICIES)), list(islice(minus, 8 * POLICIES))
    while True:
        later, later_ids = list(islice(plus, POLICIES)), list(islice(minus, 8 * POLICIES))
        more = bool(later or later_ids)
        yield {
            "op": "policy", "added": [policy.to_json() for policy in first], "removed": ids,
            "more": more,
        }  # fmt: skip
        if not more:
            return
        first, ids = later, later_ids


def send(sock: socket.socket, octets: bytes, fd: int) -> None:
    """Send a record and, unless it is -1, a descriptor."""
    if fd < 0:
        sock.send(octets)
    else:
        socket.send_fds(sock, [octets], [fd])


class WorkerEnd:
    """The worker's half."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._buffer = bytearray(RECORD_MAX)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        """For poll."""
        return self.sock.fileno()

    def drain(self) -> list[Record] | None:
        """All records that are there; None when the control process is gone.

        A descriptor that came with one is its `fd`.
        """
        records: list[Record] = []
        while True:
            try:
                octets, ancillary, _, _ = self.sock.recvmsg_into(
                    [self._buffer], _ONE_DESCRIPTOR, _DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return records
            except ConnectionError:
                return None
            if not octets:
                return None
            records.append(decode(self._view[:octets]))
            for _, _, descriptor in ancillary:
                records[-1]["fd"] = int.from_bytes(descriptor[:_INT_OCTETS], sys.byteorder)

    def post(self, record: Record) -> bool:
        """Send one record up, or drop it when the control process is behind."""
        try:
            self.sock.send(encode(record), _DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True
