"""Shell: `socket(AF_KEY, SOCK_RAW, PF_KEY_V2)` as a kernel with PF_KEY answers it.

1. the flags; then, as af_key does, the caller's rights, the type, the protocol;
2. a pair of sockets, one end of which the pfkeyd of the caller's network namespace adopts;
3. when it has: the other end becomes the caller's lowest free descriptor.
"""

import select
import socket
import time
from dataclasses import dataclass
from errno import EAFNOSUPPORT, EINVAL, ENFILE, ENOENT, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT
from pathlib import Path

from pfkey.const import PF_KEY_V2
from pfkey.errors import ShellError
from pfkey.run.caller import Caller
from pfkey.run.held import Daemon, Held
from pfkey.run.notify import Call, Listener
from pfkey.run.watch import Watch

_KINDS, _KIND_MASK = 11, 0xF  # SOCK_MAX and SOCK_TYPE_MASK of Linux
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@dataclass(slots=True)
class _Opening:
    """A socket(2) that waits for pfkeyd."""

    call: Call
    daemon: Daemon
    close_on_exec: bool


class KeySockets:
    """All PF_KEY sockets of the supervised programs.

    Args:
        path: pfkeyd's socket of our own network namespace.
        is_default: whether its name is the namespace's, so that programs in other namespaces
            have a pfkeyd beside it.
    """

    def __init__(self, listener: Listener, watch: Watch, path: Path, *, is_default: bool) -> None:
        self._listener = listener
        self._watch = watch
        self._path = path
        self._is_default = is_default
        self._myself = Caller.myself()
        self._daemons: dict[Path, Daemon] = {}
        self._opening: dict[Held, _Opening] = {}

    def serve(self, call: Call) -> None:
        """Answer a socket(2) of the family AF_KEY, now or when pfkeyd has.

        Raises:
            OSError: what the caller is to be told.
        """
        kind, protocol = call.argument(1), call.argument(2)
        flags, kind = kind & ~_KIND_MASK, kind & _KIND_MASK
        if flags & ~_FLAGS or kind >= _KINDS:
            raise OSError(EINVAL, "flags")
        path = self._path_for(call)
        if kind != socket.SOCK_RAW:
            raise OSError(ESOCKTNOSUPPORT, "type")
        if protocol != PF_KEY_V2:
            raise OSError(EPROTONOSUPPORT, "protocol")
        self._open(call, self._daemons.setdefault(path, Daemon(path)), flags)

    def _path_for(self, call: Call) -> Path:
        """The pfkeyd of the caller's network namespace, if the caller may speak to it."""
        try:
            caller = Caller.of(call.tid)
        except OSError:
            raise OSError(EPERM, "a caller that we may not look at") from None
        if not self._listener.is_valid(call):
            raise OSError(EPERM, "the caller is gone")
        ours = self._myself
        # without rights of our own, we are let in as a user, and so is whoever is that user
        if not caller.is_net_admin and (ours.is_net_admin or caller.euid != ours.euid):
            raise OSError(EPERM, "no CAP_NET_ADMIN")
        if caller.netns == ours.netns:
            return self._path
        if not self._is_default:
            raise OSError(EAFNOSUPPORT, "another network namespace than that of --socket")
        return self._path.with_name(f"{caller.netns[1]}.sock")

    def _open(self, call: Call, daemon: Daemon, flags: int) -> None:
        try:
            held = Held(blocking=not flags & socket.SOCK_NONBLOCK)
        except OSError:  # not the caller's descriptors, ours have run out
            raise OSError(ENFILE, "the supervisor has no descriptors left") from None
        try:
            was_connected = daemon.link is not None
            daemon.adopt(held)
        except ShellError:
            held.close()
            raise OSError(EAFNOSUPPORT, "no pfkeyd") from None
        if not was_connected:
            self._watch_link(daemon)
        self._opening[held] = _Opening(call, daemon, bool(flags & socket.SOCK_CLOEXEC))

        def on_event(events: int) -> None:
            if events & (select.EPOLLHUP | select.EPOLLRDHUP):
                self._forget(daemon, held)
            elif events & select.EPOLLIN:
                held.refuse()

        self._watch.add(held.sock.fileno(), select.EPOLLRDHUP, on_event)

    def _watch_link(self, daemon: Daemon) -> None:
        link = daemon.connect()

        def on_event(events: int) -> None:
            answers = daemon.answers()
            if answers is None:
                self._watch.remove(link.fileno())
                self._lost(daemon)
                return
            for held in answers:
                self._answered(held)

        self._watch.add(link.fileno(), select.EPOLLIN, on_event)

    def _answered(self, held: Held) -> None:
        """pfkeyd serves a socket from now on, or will not (its `errno`)."""
        opening = self._opening.pop(held, None)
        if opening is None:
            self._attend(held)
            return
        error = held.errno or self._listener.place(
            opening.call, held.theirs.fileno(), close_on_exec=opening.close_on_exec
        )
        held.theirs.close()
        if error:
            self._forget(opening.daemon, held)
            if error != ENOENT:
                self._listener.refuse(opening.call, error)

    def _lost(self, daemon: Daemon) -> None:
        for held in daemon.lost(time.monotonic()):
            opening = self._opening.pop(held, None)
            if opening is not None:
                self._forget(daemon, held)
                self._listener.refuse(opening.call, EAFNOSUPPORT)

    def _forget(self, daemon: Daemon, held: Held) -> None:
        self._watch.remove(held.sock.fileno())
        daemon.forget(held)

    def _attend(self, held: Held) -> None:
        """Read what the program asks where we have to refuse it; else that is pfkeyd's."""
        reads = select.EPOLLIN if held.errno else 0
        self._watch.change(held.sock.fileno(), select.EPOLLRDHUP | reads)

    def is_waiting(self, inode: int | None) -> bool:
        """Whether a request waits for its answer: on this socket, or on any."""
        return any(
            held.is_waiting
            for daemon in self._daemons.values()
            for held in daemon.held.values()
            if inode in (None, held.inode)
        )

    @property
    def deadline(self) -> float | None:
        """When `tend` has something to do."""
        due = [daemon.deadline for daemon in self._daemons.values() if daemon.deadline is not None]
        return min(due, default=None)

    def tend(self, now: float) -> None:
        """Look for successors of pfkeyds that are gone."""
        for daemon in self._daemons.values():
            if daemon.deadline is None or now < daemon.deadline:
                continue
            if daemon.tend(now):
                self._watch_link(daemon)
            for held in daemon.held.values():
                self._attend(held)
