"""Shell: the PF_KEY sockets of supervised programs, and the pfkeyd that serves them.

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
import socket
import struct
import syslog
import termios
from pathlib import Path

from pfkey.const import HEADER_OCTETS, MsgType
from pfkey.errors import ShellError
from pfkey.message import Message, error_reply
from pfkey.run.link import Link, Record

RETRY_SECONDS = 0.2
PATIENCE_SECONDS = 5.0  # for a successor, before requests are refused
_RECORD_OCTETS = 1 << 19
_AT_ONCE = 64

# What a successor knows of its predecessor's databases: nothing. So the kernel tells of a flush.
_FLUSHED = (Message(type=MsgType.FLUSH).encode(), Message(type=MsgType.X_SPDFLUSH).encode())


class Held:
    """One PF_KEY socket of a program: our copy of pfkeyd's end."""

    def __init__(self, *, blocking: bool) -> None:
        self.theirs, self.sock = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        os.set_blocking(self.theirs.fileno(), blocking)
        self.inode = os.fstat(self.theirs.fileno()).st_ino
        self.satypes: list[int] = []
        self.is_promiscuous = False
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

    def refuse(self) -> None:
        """Answer what the program has asked, in the place of pfkeyd."""
        for _ in range(_AT_ONCE):
            try:
                record = self.sock.recv(_RECORD_OCTETS)
            except OSError:
                return
            header = record[:HEADER_OCTETS].ljust(HEADER_OCTETS, b"\0")
            if record:
                self.tell(error_reply(header, self.errno))

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


class Daemon:
    """The pfkeyd of one path, here or gone, and the sockets that it serves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[int, Held] = {}
        self.link: Link | None = None
        self._asked: dict[int, Held] = {}
        self._lost_at = 0.0
        self._retry_at = 0.0

    def connect(self) -> Link:
        """The connection, made now if there is none.

        Raises:
            ShellError: there is no pfkeyd.
        """
        if self.link is None:
            self.link = Link(self.path)
        return self.link

    def adopt(self, held: Held) -> None:
        """Have a socket served; the answer comes from `answers`.

        Raises:
            ShellError: there is no pfkeyd.
        """
        link = self.connect()
        self.held[held.sock.fileno()] = held
        number = link.adopt(held.sock, held.satypes, is_promiscuous=held.is_promiscuous)
        self._asked[number] = held

    def answers(self) -> list[Held] | None:
        """The sockets that pfkeyd serves from now on, or refuses (`errno`); None: it is gone."""
        records = None if self.link is None else self.link.receive()
        if records is None:
            return None
        clients = {held.client: held for held in self.held.values()}
        answered = []
        for record in records:
            if record.method == "client":
                held = clients.get(int(record.values["client"]))
                if held is not None:
                    held.learn(record)
            elif (held := self._asked.pop(record.id, None)) is not None:
                held.errno = errno.ENOBUFS if record.is_refusal else 0
                if not record.is_refusal:
                    held.learn(record)
                    clients[held.client] = held
                answered.append(held)
        return answered

    def lost(self, now: float) -> list[Held]:
        """pfkeyd is gone; the sockets whose adoption it never answered."""
        syslog.syslog(syslog.LOG_WARNING, f"pfkey run: pfkeyd is gone from {self.path}")
        if self.link is not None:
            self.link.close()
            self.link = None
        unanswered = list(self._asked.values())
        self._asked.clear()
        for held in self.held.values():
            held.client = 0
        self._lost_at = self._retry_at = now
        return unanswered

    def forget(self, held: Held) -> None:
        """The program has closed its end, or never got it."""
        self.held.pop(held.sock.fileno(), None)
        self._asked = {number: one for number, one in self._asked.items() if one is not held}
        held.close()

    def close(self) -> None:
        """Let go of all."""
        for held in tuple(self.held.values()):
            self.forget(held)
        if self.link is not None:
            self.link.close()
            self.link = None

    @property
    def deadline(self) -> float | None:
        """When `tend` has something to do."""
        return self._retry_at if self.link is None and self.held else None

    def tend(self, now: float) -> bool:
        """Look for a successor; whether there is one."""
        if self.deadline is None or now < self._retry_at:
            return False
        self._retry_at = now + RETRY_SECONDS
        try:
            self.connect()
        except ShellError:
            if now - self._lost_at >= PATIENCE_SECONDS:
                for held in self.held.values():
                    held.errno = errno.ENETDOWN
            return False
        syslog.syslog(syslog.LOG_NOTICE, f"pfkey run: pfkeyd is back at {self.path}")
        for held in tuple(self.held.values()):
            held.errno = 0
            for notice in _FLUSHED:
                held.tell(notice)
            self.adopt(held)
        return True
