"""Shell: what goes over one blocking socket: requests with their replies, dumps, events."""

import errno
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

from pfkey.client import DUMPS, QUEUE_RECORDS, Conversation, Exchange, refusal
from pfkey.dialect import LINUX, Dialect
from pfkey.entries import SadEntry, SpdEntry
from pfkey.errors import NoAnswerError
from pfkey.events import Event, types_of
from pfkey.link import ANSWER_SECONDS, Link, no_answer
from pfkey.message import Message

AHEAD = 128  # requests sent before the first of them is answered: their answers fit any queue

_T = TypeVar("_T")


def conversation(queue: int, dialect: Dialect = LINUX) -> Conversation:
    """A conversation of this process, numbered from a random number on."""
    return Conversation(os.getpid(), secrets.randbits(31), queue=queue, dialect=dialect)


class Dump(Generic[_T]):
    """The entries of a database as they are read, one after the other.

    The engine sends as fast as they are taken. Other requests of the same client are served
    meanwhile; another dump first reads this one to its end, and keeps it. `close` says that an
    iteration is left: then the rest is read and dropped.
    """

    def __init__(
        self, session: "Session", exchange: Exchange, decode: Callable[[bytes], _T]
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._decode = decode

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        """The next entry.

        Raises:
            RefusedError: the engine refuses the dump. An empty database is no refusal.
            WireError: the engine sent what is no message.
            ClosedError, NoAnswerError: the engine has gone, or is silent.
        """
        exchange = self._exchange
        self._session._await(exchange)
        if not exchange.records:
            if exchange.errno != errno.ENOENT:  # which says: there is none
                exchange.check()
            raise StopIteration
        return self._decode(exchange.records.popleft())

    def close(self) -> None:
        """Read no more of it."""
        self._session._conversation.abandon(self._exchange)

    def __del__(self) -> None:
        self.close()


class Session(Link):
    """A socket and the conversation over it; `timeout` is the wait for an answer, in seconds."""

    def __init__(
        self,
        link: socket.socket,
        *,
        timeout: float = ANSWER_SECONDS,
        queue: int = QUEUE_RECORDS,
        dialect: Dialect = LINUX,
    ) -> None:
        super().__init__(link)
        self.timeout = timeout
        self.dialect = dialect
        self._conversation = conversation(queue, dialect)

    @property
    def lost(self) -> int:
        """How many events did not fit the queue. The kernel may have dropped others unseen."""
        return self._conversation.lost

    @property
    def garbled(self) -> int:
        """How many records were no PF_KEY message."""
        return self._conversation.garbled

    def _begin(self, request: Message) -> Exchange:
        self._conversation.allow(request)
        deadline = time.monotonic() + self.timeout
        # News, and late copies of earlier answers. Who chatters for ever does not hold us up.
        while time.monotonic() < deadline and (record := self.recv(0)) is not None:
            self._conversation.feed(record)
        if request.type in DUMPS:
            self._feed_until(lambda: not self._conversation.is_dumping)
        self._tell(request)
        return self._conversation.begin(request)

    def _feed_until(self, claim: Callable[[], bool]) -> None:
        """Take records until something has come true, but not for longer than the timeout."""
        deadline = time.monotonic() + self.timeout
        while not claim():
            left = deadline - time.monotonic()
            record = self.recv(left) if left > 0 else None
            if record is None:
                raise no_answer(self.timeout)
            self._conversation.feed(record)

    def _await(self, exchange: Exchange, have: int = 0) -> None:
        """Until there are more than `have` records of this exchange, or its end."""
        try:
            self._feed_until(lambda: len(exchange.records) > have or exchange.is_done)
        except NoAnswerError:
            self._conversation.abandon(exchange)
            raise

    def request(self, message: Message) -> Exchange:
        """Send a message as it is, and wait for all replies; the answer may be a refusal.

        The way for messages of your own making: no number is put in, nothing is raised for errno.

        Raises:
            ClosedError, NoAnswerError: the engine has gone, or is silent.
            RefusedError: the socket does not take it at all: AF_KEY refuses so what is no message
                to it, pfkeyd's what is too large for a record.
        """
        return self._done(self._begin(message))

    def requests(self, messages: Iterable[Message]) -> Iterator[Exchange]:
        """`request` for one message after the other, some sent before earlier ones are answered.

        For many changes: an engine may put them in force together. Answers come in the order of
        the messages. Whoever leaves the iteration does not learn what became of those under way.

        Raises:
            ClosedError, NoAnswerError, RefusedError: as `request`.
        """
        under_way = deque[Exchange]()
        try:
            for message in messages:
                under_way.append(self._begin(message))
                if len(under_way) >= AHEAD:
                    yield self._done(under_way.popleft())
            while under_way:
                yield self._done(under_way.popleft())
        finally:
            for exchange in under_way:
                self._conversation.abandon(exchange)

    def _done(self, exchange: Exchange) -> Exchange:
        while not exchange.is_done:
            self._await(exchange, len(exchange.records))
        return exchange

    def _ask(self, message: Message, seq: int | None = None) -> bytes:
        """Send a request with one reply; returns that."""
        exchange = self._begin(self._conversation.stamp(message, seq))
        self._await(exchange)
        exchange.check()
        return exchange.records.popleft()

    def _dump(self, message: Message, decode: Callable[[bytes, Dialect], _T]) -> Dump[_T]:
        def read(record: bytes) -> _T:
            return decode(record, self.dialect)

        return Dump(self, self._begin(self._conversation.stamp(message)), read)

    def _entry(self, record: bytes) -> SadEntry:
        return SadEntry.decode(record, self.dialect)

    def _policy(self, record: bytes) -> SpdEntry:
        return SpdEntry.decode(record, self.dialect)

    def _message(self, record: bytes) -> Message:
        return Message.decode(record, self.dialect)

    def event(self, timeout: float | None = None) -> Event | None:
        """The next event; None if none came within `timeout` seconds (None: wait for ever).

        Raises:
            ClosedError: the engine has gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._conversation.next_event()
            if found is not None:
                return found
            left = None if deadline is None else deadline - time.monotonic()
            record = self.recv(left if left is None else max(0.0, left))
            if record is None:
                return None
            self._conversation.feed(record)
            if left is not None and left <= 0 and not self._conversation.has_news:
                return None  # what came was none

    def events(self, *kinds: type[Event], timeout: float | None = None) -> Iterator[Event]:
        """Events as they come, until none has come for `timeout` seconds (None: for ever).

        Args:
            kinds: hear these classes only, such as `Acquire, Expire`; none given: hear all. Lost
                comes in any case.
            timeout: seconds.

        Raises:
            ClosedError: the engine has gone.
        """
        self._conversation.hear(types_of(kinds) if kinds else None)
        return self._events(timeout)

    def _events(self, timeout: float | None) -> Iterator[Event]:
        while (found := self.event(timeout)) is not None:
            yield found

    def _tell(self, message: Message) -> None:
        """Send a message. AF_KEY refuses some at once."""
        try:
            self.send(self._conversation.encode(message), self.timeout)
        except OSError as error:
            raise refusal(message, error.errno or errno.EINVAL) from None
