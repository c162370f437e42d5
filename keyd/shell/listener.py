"""A listening Unix socket: made without a moment of wrong rights, peers checked on accept."""

import logging
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import trio

from keyd.shell.log import limited
from keyd.shell.paths import remove_socket
from keyd.shell.wire import credentials, groups
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")
STRANGERS = limited("keyd.shell.accept")

_BACKLOG = 4096
_AT_ONCE = 64  # accepted before others get their turn
_PAUSE_SECONDS = 0.1  # when the system's descriptors have run out
_RESERVE = 64  # descriptors that no client gets: for routes, nft, workers that are started anew


def listen(path: Path, gid: int | None, *, for_all: bool = False) -> socket.socket:
    """Bind and listen; mode 0600, 0660 with a group, 0666 for all. The lock must be held.

    Raises:
        ShellError: the socket cannot be made there.
    """
    remove_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        if for_all:
            path.chmod(0o666)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ShellError(f"{path}: {error.strerror}", "give another --socket PATH") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def is_allowed(sock: socket.socket, gid: int | None) -> bool:
    """Root, our own user, and members of the group may speak to us."""
    _, uid, _ = credentials(sock)
    return uid in (0, os.geteuid()) or (gid is not None and gid in groups(sock))


async def accept_all(
    listener: socket.socket,
    gid: int | None,
    admit: Callable[[socket.socket], object],
    admit_stranger: Callable[[socket.socket], object] | None = None,
) -> None:
    """Hand each rightful connection to `admit`, and others to `admit_stranger`, until cancelled.

    Without that they are closed. The last descriptors are ours: clients that take all others
    must not end the data path.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE
        for _ in range(_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                STRANGERS.warning("accept-failed reason=%s", error.strerror)
                await trio.sleep(_PAUSE_SECONDS)
                break
            sock.setblocking(False)
            if sock.fileno() >= ceiling:  # the kernel gives the lowest that is free
                STRANGERS.warning("client-refused reason=descriptors most=%d", ceiling)
                sock.close()
                continue
            if is_allowed(sock, gid):
                admit(sock)
                continue
            if admit_stranger is not None:
                admit_stranger(sock)
                continue
            STRANGERS.warning("client-refused pid=%d uid=%d", *credentials(sock)[:2])
            sock.close()
