"""Carries setkey's statements out over a link that is handed in, and tells what came of each."""

import errno
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import groupby
from typing import Protocol

from pfkey import document, text
from pfkey.algorithms import Kind
from pfkey.client import Exchange
from pfkey.const import MsgType
from pfkey.message import Message
from pfkey.setkey import dump, messages
from pfkey.setkey.grammar import Offered
from pfkey.setkey.statements import DeleteAll, Quit, Statement

# What ENOENT is called for a message.
NO_ENTRY = {
    MsgType.DELETE: "No entry",
    MsgType.GET: "No entry",
    MsgType.X_SPDDELETE: "No entry",
    MsgType.DUMP: "No SAD entries",
    MsgType.X_SPDDUMP: "No SPD entries",
}
_DUMPS = (MsgType.DUMP, MsgType.X_SPDDUMP)
_SHOWN = (MsgType.GET, MsgType.GETSPI)
_PLAIN = (
    MsgType.ADD, MsgType.UPDATE, MsgType.DELETE, MsgType.FLUSH, MsgType.X_SPDADD,
    MsgType.X_SPDUPDATE, MsgType.X_SPDDELETE, MsgType.X_SPDFLUSH,
)  # fmt: skip


def refused(type: int, number: int, strerror: Callable[[int], str]) -> str:
    """What an errno means in the answer to a message."""
    if number == errno.ENOENT and type in NO_ENTRY:
        return NO_ENTRY[MsgType(type)]
    return strerror(number)


class Link(Protocol):
    """A connection to a key engine, such as `pfkey.Client`."""

    def request(self, message: Message) -> Exchange:
        """Send a request and wait for all its replies."""

    def requests(self, messages: Iterable[Message]) -> Iterator[Exchange]:
        """The same for each, in their order; some may be sent before others are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What this program stands in: all that a core may not fetch itself."""

    pid: int
    now: Callable[[], float]  # seconds since 1970
    strerror: Callable[[int], str]
    out: Callable[[str], None]
    zone: tzinfo | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The engine said no, or had nothing to say; `is_empty` is an empty dump, which is no fault."""

    type: int
    errno: int
    why: str
    is_empty: bool = False


class Runner:
    """One connection, and how its user wants to see what happens."""

    def __init__(
        self,
        link: Link,
        world: World,
        *,
        has_fwd_copy: bool = False,
        has_ports: bool = False,
        is_verbose: bool = False,
    ) -> None:
        self._link = link
        self._world = world
        self._has_fwd_copy = has_fwd_copy
        self._has_ports = has_ports
        self._is_verbose = is_verbose

    def _request(self, message: Message) -> Exchange:
        if self._is_verbose:
            self._world.out(text.message(message) + "\n")
        exchange = self._link.request(message)
        if self._is_verbose:
            for reply in exchange.replies():
                self._world.out(text.message(reply) + "\n")
        return exchange

    def _refusal(self, exchange: Exchange) -> Refusal | None:
        number, type = exchange.errno, exchange.request.type
        if number == 0:
            return None
        why = refused(type, number, self._world.strerror)
        if number == errno.ENOENT and type in NO_ENTRY:
            return Refusal(type, number, why, type in _DUMPS)
        if number in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOSYS):
            why += " (pfkeyd's log says what and why)"
        return Refusal(type, number, why)

    def offered(self) -> Offered | None:
        """Ask for the algorithms: the key lengths taken by kind and number; None if untold."""
        exchange = self._request(messages.register(self._world.pid))
        offered: dict[tuple[str, int], tuple[int, int]] = {}
        for reply in exchange.replies():
            for kind, found in (
                (Kind.AUTH, reply.supported_auth),
                (Kind.ENCRYPT, reply.supported_encrypt),
            ):
                for row in found.algorithms if found else ():
                    offered[kind.value, row.id] = (row.minbits, row.maxbits)
        return offered or None

    def carry_out_all(self, statements: Iterable[Statement]) -> Iterator[tuple[Statement, Refusal]]:
        """`carry_out` for each, in their order: what was refused, and of which statement.

        Those that print nothing are sent one behind the other, so that the engine need not put
        every one in force alone.
        """
        for is_plain, some in groupby(statements, self._is_plain):
            if is_plain:
                yield from self._carry_out_ahead(some)
                continue
            for statement in some:
                yield from ((statement, refusal) for refusal in self.carry_out(statement))

    def _is_plain(self, statement: Statement) -> bool:
        if self._is_verbose or isinstance(statement, DeleteAll | Quit):
            return False
        return statement.type in _PLAIN

    def _carry_out_ahead(
        self, statements: Iterable[Statement]
    ) -> Iterator[tuple[Statement, Refusal]]:
        sent = deque[Statement]()

        def all_messages() -> Iterator[Message]:
            for statement in statements:
                for message in messages.of_statement(
                    statement, self._world.pid, has_fwd_copy=self._has_fwd_copy
                ):
                    sent.append(statement)
                    yield message

        for exchange in self._link.requests(all_messages()):
            statement, refusal = sent.popleft(), self._refusal(exchange)
            if refusal is not None:
                yield statement, refusal

    def carry_out(self, statement: Statement) -> list[Refusal]:
        """Send what a statement means and print what it asks for; what was refused of it."""
        refusals = []
        for message in messages.of_statement(
            statement, self._world.pid, has_fwd_copy=self._has_fwd_copy
        ):
            exchange = self._request(message)
            refusal = self._refusal(exchange)
            if isinstance(statement, DeleteAll):
                if refusal is None:
                    refusals += self._delete_all(statement, exchange.replies())
                elif not refusal.is_empty:
                    refusals.append(refusal)
                continue
            if refusal is not None:
                refusals.append(refusal)
            elif message.type in (*_DUMPS, *_SHOWN):
                self.show(exchange.replies())
        return refusals

    def _delete_all(self, statement: DeleteAll, records: Sequence[Message]) -> list[Refusal]:
        refusals = []
        for found in records:
            message = messages.delete_of(statement, found, self._world.pid)
            if message is not None:
                refusal = self._refusal(self._request(message))
                if refusal is not None and refusal.errno != errno.ESRCH:  # expired meanwhile
                    refusals.append(refusal)
        return refusals

    def show(self, records: Sequence[Message], *, has_dead: bool = False) -> None:
        """Print entries of a database as -D and -DP do."""
        now, zone = self._world.now(), self._world.zone
        for found in records:
            if has_dead or not text.is_dead(found):
                self._world.out(dump.record(found, now=now, zone=zone, has_ports=self._has_ports))

    def records(self, type: MsgType) -> tuple[list[Message], Refusal | None]:
        """All entries of a database."""
        pid = self._world.pid
        is_sad = type == MsgType.DUMP
        exchange = self._request(messages.dump_sas(pid) if is_sad else messages.table(type, pid))
        return exchange.replies(), self._refusal(exchange)

    def dump(
        self,
        type: MsgType,
        *,
        has_dead: bool = False,
        is_json: bool = False,
        is_short: bool = False,
        show_keys: bool = False,
    ) -> tuple[str, Refusal | None]:
        """A whole database as text, and the engine's refusal if there was one."""
        records, refusal = self.records(type)
        if refusal is not None and not refusal.is_empty:
            return "", refusal
        records = [found for found in records if has_dead or not text.is_dead(found)]
        if is_json:
            is_policy = type == MsgType.X_SPDDUMP
            found = (
                document.spd(records) if is_policy else document.sad(records, show_keys=show_keys)
            )
            return json.dumps(found, indent=2) + "\n", None
        now, zone = self._world.now(), self._world.zone
        if is_short:
            return dump.table(records, now=now, zone=zone), None
        if refusal is not None:
            return f"{refusal.why}.\n", None
        return "".join(
            dump.record(found, now=now, zone=zone, has_ports=self._has_ports) for found in records
        ), None

    def flush(self, type: MsgType) -> Refusal | None:
        """Empty a database."""
        return self._refusal(self._request(messages.table(type, self._world.pid)))
