"""Obeys the engine's effects, and lets nobody wait for a commit that is not theirs.

Effects without `PoliciesChanged` are obeyed at once, in the order of the engine's calls. A list
with one joins a queue: what stands before the change is done at once, the change is committed
together with all others that wait, and what stands behind it is done when nft has agreed. So

- a reply never comes before its commit, and commits happen in the engine's order;
- a slow commit delays only those who changed policies;
- a reply to a change of SAs or policies comes after the write to the workers' channels, and waits
  in the rare case that a channel is full;
- changes that arrive while nft works go into the next transaction together. When nft refuses
  that, they are tried one by one: only the refused one is reverted and answered with its failure.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

import trio

from keyd.engine.effects import (
    Dump,
    Effect,
    EndWait,
    InstallSa,
    Log,
    MoveSa,
    PoliciesChanged,
    RemoveSa,
    Send,
    SettingsChanged,
)
from keyd.shell.committed import Committed, Step
from keyd.shell.log import limited
from keyd.shell.ports import DataPath, KeyEngine
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")
ENGINE_LOG = limited("keyd.engine", burst=200, per_second=20)

Commit = Callable[[Step], Awaitable[None]]


class _Waiting:
    """A change in the queue and what is to be done after it."""

    def __init__(self, change: PoliciesChanged, rest: Sequence[Effect], done: trio.Event) -> None:
        self.change = change
        self.rest = rest
        self.done = done


class Applier:
    """The one place where effects become deeds. Run `run` in a task of its own.

    Args:
        send: hands a record to a client's socket without waiting.
        dump: begins a dump to a client without waiting.
        commit: one transaction; raises ShellError when nft refuses and nothing has changed.
            None: there is no nft, every change holds at once.
    """

    def __init__(
        self,
        engine: KeyEngine,
        data_path: DataPath,
        *,
        send: Callable[[Send], None],
        dump: Callable[[Dump], None],
        commit: Commit | None,
    ) -> None:
        self._engine = engine
        self._data_path = data_path
        self._send = send
        self._dump = dump
        self._commit = commit
        self._queue: deque[_Waiting] = deque()
        self._wake = trio.Event()
        self._behind: list[tuple[Sequence[Effect], trio.Event]] = []
        self._is_behind = trio.Event()
        self._is_flushing = False
        self.committed = Committed(engine.policies())

    async def obey(self, effects: Sequence[Effect]) -> None:
        """Return when all of them have been obeyed; without a checkpoint if nothing waits."""
        done = self.begin(effects)
        if done is not None:
            await done.wait()

    def begin(
        self, effects: Sequence[Effect], *, is_behind: bool = False, more: bool = False
    ) -> trio.Event | None:
        """Obey; the event that tells when all is done, None when it is.

        `is_behind`: only after the changes of policies that wait already. For lists of replies
        and of such changes alone: what others cause meanwhile must not depend on them. `more`: its
        change waits until `commit_now`, or the next change without this, for more are coming.
        """
        if is_behind and not any(isinstance(effect, PoliciesChanged) for effect in effects):
            effects = [PoliciesChanged(), *effects]
        return self._begin(effects, None, more=more)

    def commit_now(self) -> None:
        """No more is coming."""
        self._wake.set()

    def _begin(
        self,
        effects: Sequence[Effect],
        done: trio.Event | None,
        *,
        is_told: bool = False,
        more: bool = False,
    ) -> trio.Event | None:
        """Obey up to a change that must be committed; the event that tells of the rest.

        `is_told`: the workers were told something that must be in their channels before a reply.
        `more`: as in `begin`.
        """
        for number, effect in enumerate(effects):
            if isinstance(effect, PoliciesChanged):
                done = trio.Event() if done is None else done
                self._queue.append(_Waiting(effect, effects[number + 1 :], done))
                if self._commit is None:
                    self._without_nft()
                    return None
                if not more:
                    self._wake.set()
                return done
            is_late = self._is_flushing or self._data_path.is_behind
            if is_told and is_late and isinstance(effect, Send | Dump):
                done = trio.Event() if done is None else done
                self._behind.append((effects[number:], done))
                self._is_behind.set()
                return done
            is_told = is_told or isinstance(effect, InstallSa | RemoveSa | MoveSa | SettingsChanged)
            self._do(effect)
        if done is not None:
            done.set()
        return None

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case Dump():
                self._dump(effect)
            case InstallSa(sa):
                self._data_path.install(sa)
            case RemoveSa(sa):
                self._data_path.remove(sa)
            case MoveSa(old, new):
                self._data_path.move(old, new)
            case SettingsChanged(settings):
                self._data_path.tune(settings)
            case EndWait(need):
                self._data_path.end_wait(need)
            case Log(level, text):
                ENGINE_LOG.log(level, "%s", text)
            case PoliciesChanged():
                raise AssertionError("changes of policies go through the queue")
            case _:
                assert_never(effect)

    def _without_nft(self) -> None:
        while self._queue:
            one = self._queue.popleft()
            self._told(self.committed.step([one.change]), [one])

    async def run(self) -> None:
        """Commit and flush what waits, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flushes)
            nursery.start_soon(self._commits)

    async def _flushes(self) -> None:
        while True:
            await self._is_behind.wait()
            self._is_behind = trio.Event()
            waiting, self._behind = self._behind, []
            self._is_flushing = True  # replies of one client keep their order
            await self._data_path.flush()
            self._is_flushing = False
            for rest, done in waiting:
                self._begin(rest, done)

    async def _commits(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._queue and self._commit is not None:
                batch = list(self._queue)
                self._queue.clear()
                await self._commit_together(batch, self._commit)

    async def _commit_together(self, batch: list[_Waiting], commit: Commit) -> None:
        step = self.committed.step([one.change for one in batch])
        try:
            if not step.is_nothing:
                await commit(step)
        except ShellError as error:
            if len(batch) > 1:
                for one in batch:
                    await self._commit_together([one], commit)
                return
            sizes = len(step.added), len(step.removed)
            LOG.error("commit-refused added=%d removed=%d reason=%s", *sizes, error)
            self._engine.revert(batch[0].change)
            self._begin(batch[0].change.on_failure, batch[0].done)
            return
        self._told(step, batch)

    def _told(self, step: Step, batch: Sequence[_Waiting]) -> None:
        self.committed.take(step)
        if not step.is_nothing:
            self._data_path.change(step.added, [policy.id for policy in step.removed])
        for one in batch:
            self._begin(one.rest, one.done, is_told=True)
