"""Trio shell: keeps nft's sets of what is ESP in UDP equal to what the SAs say.

Changes that arrive while nft works go into the next transaction together. A reply to a change
waits for its commit, as `is_behind` and `settled` tell the applier.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from keyd.model import SaSpec
from keyd.shell.nft_natt import Element, elements
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")


class NattSets:
    """What the SAs of the data path say. Run `run` in a task of its own.

    Args:
        commit: makes nft's sets these; raises ShellError when it cannot.
    """

    def __init__(self, commit: Callable[[frozenset[Element]], Awaitable[None]]) -> None:
        self._commit = commit
        self._of_slot: dict[int, tuple[Element, ...]] = {}
        self._count: Counter[Element] = Counter()
        self._is_changed = trio.Event()
        self._is_settled = trio.Event()
        self._is_settled.set()

    @property
    def is_behind(self) -> bool:
        """Whether nft does not know yet what it should."""
        return not self._is_settled.is_set()

    async def settled(self) -> None:
        """Return once it does."""
        await self._is_settled.wait()

    def install(self, sa: SaSpec) -> None:
        """An SA is there, or another at its slot."""
        self._change(sa.slot, elements(sa))

    def remove(self, slot: int) -> None:
        """An SA is gone."""
        self._change(slot, ())

    def _change(self, slot: int, now: tuple[Element, ...]) -> None:
        before = self._of_slot.pop(slot, ())
        if now:
            self._of_slot[slot] = now
        if now == before:
            return
        known = len(self._count)
        fresh = [one for one in now if not self._count[one]]
        self._count.update(now)
        self._count.subtract(before)
        for one in (*before, *fresh):
            if self._count[one] <= 0:
                del self._count[one]
        if fresh or len(self._count) != known:
            self._is_settled = trio.Event() if self._is_settled.is_set() else self._is_settled
            self._is_changed.set()

    async def run(self) -> None:
        """Commit what changes, until cancelled."""
        while True:
            await self._is_changed.wait()
            self._is_changed = trio.Event()
            settled, wanted = self._is_settled, frozenset(self._count)
            try:
                await self._commit(wanted)
            except ShellError as error:
                LOG.error("esp-in-udp-not-steered reason=%s", error)
            if not self._is_changed.is_set():
                settled.set()
