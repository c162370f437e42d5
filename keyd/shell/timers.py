"""Wakes the engine when a lifetime ends (RFC 2367 section 3.1.8)."""

import math
from collections.abc import Awaitable, Callable, Sequence

import trio

from keyd.engine.effects import Effect, Now
from keyd.shell.ports import KeyEngine


class Timers:
    """One task waits for the engine's next deadline; whoever calls the engine says `changed`."""

    def __init__(
        self,
        engine: KeyEngine,
        clock: Callable[[], Now],
        obey: Callable[[Sequence[Effect]], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._obey = obey
        self._waiting_for: float | None = None
        self._changed = trio.Event()

    def changed(self) -> None:
        """The engine was called: look again, if its next deadline is another one."""
        if self._engine.next_deadline() != self._waiting_for:
            self._changed.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            # the event is made anew before the look, so that no change is lost between the two
            self._changed = trio.Event()
            self._waiting_for = deadline = self._engine.next_deadline()
            now = self._clock()
            if deadline is not None and deadline <= now.mono:
                await self._obey(self._engine.tick(now))
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_after(math.inf if deadline is None else deadline - now.mono):
                await self._changed.wait()
