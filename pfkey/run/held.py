"""Shell: the PF_KEY sockets of supervised programs, served by a pfkeyd or, without one, by us.

Each is a pair of sockets: the program has one end, pfkeyd the other, and we a copy of pfkeyd's. So
traffic does not pass through us, and while we live the program never reads an end:

    program ═══ pair ═══╦═══ pfkeyd     serves
                        ╚═══ supervisor holds, and serves while there is no pfkeyd

When pfkeyd is gone, what the program asks waits in the pair for a successor, which adopts the
pair as it is. After a while without one, each request is refused with ENETDOWN.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from functools import partial

from pfkey.const import HEADER_OCTETS, MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.message import Message, error_reply
from pfkey.run.daemons import Daemon
from pfkey.run.link import Record
from pfkey.run.watch import Watch

PATIENCE_SECONDS = 5.0  # for a successor, before requests are refused
_RECORD_OCTETS = 1 << 19
_AT_ONCE = 64
_EVENTS = select.EPOLLRDHUP
NOT_PERMITTED = -32001  # of `keyd.shell.rpc`: we may not speak PF_KEY

# What a successor knows of its predecessor's databases: nothing. So the kernel tells of a flush.
_FLUSHED, _POLICIES_FLUSHED = Message(type=MsgType.FLUSH), Message(type=MsgType.X_SPDFLUSH)


class Held:
    """One PF_KEY socket of a program, which speaks a dialect: our copy of pfkeyd's end."""

    def __init__(self, *, blocking: bool, dialect: Dialect = LINUX) -> None:
        self.dialect = dialect
        self.theirs, self.sock = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        os.set_blocking(self.theirs.fileno(), blocking)
        self.inode = os.fstat(self.theirs.fileno()).st_ino
        self.satypes: list[int] = []
        self.is_promiscuous = False
        self.knows_own = False  # it has used an extension of pfkeyd's own
        self.client = 0  # pfkeyd's number for it; 0: it is not served
        self.errno = 0  # with which we refuse what it asks

    @property
    def is_waiting(self) -> bool:
        """Whether the program has asked something that is not answered yet."""
        octets = fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4))
        return bool(struct.unpack("=i", octets)[0])

    def learn(self, record: Record) -> None:
        """Note what pfkeyd says that the client has registered for."""
        self.client = int(record.values["client"])
        self.satypes = [int(one) for one in record.values["registered"]]
        self.is_promiscuous = bool(record.values["promiscuous"])
        self.knows_own = bool(record.values.get("knows_own"))

    def refuse(self) -> None:
        """Answer what the program has asked, in the place of pfkeyd."""
        for _ in range(_AT_ONCE):
            try:
                record = self.sock.recv(_RECORD_OCTETS)
            except OSError:
                return
            if record:
                header = record[:HEADER_OCTETS].ljust(HEADER_OCTETS, b"\0")
                self.tell(error_reply(header, self.errno, self.dialect))

    def tell_flushed(self) -> None:
        """Tell of databases that are empty, in the kernel's name."""
        self.tell(_FLUSHED.encode(self.dialect))
        if self.dialect.has_policies:
            self.tell(_POLICIES_FLUSHED.encode(self.dialect))

    def tell(self, record: bytes) -> None:
        """Queue a record to the program, or drop it as AF_KEY does."""
        try:
            self.sock.send(record, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EPIPE, errno.ECONNRESET):
                raise

    def close(self) -> None:
        """Let go of it; pfkeyd, if it serves it, goes on."""
        self.theirs.close()
        self.sock.close()


class Hall:
    """The sockets that one pfkeyd serves, and its successors after it."""

    def __init__(self, daemon: Daemon, watch: Watch) -> None:
        self.held: list[Held] = []
        self._daemon = daemon
        self._watch = watch
        daemon.on_notice = self._on_notice
        daemon.on_change.append(self._on_change)
        daemon.wants_successor.append(lambda: bool(self.held))

    def admit(self, held: Held, then: Callable[[int], None]) -> None:
        """Have a socket served; `then` is told of 0, or of the errno of a refusal.

        Raises:
            OSError: there is no pfkeyd.
        """

        def answered(record: Record | None) -> None:
            error = errno.EAFNOSUPPORT if record is None else self._learn(held, record)
            if error:
                self.forget(held)
            then(error)

        self._ask(held, answered)
        self.held.append(held)

        def on_event(events: int) -> None:
            if events & (select.EPOLLHUP | select.EPOLLRDHUP):
                self.forget(held)
            elif events & select.EPOLLIN:
                held.refuse()

        self._watch.add(held.sock.fileno(), _EVENTS, on_event)

    def _ask(self, held: Held, then: Callable[[Record | None], None]) -> None:
        params = {
            "registered": held.satypes, "promiscuous": held.is_promiscuous,
            "dialect": held.dialect.name,
        }  # fmt: skip
        if held.knows_own:
            params["knows_own"] = True
        self._daemon.call("adopt", params, held.sock, then)

    def _learn(self, held: Held, record: Record) -> int:
        is_stranger = record.values.get("code") == NOT_PERMITTED
        refusal = errno.EPERM if is_stranger else errno.ENOBUFS
        held.errno = refusal if record.is_refusal else 0
        if not record.is_refusal:
            held.learn(record)
        return held.errno

    def forget(self, held: Held) -> None:
        """The program has closed its end, or never got it."""
        if held in self.held:
            self.held.remove(held)
            self._watch.remove(held.sock.fileno())
            held.close()

    def _on_notice(self, record: Record) -> None:
        if record.method == "client":
            for held in self.held:
                if held.client == record.values["client"]:
                    held.learn(record)

    def _on_change(self, now: float) -> None:
        """pfkeyd is gone, still gone, or there is another."""
        for held in tuple(self.held):
            held.client = 0
            if self._daemon.is_here:
                held.errno = 0
                held.tell_flushed()
                self._ask(held, partial(self._readmitted, held))
            elif now - self._daemon.lost_at >= PATIENCE_SECONDS:
                held.errno = errno.ENETDOWN
            self._attend(held)

    def _readmitted(self, held: Held, record: Record | None) -> None:
        if record is not None:
            self._learn(held, record)
            self._attend(held)

    def _attend(self, held: Held) -> None:
        """Read what the program asks where we have to refuse it; else that is pfkeyd's."""
        if held in self.held:
            reads = select.EPOLLIN if held.errno else 0
            self._watch.change(held.sock.fileno(), _EVENTS | reads)
