"""Shell: whether `pfkey run` works here, found by doing once what it does, in a child."""

import os
import platform
import select
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from pfkey.errors import ShellError
from pfkey.run.filter import AF_KEY
from pfkey.run.memory import take_socket
from pfkey.run.notify import Listener, install

_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Probed:
    """Whether a program can be given a descriptor, and one of its own be taken; if it cannot be
    given one, why and what mends it.
    """

    gives: bool
    takes: bool = False
    why: str = ""
    remedy: str = ""


def probe() -> Probed:
    """Supervise a child for one system call."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        child = os.fork()
        if not child:
            _be_supervised(theirs)
        theirs_number = theirs.fileno()  # the child's, too
        theirs.close()
        stack.callback(_end, child)
        said, fds, _, _ = socket.recv_fds(ours, 1024, 1)
        if not fds:
            what, _, remedy = said.decode().partition("\0")
            return Probed(gives=False, why=what, remedy=remedy)
        listener = Listener(fds[0])
        stack.callback(listener.close)
        return Probed(gives=_gives(listener, ours), takes=_takes(child, theirs_number))


def _be_supervised(end: socket.socket) -> None:
    """The child: ask for a PF_KEY socket and tell what came of it."""
    try:
        try:
            listener = install(platform.machine())
        except ShellError as error:
            end.send(f"{error.what}\0{error.remedy}".encode())
        else:
            socket.send_fds(end, [b"listener"], [listener])
            with suppress(OSError):
                socket.socket(AF_KEY, socket.SOCK_RAW, 2)
                end.send(b"given")
            end.recv(1)
    finally:
        os._exit(0)


def _end(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, 9)
    os.waitpid(child, 0)


def _takes(child: int, fd: int) -> bool:
    try:
        take_socket(child, fd).close()
    except OSError:
        return False
    return True


def _gives(listener: Listener, end: socket.socket) -> bool:
    if not select.select([listener], [], [], _ANSWER_SECONDS)[0]:
        return False
    call = listener.receive()
    if call is None:
        return False
    if error := listener.place(call, end.fileno(), close_on_exec=True):
        listener.refuse(call, error)
        return False
    return bool(select.select([end], [], [], _ANSWER_SECONDS)[0]) and end.recv(16) == b"given"
