"""Shell: `socket(AF_KEY, SOCK_RAW, PF_KEY_V2)` as a kernel with PF_KEY answers it.

1. the flags; then, as af_key does, the caller's rights, the type, the protocol;
2. a pair of sockets, one end of which the pfkeyd of the caller's network namespace adopts;
3. when it has: the other end becomes the caller's lowest free descriptor.
"""

import socket
from errno import EINVAL, ENFILE, ENOENT, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT

from pfkey.const import PF_KEY_V2
from pfkey.dialect import LINUX, Dialect
from pfkey.run.daemons import Daemon, Daemons
from pfkey.run.held import Hall, Held
from pfkey.run.notify import Call, Listener
from pfkey.run.watch import Watch

_KINDS, _KIND_MASK = 11, 0xF  # SOCK_MAX and SOCK_TYPE_MASK of Linux
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class KeySockets:
    """All PF_KEY sockets of the supervised programs, which speak this dialect."""

    def __init__(
        self, listener: Listener, watch: Watch, daemons: Daemons, dialect: Dialect = LINUX
    ) -> None:
        self._dialect = dialect
        self._listener = listener
        self._watch = watch
        self._daemons = daemons
        self._halls: dict[Daemon, Hall] = {}

    def serve(self, call: Call) -> None:
        """Answer a socket(2) of the family AF_KEY, now or when pfkeyd has.

        Raises:
            OSError: what the caller is to be told.
        """
        kind, protocol = call.argument(1), call.argument(2)
        flags, kind = kind & ~_KIND_MASK, kind & _KIND_MASK
        if flags & ~_FLAGS or kind >= _KINDS:
            raise OSError(EINVAL, "flags")
        caller = self._daemons.caller(call)
        if not self._daemons.is_privileged(caller):
            raise OSError(EPERM, "no CAP_NET_ADMIN")
        if kind != socket.SOCK_RAW:
            raise OSError(ESOCKTNOSUPPORT, "type")
        if protocol != PF_KEY_V2:
            raise OSError(EPROTONOSUPPORT, "protocol")
        self._open(call, self._daemons.of(caller), flags)

    def _open(self, call: Call, daemon: Daemon, flags: int) -> None:
        if daemon not in self._halls:
            self._halls[daemon] = Hall(daemon, self._watch)
        hall = self._halls[daemon]
        try:
            held = Held(blocking=not flags & socket.SOCK_NONBLOCK, dialect=self._dialect)
        except OSError:  # not the caller's descriptors, ours have run out
            raise OSError(ENFILE, "the supervisor has no descriptors left") from None

        def served(error: int) -> None:
            if not error:
                error = self._listener.place(
                    call, held.theirs.fileno(), close_on_exec=bool(flags & socket.SOCK_CLOEXEC)
                )
                held.theirs.close()
            if error:
                hall.forget(held)
                if error != ENOENT:
                    self._listener.refuse(call, error)

        try:
            hall.admit(held, served)
        except OSError:
            held.close()
            raise

    def is_waiting(self, inode: int | None) -> bool:
        """Whether a request waits for its answer: on this socket, or on any."""
        return any(
            held.is_waiting
            for hall in self._halls.values()
            for held in hall.held
            if inode in (None, held.inode)
        )
