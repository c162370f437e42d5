"""Shell: the pfkeyds that the supervisor speaks to, and which one a caller's namespace has."""

import select
import syslog
import time
from collections.abc import Callable
from errno import EAFNOSUPPORT, ENFILE, EPERM
from pathlib import Path
from typing import Any

from pfkey.errors import ShellError
from pfkey.run.caller import Caller
from pfkey.run.link import Handed, Link, Record
from pfkey.run.notify import Call, Listener
from pfkey.run.watch import Watch

RETRY_SECONDS = 0.2

# What becomes of a call: its answer, or None when pfkeyd is gone without one.
Then = Callable[[Record | None], None]


class Daemon:
    """The pfkeyd of one path, here or gone.

    Attributes:
        on_notice: what to do with what it says without being asked.
        on_change: each is called with the time when it is gone, when there is still none, and
            when a successor is there.
        wants_successor: each says whether somebody needs one before the next call.
    """

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.on_notice: Callable[[Record], None] = lambda record: None
        self.on_change: list[Callable[[float], None]] = []
        self.wants_successor: list[Callable[[], bool]] = []
        self.lost_at = 0.0
        self._watch = watch
        self._link: Link | None = None
        self._asked: dict[int, Then] = {}
        self._retry_at = 0.0
        self._is_missed = False  # who is found next is a successor, to be told of all

    @property
    def is_here(self) -> bool:
        """Whether there is one, as far as we know."""
        return self._link is not None

    def call(self, method: str, params: dict[str, Any], sock: Handed, then: Then) -> None:
        """Call a method and hand over a copy of a descriptor; `then` is called later, and once.

        Raises:
            OSError: EAFNOSUPPORT where there is no pfkeyd, ENFILE where we have no descriptor left.
        """
        try:
            link = self._connect(time.monotonic())
        except ShellError:
            raise OSError(EAFNOSUPPORT, f"no pfkeyd at {self.path}") from None
        self._asked[link.call(method, params, sock)] = then

    def _connect(self, now: float) -> Link:
        """The connection; whoever makes one anew tells those who wait for a successor."""
        if self._link is not None:
            return self._link
        try:
            link = self._link = Link(self.path)
        except ShellError:
            self._is_missed = True
            raise
        except OSError as error:
            raise OSError(ENFILE, f"{self.path}: {error.strerror}") from None
        self._watch.add(link.fileno(), select.EPOLLIN, self._on_event)
        if self._is_missed:
            self._is_missed = False
            syslog.syslog(syslog.LOG_NOTICE, f"pfkey run: pfkeyd is there again: {self.path}")
            self._changed(now)
        return link

    def _on_event(self, events: int) -> None:
        records = None if self._link is None else self._link.receive()
        if records is None:
            self._lose()
            return
        for record in records:
            if not record.id:
                self.on_notice(record)
            elif (then := self._asked.pop(record.id, None)) is not None:
                then(record)

    def _lose(self) -> None:
        syslog.syslog(syslog.LOG_WARNING, f"pfkey run: pfkeyd is gone from {self.path}")
        self._drop_link()
        self._is_missed = True
        self.lost_at = self._retry_at = time.monotonic()
        asked, self._asked = self._asked, {}
        self._changed(self.lost_at)
        for then in asked.values():
            then(None)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._watch.remove(self._link.fileno())
            self._link.close()
            self._link = None

    def close(self) -> None:
        """Let go of it."""
        self._drop_link()

    @property
    def deadline(self) -> float | None:
        """When `tend` has something to do."""
        is_wanted = any(wants() for wants in self.wants_successor)
        return self._retry_at if is_wanted and not self.is_here else None

    def tend(self, now: float) -> None:
        """Look for a successor."""
        if self.deadline is None or now < self._retry_at:
            return
        self._retry_at = now + RETRY_SECONDS
        try:
            self._connect(now)
        except (ShellError, OSError):
            self._changed(now)

    def _changed(self, now: float) -> None:
        for tell in self.on_change:
            tell(now)


class Daemons:
    """All of them.

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
        self._daemons: dict[Path, Daemon] = {}
        self.myself = Caller.myself()

    def caller(self, call: Call) -> Caller:
        """Who makes a call.

        Raises:
            OSError: EPERM where we may not look, or nobody is there any more.
        """
        try:
            caller = Caller.of(call.tid)
        except OSError:
            raise OSError(EPERM, "a caller that we may not look at") from None
        if not self._listener.is_valid(call):
            raise OSError(EPERM, "the caller is gone")
        return caller

    def is_privileged(self, caller: Caller) -> bool:
        """Whether a caller may do what takes CAP_NET_ADMIN.

        Without rights of our own we are let in as a user, and so is whoever is that user.
        """
        mine = self.myself
        return caller.is_net_admin or (not mine.is_net_admin and caller.euid == mine.euid)

    @property
    def own(self) -> Daemon:
        """The pfkeyd of our own network namespace, there or not."""
        return self.of(self.myself)

    def of(self, caller: Caller) -> Daemon:
        """The pfkeyd of a caller's network namespace, there or not.

        Raises:
            OSError: EAFNOSUPPORT where we cannot know one.
        """
        path = self._path
        if caller.netns != self.myself.netns:
            if not self._is_default:
                raise OSError(EAFNOSUPPORT, "another network namespace than that of --socket")
            path = path.with_name(f"{caller.netns[1]}.sock")
        if path not in self._daemons:
            self._daemons[path] = Daemon(path, self._watch)
        return self._daemons[path]

    @property
    def deadline(self) -> float | None:
        """When `tend` has something to do."""
        due = (daemon.deadline for daemon in self._daemons.values())
        return min((at for at in due if at is not None), default=None)

    def tend(self, now: float) -> None:
        """Look for successors of those that are gone."""
        for daemon in tuple(self._daemons.values()):
            daemon.tend(now)
