"""What the daemon asks of a data path; `NoPlane` is the one of `--no-dataplane`."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from keyd.model import PolicySpec, Usage
from keyd.packet.counters import ROWS, grouped
from keyd.shell.applier import Commit
from keyd.shell.channel import Record
from keyd.shell.ports import DataPath, NoDataPath
from keyd.shell.workers import Snapshot
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair

Counters = dict[str, dict[str, int]]
Report = Callable[[Record], None]


class Plane(Protocol):
    """What the daemon asks of a data path."""

    @property
    def data_path(self) -> DataPath:
        """The workers; there once `open` has returned."""

    @property
    def commit(self) -> Commit | None:
        """How policies come into force; None where they do at once."""

    async def open(
        self, pairs: Sequence[SocketPair] = (), groups: Sequence[SocketGroup] = ()
    ) -> list[PolicySpec]:
        """Close the namespace's leaks; the holds that a predecessor left.

        `pairs` and `groups` are the policies of sockets that it left.
        """

    async def commit_sockets(
        self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup]
    ) -> None:
        """Return when all these policies of sockets, and no others, are in force."""

    async def start(self, nursery: trio.Nursery, snapshot: Snapshot, report: Report) -> None:
        """Return when packets can flow. What workers tell the engine goes to `report`."""

    async def close(self, *, hold: bool) -> None:
        """Undo everything, or leave what refuses packets."""

    async def counters(self) -> Counters:
        """All counters by group and name, each packet once."""

    def usage(self, slot: int) -> Usage:
        """What the SA of a slot has done."""

    def status(self) -> dict[str, Any]:
        """For the control socket."""


class NoPlane:
    """No packets."""

    def __init__(self) -> None:
        self.data_path: DataPath = NoDataPath()
        self.commit: Commit | None = None

    async def open(
        self, pairs: Sequence[SocketPair] = (), groups: Sequence[SocketGroup] = ()
    ) -> list[PolicySpec]:
        """Nothing is there."""
        return []

    async def commit_sockets(
        self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup]
    ) -> None:
        """Nothing to do."""

    async def start(self, nursery: trio.Nursery, snapshot: Snapshot, report: Report) -> None:
        """Nothing to start."""

    async def close(self, *, hold: bool) -> None:
        """Nothing to undo."""

    async def counters(self) -> Counters:
        """Noughts: nothing ever passed."""
        return grouped([0] * len(ROWS))

    def usage(self, slot: int) -> Usage:
        """No SA has ever done anything."""
        return Usage()

    def status(self) -> dict[str, Any]:
        """There is no data path."""
        return {"dataplane": False, "workers": []}
