"""Shell: which descriptors are waited for, and what is done when they are ready."""

import select
import syslog
from collections.abc import Callable

Handle = Callable[[int], None]


class Watch:
    """An epoll whose waiting is as exact as select's: its own counts milliseconds."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handles: dict[int, Handle] = {}

    def add(self, fd: int, events: int, handle: Handle) -> None:
        """Call `handle` with the events whenever there are some."""
        self._poll.register(fd, events)
        self._handles[fd] = handle

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._poll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Wait no more. Before it is closed: a copy elsewhere would keep it in the set."""
        self._poll.unregister(fd)
        del self._handles[fd]

    def wait(self, seconds: float | None) -> None:
        """Handle what is ready, or return when the time is over."""
        select.select([self._poll.fileno()], [], [], seconds)
        ready = [(fd, events, self._handles.get(fd)) for fd, events in self._poll.poll(0)]
        for fd, events, handle in ready:
            if handle is None or self._handles.get(fd) is not handle:  # an earlier one changed it
                continue
            try:
                handle(events)
            except Exception as error:  # the last resort: no program is to lose its supervisor
                syslog.syslog(syslog.LOG_ERR, f"pfkey run: internal error: {error!r}")
