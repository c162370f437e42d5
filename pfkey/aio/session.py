"""Shell: what goes over one socket under trio: requests with their replies, dumps, events."""

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Generic, Self, TypeVar

import trio

from pfkey.client import DUMPS, Exchange, refusal
from pfkey.dialect import LINUX, Dialect
from pfkey.entries import SadEntry, SpdEntry
from pfkey.errors import MisuseError
from pfkey.events import Event, types_of
from pfkey.link import broken, closed, no_answer
from pfkey.message import Message
from pfkey.session import conversation
from pfkey.transport import RECORD_OCTETS_MAX

_TURN_RECORDS = 64  # read before other tasks get their turn
_T = TypeVar("_T")


class AsyncDump(Generic[_T]):
    """The entries of a database as they are read, one after the other: `async for`.

    The engine sends as fast as they are taken. Other requests of the same client are served
    meanwhile; its events come behind what is not taken. Another dump first reads this one to its
    end, and keeps it. `close` says that an iteration is left: then the rest is read and dropped.
    """

    def __init__(
        self, session: "AsyncSession", request: Message, decode: Callable[[bytes], _T]
    ) -> None:
        self._session = session
        self._request = request
        self._decode = decode
        self._exchange: Exchange | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """The next entry.

        Raises:
            RefusedError: the engine refuses the dump. An empty database is no refusal.
            WireError: the engine sent what is no message.
            ClosedError, NoAnswerError: the engine has gone, or is silent.
        """
        if self._exchange is None:
            self._exchange = await self._session._begin(self._request)
        exchange = self._exchange
        # Without a wait this is no checkpoint: at most DUMP_AHEAD times in a row.
        await self._session._await(exchange)
        if not exchange.records:
            if exchange.errno != errno.ENOENT:  # which says: there is none
                exchange.check()
            raise StopAsyncIteration
        record = exchange.records.popleft()
        self._session._go_on()
        return self._decode(record)

    def close(self) -> None:
        """Read no more of it."""
        if self._exchange is not None:
            self._session._conversation.abandon(self._exchange)
            self._session._go_on()

    def __del__(self) -> None:
        with suppress(RuntimeError):  # collected by a thread that is not trio's
            trio.lowlevel.current_task()
            self.close()


class AsyncSession:
    """A socket and the conversation over it; `timeout` is the wait for an answer, in seconds."""

    def __init__(
        self, link: socket.socket, *, timeout: float, queue: int, dialect: Dialect = LINUX
    ) -> None:
        self.timeout = timeout
        self.dialect = dialect
        self._socket = link
        self._buffer = bytearray(RECORD_OCTETS_MAX)
        self._view = memoryview(self._buffer)
        self._conversation = conversation(queue, dialect)
        self._gone: Callable[[], Exception] | None = None
        self._may_read = trio.Event()
        self._wakes: dict[Exchange, trio.Event] = {}
        self._dumped = trio.Event()
        self._news: trio.Event | None = None

    @property
    def lost(self) -> int:
        """How many events did not fit the queue. The kernel may have dropped others unseen."""
        return self._conversation.lost

    @property
    def garbled(self) -> int:
        """How many records were no PF_KEY message."""
        return self._conversation.garbled

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    # The reader.

    async def _read_all(self) -> None:
        """Read until the engine has gone, or we are cancelled."""
        while self._gone is None:
            if not self._conversation.wants_more:
                self._may_read = trio.Event()
                await self._may_read.wait()
            elif self._read_some():
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._socket)

    def _read_some(self) -> bool:
        """Take what is there, some records at most; False when nothing was."""
        for count in range(_TURN_RECORDS):
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count > 0
            except ConnectionError:
                size = 0
            except OSError as error:
                self._end(partial(broken, error))
                return True
            if not size:
                self._end(closed)
                return True
            self._feed(bytes(self._view[:size]))
            if not self._conversation.wants_more:
                break
        return True

    def _feed(self, record: bytes) -> None:
        exchange = self._conversation.feed(record)
        if exchange is not None:
            if exchange in self._wakes:
                self._wakes[exchange].set()
            if exchange.is_done and exchange.is_dump:
                self._conversation.is_hurried = False
                self._dumped.set()
        elif self._news is not None and self._conversation.has_news:
            self._news.set()

    def _go_on(self) -> None:
        self._may_read.set()

    def _end(self, why: Callable[[], Exception]) -> None:
        """Nothing comes any more: whoever waits is told so."""
        if self._gone is None:
            self._gone = why
        for event in (*self._wakes.values(), self._dumped, self._may_read, self._news):
            if event is not None:
                event.set()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _check(self) -> None:
        if self._gone is not None:
            raise self._gone()

    # What every request goes through.

    async def _send(self, message: Message) -> None:
        """Send a message. AF_KEY refuses some at once."""
        octets = self._conversation.encode(message)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self.timeout):
            while True:
                self._check()
                try:
                    self._socket.send(octets, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                    return
                except BlockingIOError:
                    with suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(self._socket)
                except ConnectionError:
                    raise closed() from None
                except OSError as error:
                    raise refusal(message, error.errno or errno.EINVAL) from None
        raise no_answer(self.timeout)

    async def _begin(self, request: Message) -> Exchange:
        self._conversation.allow(request)
        if request.type in DUMPS:
            await self._end_of_dump()
        await self._send(request)
        exchange = self._conversation.begin(request)
        self._go_on()
        return exchange

    async def _end_of_dump(self) -> None:
        """Until no dump is on its way."""
        conversation = self._conversation
        with trio.move_on_after(self.timeout):
            while conversation.is_dumping:
                self._check()
                conversation.is_hurried = True
                if self._dumped.is_set():
                    self._dumped = trio.Event()
                self._go_on()
                await self._dumped.wait()
            return
        raise no_answer(self.timeout)

    async def _await(self, exchange: Exchange, have: int = 0) -> None:
        """Until there are more than `have` records of this exchange, or its end."""
        if len(exchange.records) > have or exchange.is_done:
            return
        with trio.move_on_after(self.timeout):
            try:
                while len(exchange.records) <= have and not exchange.is_done:
                    self._check()
                    wake = self._wakes[exchange] = trio.Event()
                    self._go_on()
                    await wake.wait()
                return
            finally:
                self._wakes.pop(exchange, None)
        self._conversation.abandon(exchange)
        raise no_answer(self.timeout)

    async def request(self, message: Message) -> Exchange:
        """Send a message as it is, and wait for all replies; the answer may be a refusal.

        The way for messages of your own making: no number is put in, nothing is raised for errno.

        Raises:
            ClosedError, NoAnswerError: the engine has gone, or is silent.
            RefusedError: the socket does not take it at all: AF_KEY refuses so what is no message
                to it, pfkeyd's what is too large for a record.
        """
        exchange = await self._begin(message)
        try:
            while not exchange.is_done:
                await self._await(exchange, len(exchange.records))
        finally:
            if not exchange.is_done:
                self._conversation.abandon(exchange)
        return exchange

    async def _ask(self, message: Message, seq: int | None = None) -> bytes:
        """Send a request with one reply; returns that."""
        exchange = await self.request(self._conversation.stamp(message, seq))
        exchange.check()
        return exchange.records.popleft()

    def _dump(self, message: Message, decode: Callable[[bytes, Dialect], _T]) -> AsyncDump[_T]:
        def read(record: bytes) -> _T:
            return decode(record, self.dialect)

        return AsyncDump(self, self._conversation.stamp(message), read)

    def _entry(self, record: bytes) -> SadEntry:
        return SadEntry.decode(record, self.dialect)

    def _policy(self, record: bytes) -> SpdEntry:
        return SpdEntry.decode(record, self.dialect)

    def _message(self, record: bytes) -> Message:
        return Message.decode(record, self.dialect)

    async def event(self) -> Event:
        """The next event. Put a limit to the wait with `trio.move_on_after`.

        Raises:
            ClosedError: the engine has gone, and what it said before is taken.
            MisuseError: another task waits for events of this client.
        """
        await trio.lowlevel.checkpoint()
        if self._news is not None:
            raise MisuseError("another task waits for events of this client; give each its own")
        try:
            while (found := self._conversation.next_event()) is None:
                self._check()
                self._news = trio.Event()
                await self._news.wait()
        finally:
            self._news = None
        return found

    def events(self, *kinds: type[Event]) -> AsyncIterator[Event]:
        """Events as they come: as `Client.events`, for `async for`.

        Args:
            kinds: hear these classes only, such as `Acquire, Expire`; none given: hear all. Lost
                comes in any case.

        Raises:
            ClosedError: the engine has gone.
        """
        self._conversation.hear(types_of(kinds) if kinds else None)
        return _Events(self)


class _Events:
    """The iterator of `events`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self._session.event()
