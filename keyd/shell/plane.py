"""What the daemon asks of a data path; `NoPlane` is the one of `--no-dataplane`."""

from collections.abc import Callable
from typing import Any, Protocol

import trio

from keyd.model import PolicySpec, Usage
from keyd.packet.counters import ROWS, grouped
from keyd.shell.applier import Commit
from keyd.shell.channel import Record
from keyd.shell.ports import DataPath, NoDataPath
from keyd.shell.workers import Snapshot

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

    async def open(self) -> list[PolicySpec]:
        """Close the namespace's leaks; the holds that a predecessor left."""

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

    async def open(self) -> list[PolicySpec]:
        """Nothing is there."""
        return []

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
