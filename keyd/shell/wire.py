"""Records on a SOCK_SEQPACKET socket, without waiting: look, take, send; end or empty record.

Sockets that were handed to us share their flags with who handed them, so nothing here relies on
O_NONBLOCK: each call says that it will not wait.
"""

import array
import fcntl
import os
import select
import socket
import struct
import termios
from errno import EAGAIN, ENOBUFS, EPIPE

RECORD_MAX = 1 << 19  # sadb_msg_len cannot say more than 524280 octets
_SO_SNDBUFFORCE = 32
_SO_PEERGROUPS = 59
_GROUP_OCTETS = 1024  # as much as Python asks for
_GONE = select.POLLHUP | select.POLLRDHUP
_INT_OCTETS = 4


_PEEK = socket.MSG_PEEK | socket.MSG_TRUNC | socket.MSG_DONTWAIT


class Reader:
    """Looks at records through one buffer, which all sockets share."""

    def __init__(self, octets: int = RECORD_MAX) -> None:
        self._buffer = bytearray(octets)
        self._view = memoryview(self._buffer)

    def look(self, sock: socket.socket) -> bytes | None:
        """The next record, still in the queue and never empty; None at the end.

        A record longer than the buffer is cut there. An empty record is taken and ignored.

        Raises:
            BlockingIOError: no record is there, or an empty one was.
        """
        try:
            length = sock.recv_into(self._buffer, 0, _PEEK)
        except ConnectionResetError:
            # it went without reading all we sent; what it said before still counts
            raise BlockingIOError from None
        if length:
            return bytes(self._view[: min(length, len(self._buffer))])
        if is_gone(sock) and not waiting_in(sock):
            return None
        take(sock)
        raise BlockingIOError


def take(sock: socket.socket) -> None:
    """Consume one record, whatever its length."""
    while True:
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            continue
        except BlockingIOError:
            pass
        return


def take_descriptor(sock: socket.socket) -> int | None:
    """Consume one record; the first descriptor that came with it, if any. Others are closed."""
    room = socket.CMSG_SPACE(_INT_OCTETS)
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(1, room, flags)
        except ConnectionResetError:
            continue
        except BlockingIOError:
            return None
        given = array.array("i")
        for level, kind, octets in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                given.frombytes(octets[: len(octets) // _INT_OCTETS * _INT_OCTETS])
        for surplus in given[1:]:
            os.close(surplus)
        return given[0] if given else None


def is_gone(sock: socket.socket) -> bool:
    """Whether the peer will send no more."""
    poll = select.poll()
    poll.register(sock, _GONE)
    return any(events & _GONE for _, events in poll.poll(0))


def waiting_in(sock: socket.socket) -> int:
    """Octets in records that have not been taken (SIOCINQ)."""
    return _ioctl(sock, termios.FIONREAD)


def waiting_out(sock: socket.socket) -> int:
    """Memory in use by records that the peer has not taken (SIOCOUTQ); 0: it has all."""
    return _ioctl(sock, termios.TIOCOUTQ)


def _ioctl(sock: socket.socket, request: int) -> int:
    number: int = struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0]
    return number


def send(sock: socket.socket, record: bytes) -> int:
    """Queue a record. 0 is done, EAGAIN a full queue, any other errno means never."""
    try:
        sock.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        return EAGAIN if error.errno == ENOBUFS else error.errno or EPIPE
    return 0


def make_room(sock: socket.socket, octets: int) -> int:
    """Enlarge the queue towards the peer; how large it is now, in octets of kernel memory."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, octets)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, octets)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who connected."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


def groups(sock: socket.socket) -> set[int]:
    """The groups of who connected, as they were then; of more than 256 only the primary one."""
    try:
        octets = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUP_OCTETS)
    except OSError:
        octets = b""
    return {*struct.unpack(f"{len(octets) // 4}I", octets), credentials(sock)[2]}
