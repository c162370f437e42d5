"""Shell: the trio client of a key engine. Only the modules in here import trio.

    async with pfkey.connect() as engine:
        await engine.register(SaType.ESP)
        async for event in engine.events(Acquire, Expire):
            ...

One task reads the socket and hands each record to who waits for it, so any number of tasks may use
one client at once. It stops while a dump waits for its reader, and goes on when anybody else waits.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from pfkey.aio.client import AsyncClient
from pfkey.client import QUEUE_RECORDS
from pfkey.errors import AbsentError
from pfkey.link import ANSWER_SECONDS, RETRY_SECONDS, no_answer, own_end
from pfkey.transport import Transport, attempt, choose

__all__ = ["AsyncClient", "connect"]


class connect:  # noqa: N801 - it is used as a function
    """Connect to a key engine: `async with pfkey.connect() as client:`; see `pfkey.Client`.

    Args:
        path: pfkeyd's socket; None: that of this network namespace.
        transport: `unix` for pfkeyd, `af_key` for the kernel's own PF_KEY.
        timeout: how many seconds to wait for an answer.
        queue: how many events wait at most; what does not fit is counted in `lost`.
        wait: how many seconds to wait for an engine to be there.
        dialect: whose PF_KEY to speak: `linux`, `netbsd`, `freebsd` or `openbsd`. None: Linux's;
            with `af_key`, this system's.

    Raises:
        AbsentError: no engine is there.
        NoAnswerError: one is, and takes no connection.
        ShellError: we may not speak to it.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        transport: Transport = "unix",
        timeout: float = ANSWER_SECONDS,
        queue: int = QUEUE_RECORDS,
        wait: float = 0.0,
        dialect: str | None = None,
    ) -> None:
        spoken = self._dialect = choose(dialect, transport)
        self._attempt: Callable[[], socket.socket | None] = lambda: attempt(transport, path, spoken)
        self._timeout = timeout
        self._queue = queue
        self._wait = wait

    @classmethod
    def over(
        cls,
        link: socket.socket,
        *,
        timeout: float = ANSWER_SECONDS,
        queue: int = QUEUE_RECORDS,
        dialect: str | None = None,
    ) -> Self:
        """The same over a socket that exists; the client closes it in the end."""
        self = cls(timeout=timeout, queue=queue, dialect=dialect)
        self._attempt = lambda: link
        return self

    async def __aenter__(self) -> AsyncClient:
        link = await self._connected()
        self._client = AsyncClient(
            link, timeout=self._timeout, queue=self._queue, dialect=self._dialect
        )
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._client._read_all)
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client._end(own_end)
        self._nursery.cancel_scope.cancel()
        try:
            # The nursery hears nothing of `error`, so that it does not wrap it in a group.
            await self._manager.__aexit__(None, None, None)
        finally:
            self._client._close()

    async def _connected(self) -> socket.socket:
        began = trio.current_time()
        await trio.lowlevel.checkpoint()
        while True:
            try:
                link = self._attempt()
            except AbsentError:
                if trio.current_time() - began >= self._wait:
                    raise
            else:
                if link is not None:
                    return link
                if trio.current_time() - began >= self._wait + self._timeout:
                    raise no_answer(self._timeout)
            await trio.sleep(RETRY_SECONDS)
