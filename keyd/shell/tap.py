"""What passes on the PF_KEY socket, for those who asked to see it (`subscribe`)."""

from collections.abc import Callable

# direction, client, pid, the record, in which dialect
Watcher = Callable[[str, int, int, bytes, str], None]


class Tap:
    """Copies of all records to all watchers; costs nothing while there is none."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def add(self, watcher: Watcher) -> None:
        """Begin to tell."""
        self._watchers.add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Tell no more."""
        self._watchers.discard(watcher)

    def passed(self, direction: str, client: int, pid: int, record: bytes, dialect: str) -> None:
        """A record came `in` from the client or went `out` to it."""
        for watcher in tuple(self._watchers):
            watcher(direction, client, pid, record, dialect)
