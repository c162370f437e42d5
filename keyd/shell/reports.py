"""What the workers tell the engine: handed over one by one, dropped when there is too much.

A worker is not to be trusted: it holds what strangers sent.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from keyd.engine.effects import Effect, Now
from keyd.model import Need
from keyd.shell.channel import Record
from keyd.shell.log import limited
from keyd.shell.ports import KeyEngine

LOG = limited("keyd.shell.reports")

WAITING_MAX = 1024  # a need that is dropped here is told again with the flow's next packet


class Reports:
    """`take` is for the workers' channels. Run `run` in a task of its own."""

    def __init__(
        self,
        engine: KeyEngine,
        clock: Callable[[], Now],
        obey: Callable[[Sequence[Effect]], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._obey = obey
        self._inlet, self._outlet = trio.open_memory_channel[tuple[Need, int]](WAITING_MAX)

    def take(self, record: Record) -> None:
        """A record from a worker, other than a log line."""
        try:
            if record["op"] == "used":
                self._engine.used(map(int, record["policies"]), self._clock())
                return
            if record["op"] != "need":
                raise ValueError(record["op"])
            report = Need.from_json(record["need"]), int(record["packets"])
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            LOG.error("bad-report error=%s", type(error).__name__)
            return
        try:
            self._inlet.send_nowait(report)
        except trio.WouldBlock:
            LOG.warning("report-dropped waiting=%d", WAITING_MAX)

    async def run(self) -> None:
        """Tell the engine, and obey it, until cancelled."""
        async for need, packets in self._outlet:
            await self._obey(self._engine.need(need, packets, self._clock()))
