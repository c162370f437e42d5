"""The sans-IO half of every PF_KEY client: which record answers which request, and what is news.

A PF_KEY socket also hears what others do. A reply to us has our request's type and process id and,
but for the records of a dump, its sequence number. What is no reply is news: it waits in a queue of
bounded length, and what does not fit there is counted (RFC 2367 sections 1.3 and 3.1).

    conversation = Conversation(pid, first_seq)
    request = conversation.stamp(message)
    conversation.allow(request)                 # then send it, and
    exchange = conversation.begin(request)
    conversation.feed(record)                   # for each record that arrives
    exchange.is_done, exchange.replies(); conversation.next_event()
"""

from collections import deque
from collections.abc import Container
from dataclasses import replace

from pfkey import events
from pfkey.addresses import prefix
from pfkey.base import Header, header
from pfkey.const import MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import FAMILIES, MisuseError, RefusedError, WireError
from pfkey.events import Event, Lost
from pfkey.kdebug import type_name
from pfkey.message import Message
from pfkey.neutral import spoken
from pfkey.text import SATYPES

QUEUE_RECORDS = 1024  # news that waits, by default
DUMP_AHEAD = 256  # records of a dump that are read before somebody wants them
DUMP_WAITING_MAX = 1 << 20  # and those read because a request is waiting for what is behind them
_SATYPES = {int(number): name for number, name in SATYPES.items()}
_ANSWERED = 64  # requests that are remembered to know late copies of their answers
DUMPS = (MsgType.DUMP, MsgType.X_SPDDUMP)
# Numbers of ours have the highest bit, so that none is that of an ACQUIRE, which counts from 1:
# the engine takes an ADD or GETSPI with such a number for the answer to it.
_OWN = 0x80000000


class Exchange:
    """One request and its replies. Offer each record that arrives until `is_done`.

    Attributes:
        request: what was asked.
        is_done: whether the last reply, or a refusal, has come.
        errno: 0, or why the engine refused.
        records: the replies not taken yet.
    """

    def __init__(self, request: Message, dialect: Dialect = LINUX) -> None:
        self.request = request
        self.dialect = dialect
        self.is_dump = request.type in DUMPS
        self.is_done = False
        self.is_abandoned = False
        self.is_overrun = False
        self.errno = 0
        self.records: deque[bytes] = deque()

    def offer(self, record: bytes) -> bool:
        """Take a record; False if it is not for us (another's, or no message at all)."""
        try:
            return self.take(header(record, self.dialect, is_request=False), record)
        except WireError:
            return False

    def take(self, found: Header, record: bytes) -> bool:
        """`offer` for a record whose header was read already."""
        request = self.request
        if self.is_done or found.type != request.type or found.pid != request.pid:
            return False
        if self.is_dump and not found.errno:
            self.is_done = found.seq == 0
        elif found.seq != request.seq:
            return False
        else:
            self.errno = found.errno
            self.is_done = True
        if not found.errno and not self.is_abandoned:
            self.records.append(record)
            if len(self.records) > DUMP_WAITING_MAX:
                self.is_overrun = self.is_abandoned = True
                self.records.clear()
        return True

    def replies(self) -> list[Message]:
        """The replies, decoded; none if the request was refused.

        Raises:
            WireError: the engine sent what is no message.
        """
        return [Message.decode(record, self.dialect) for record in self.records]

    def check(self) -> None:
        """Turn a refusal into an error.

        Raises:
            RefusedError: the subclass for its errno.
            MisuseError: more of a dump came than anybody will hold.
        """
        if self.is_overrun:
            raise MisuseError(
                f"more than {DUMP_WAITING_MAX} records of a dump wait unread: read them, and send"
                " other requests meanwhile over a connection of their own"
            )
        if self.errno:
            raise refusal(self.request, self.errno)


class Conversation:
    """All that goes on over one socket.

    Args:
        pid: goes into requests.
        first_seq: where our sequence numbers begin; pick it at random, for in another process
            namespace somebody may have our pid.
        queue: how many news wait at most; 0: none is wanted.
        dialect: in which the other side speaks.

    Attributes:
        lost: news that did not fit the queue.
        late: copies of answers that were had or given up before.
        garbled: records that are no message.
        is_hurried: set by who waits for the end of a dump.
    """

    def __init__(
        self, pid: int, first_seq: int, *, queue: int = QUEUE_RECORDS, dialect: Dialect = LINUX
    ) -> None:
        self.pid = pid
        self.dialect = dialect
        self.lost = 0
        self.late = 0
        self.garbled = 0
        self.is_promiscuous = False
        self.is_hurried = False
        self._seq = first_seq
        self._queue = queue
        self._news: deque[bytes | Lost] = deque()
        self._lost_now = 0
        self._wanted: Container[int] | None = None
        self._open: dict[int, deque[Exchange]] = {}
        self._answered: deque[tuple[int, int, int]] = deque(maxlen=_ANSWERED)

    def stamp(self, message: Message, seq: int | None = None) -> Message:
        """The message with our pid and a sequence number: `seq`, or the next of our own."""
        if seq is None:
            self._seq += 1
            seq = _OWN | self._seq & (_OWN - 1)
        return replace(message, seq=seq, pid=self.pid)

    def allow(self, request: Message) -> None:
        """Ask before a request is sent.

        Raises:
            MisuseError: the connection is promiscuous.
        """
        if self.is_promiscuous and request.type != MsgType.X_PROMISC:
            raise MisuseError(
                "a promiscuous connection hears copies of requests and cannot tell them from"
                " replies: send requests over a connection of their own"
            )

    def encode(self, message: Message) -> bytes:
        """The octets of a request, in the dialect.

        Raises:
            WireError: the dialect cannot say it, or a value does not fit.
        """
        if self.dialect is LINUX:
            return message.encode()
        return spoken(message, self.dialect).encode(self.dialect)

    def begin(self, request: Message) -> Exchange:
        """Expect the replies to a request that has just been sent."""
        exchange = Exchange(request, self.dialect)
        self._open.setdefault(request.type, deque()).append(exchange)
        return exchange

    def abandon(self, exchange: Exchange) -> None:
        """Nobody waits for this one any more. The rest of a dump is read and dropped."""
        exchange.records.clear()
        if exchange.is_abandoned:
            return
        exchange.is_abandoned = True
        if not exchange.is_done and not exchange.is_dump:
            self._close(exchange)

    @property
    def is_dumping(self) -> bool:
        """Whether a dump has not ended. The engine refuses another one (EBUSY) until it has."""
        return any(self._open.get(type) for type in DUMPS)

    def feed(self, record: bytes) -> Exchange | None:
        """Take any record; returns the exchange that it belongs to, None for news and the rest."""
        try:
            found = header(record, self.dialect, is_request=False)
        except WireError:
            self.garbled += 1
            return None
        for exchange in self._open.get(found.type, ()):
            if exchange.take(found, record):
                if exchange.is_done:
                    self._close(exchange)
                return exchange
        if not self.is_promiscuous and (found.type, found.seq, found.pid) in self._answered:
            self.late += 1
        elif self._wanted is None or found.type in self._wanted:
            self._admit(record)
        return None

    def _close(self, exchange: Exchange) -> None:
        request = exchange.request
        self._open[request.type].remove(exchange)
        self._answered.append((request.type, request.seq, request.pid))
        if request.type == MsgType.X_PROMISC and exchange.is_done and not exchange.errno:
            self.is_promiscuous = request.satype == 1

    def _admit(self, record: bytes) -> None:
        if len(self._news) >= self._queue:
            self.lost += 1
            self._lost_now += 1
            return
        self._tell_lost()
        self._news.append(record)

    def _tell_lost(self) -> None:
        if self._lost_now:
            self._news.append(Lost(self._lost_now))
            self._lost_now = 0

    def hear(self, types: Container[int] | None) -> None:
        """From now on only messages of these types are news; None: of all types."""
        self._wanted = types
        if types is not None:
            kept = [one for one in self._news if isinstance(one, Lost) or self._type(one) in types]
            self._news = deque(kept)

    def _type(self, record: bytes) -> int:
        return self.dialect.messages.named[record[1]]

    def next_event(self) -> Event | None:
        """The oldest news, decoded; None when there is none."""
        if not self._news:
            self._tell_lost()
        while self._news:
            news = self._news.popleft()
            if isinstance(news, Lost):
                return news
            try:
                return events.decode(news, self.dialect)
            except WireError:
                self.garbled += 1
        return None

    @property
    def has_news(self) -> bool:
        """Whether `next_event` may have something."""
        return bool(self._news or self._lost_now)

    @property
    def wants_more(self) -> bool:
        """Whether to read on: not while a dump waits for its reader, unless somebody else waits."""
        if self.is_hurried:
            return True
        is_full = False
        for exchanges in self._open.values():
            for exchange in exchanges:
                if not exchange.is_dump or not exchange.records:
                    return True
                is_full = is_full or len(exchange.records) >= DUMP_AHEAD
        return not is_full


def refusal(request: Message, errno: int) -> RefusedError:
    """The error for a refused request, by the family of its errno."""
    return FAMILIES.get(errno, RefusedError)(errno, describe(request), request)


def describe(message: Message) -> str:
    """A message in a few words, without keys: `ADD esp 10.1.1.1 20.1.1.1 spi 0x00002694`."""
    words = [type_name(message.type)]
    if message.satype:
        words.append(_SATYPES.get(message.satype, f"satype {message.satype}"))
    words += [prefix(one) for one in (message.src, message.dst) if one is not None]
    if message.sa is not None:
        words.append(f"spi {message.sa.spi:#010x}")
    if message.policy is not None:
        words.append(f"policy {message.policy.id}" if message.policy.id else "policy")
    return " ".join(words)
