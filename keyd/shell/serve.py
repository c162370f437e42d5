"""The PF_KEY socket: one task per client, and `send` that is synchronous as AF_KEY's is.

For each record of a client:

1. look at it, and leave it in the queue;
2. hand it to the engine and obey the effects: nft has committed, the workers are told;
3. the replies are queued (of a dump: the first records);
4. only now take the record off the queue.

So a client whose SIOCOUTQ is 0 finds its reply. Who sends changes of policies one behind the other
without waiting has them committed together: all but the last are taken off the queue before, and
the replies come in the order of the requests. A queue belongs to one client: what does not fit
is dropped as AF_KEY drops it, except a dump's records, which wait for their reader and leave a
third of the queue to replies and notices.
"""

import contextlib
import itertools
import socket
from collections import deque
from collections.abc import Callable, Iterator
from errno import EAGAIN

import trio

from keyd.engine.effects import ClientId, Dump, Now, Send
from keyd.shell import wire
from keyd.shell.adopted import Registrations
from keyd.shell.applier import Applier
from keyd.shell.log import limited
from keyd.shell.ports import KeyEngine
from keyd.shell.tap import Tap
from pfkey.const import MsgType
from pfkey.dialect import LINUX, OPENBSD

LOG = limited("keyd.shell.serve")

CLIENTS = 1024
QUEUE_OCTETS = 8 << 20  # kernel memory: a message of 160 octets takes 768
_FIRST_RECORDS = 32  # of a dump, queued before its request is taken
_TURN_RECORDS = 16  # of a dump, before others get their turn
_TURN_REQUESTS = 4  # of one client that sends ahead: about half a millisecond
_TOGETHER = 64  # changes of policies of one client that nft is given at once
_AHEAD = 2 * _TOGETHER  # and that wait for it
_ABOUT_POLICIES = frozenset(  # OpenBSD has no such messages
    {MsgType.X_SPDADD, MsgType.X_SPDUPDATE, MsgType.X_SPDSETIDX, MsgType.X_SPDDELETE,
     MsgType.X_SPDDELETE2, MsgType.X_SPDFLUSH}
)  # fmt: skip

Told = Callable[[ClientId, Registrations], None]


class Client:
    """One connection: its queue and its dumps."""

    def __init__(self, sock: socket.socket, number: ClientId, tap: Tap, dialect: str) -> None:
        self.sock = sock
        self.number = number
        self.dialect = dialect
        self.pid, self.uid, _ = wire.credentials(sock)
        self.dropped = 0
        self.dumps: deque[Iterator[bytes]] = deque()
        self.dump_wanted = trio.Event()
        self.told: Told | None = None  # whom to tell of registrations
        self._held: bytes | None = None  # of the first dump: did not fit yet
        self._tap = tap
        room = wire.make_room(sock, QUEUE_OCTETS // 2)  # the kernel doubles it
        self._dump_room = room * 2 // 3

    def send(self, record: bytes) -> bool:
        """Queue a record or drop it."""
        if wire.send(self.sock, record):
            self.dropped += 1
            return False
        self.passed("out", record)
        return True

    def passed(self, direction: str, record: bytes) -> None:
        """Show a record to who looks on."""
        self._tap.passed(direction, self.number, self.pid, record, self.dialect)

    def pump(self, records: int) -> bool | None:
        """Send up to that many records of the first dump.

        True: it is complete. False: there is more. None: the queue is full.
        """
        dump = self.dumps[0]
        for _ in range(records):
            record = self._held if self._held is not None else next(dump, None)
            self._held = None
            if record is None:
                self.dumps.popleft()
                return True
            is_full = wire.waiting_out(self.sock) > self._dump_room
            error = EAGAIN if is_full else wire.send(self.sock, record)
            if error == EAGAIN:
                self._held = record
                return None
            if error:  # nobody will ever read it
                self.dumps.clear()
                return True
            self.passed("out", record)
        return False


class Server:
    """All clients. `admit` is for the listener, `send` and `dump` for the applier."""

    def __init__(
        self,
        engine: KeyEngine,
        *,
        applier: Applier,
        clock: Callable[[], Now],
        called: Callable[[], None],
        tap: Tap,
        nursery: trio.Nursery,
        most: int = CLIENTS,
    ) -> None:
        self.clients: dict[ClientId, Client] = {}
        self._engine = engine
        self._applier = applier
        self._clock = clock
        self._called = called
        self._tap = tap
        self._nursery = nursery
        self._most = most
        self._reader = wire.Reader()
        self._numbers = itertools.count(1)

    def admit(self, sock: socket.socket, dialect: str = LINUX.name) -> Client | None:
        """Begin to serve a connection in a dialect, or close it when there are too many."""
        if len(self.clients) >= self._most:
            LOG.warning("client-refused reason=too-many clients=%d", len(self.clients))
            sock.close()
            return None
        client = Client(sock, ClientId(next(self._numbers)), self._tap, dialect)
        self.clients[client.number] = client
        self._engine.connect(client.number, dialect)
        LOG.debug(
            "client-connected client=%d pid=%d uid=%d dialect=%s", client.number, client.pid,
            client.uid, dialect,
        )  # fmt: skip
        self._nursery.start_soon(self._serve, client)
        return client

    async def adopt(
        self, sock: socket.socket, had: Registrations, told: Told, dialect: str = LINUX.name
    ) -> tuple[ClientId | None, Registrations]:
        """Serve a socket that was handed to us, with what its client registered for before.

        `told` hears of each change of that, before the request is consumed. No number: too many.
        """
        client = self.admit(sock, dialect)
        if client is None:
            return None, had
        effects = self._engine.restore(
            client.number, had.satypes, is_promiscuous=had.is_promiscuous, now=self._clock(),
            knows_own=had.knows_own,
        )  # fmt: skip
        client.told = told
        has = self._registrations(client)
        self._called()
        await self._applier.obey(effects)
        return client.number, has

    def _registrations(self, client: Client) -> Registrations:
        return Registrations(*self._engine.registrations(client.number))

    def send(self, effect: Send) -> None:
        """Queue a record to a client that may be gone."""
        client = self.clients.get(effect.client)
        if client is not None and not client.send(effect.record):
            LOG.debug("record-dropped client=%d dropped=%d", client.number, client.dropped)

    def dump(self, effect: Dump) -> None:
        """Begin a dump: its first records now, the rest as the client reads."""
        client = self.clients.get(effect.client)
        if client is None:
            return
        client.dumps.append(effect.records)
        if len(client.dumps) > 1:
            return
        if client.pump(_FIRST_RECORDS):
            self._engine.dump_done(client.number)
        else:
            client.dump_wanted.set()

    async def _serve(self, client: Client) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dumps, client)
                await self._requests(client)
                nursery.cancel_scope.cancel()
        finally:
            self._applier.commit_now()
            del self.clients[client.number]
            trio.lowlevel.notify_closing(client.sock)
            client.sock.close()
            effects = self._engine.disconnect(client.number)
            self._called()
        LOG.debug("client-gone client=%d dropped=%d", client.number, client.dropped)
        await self._applier.obey(effects)

    async def _requests(self, client: Client) -> None:
        """Answer each record, until the client is gone."""
        changes = deque[trio.Event]()  # of policies, which are being committed
        waiting = 0  # octets in the queue, as far as we know: asking takes a walk along it
        for number in itertools.count(1):
            try:
                record = self._reader.look(client.sock)
            except BlockingIOError:
                waiting = 0
                self._applier.commit_now()
                await trio.lowlevel.wait_readable(client.sock)
                continue
            if record is None:
                return
            is_change = (
                client.dialect != OPENBSD.name and len(record) > 1 and record[1] in _ABOUT_POLICIES
            )
            while changes and changes[0].is_set():
                changes.popleft()
            if changes and not is_change:
                self._applier.commit_now()
                await changes.pop().wait()
                changes.clear()
            elif len(changes) >= _AHEAD:
                self._applier.commit_now()
                await changes.popleft().wait()
            client.passed("in", record)
            before = self._registrations(client) if client.told else None
            effects = self._engine.receive(client.number, record, self._clock())
            self._called()
            if is_change and waiting <= len(record):
                waiting = wire.waiting_in(client.sock)
            # what is behind keeps SIOCOUTQ from 0
            more = is_change and waiting > len(record)
            done = self._applier.begin(
                effects, is_behind=bool(changes), more=more and (len(changes) + 1) % _TOGETHER > 0
            )
            if done is not None:
                if more:
                    changes.append(done)
                else:
                    changes.clear()
                    await done.wait()
            if client.told and (now := self._registrations(client)) != before:
                client.told(client.number, now)
            wire.take(client.sock)
            waiting -= len(record) if len(record) < wire.RECORD_MAX else waiting  # one is cut there
            if number % _TURN_REQUESTS == 0:
                await trio.lowlevel.checkpoint()

    async def _dumps(self, client: Client) -> None:
        """Go on with the client's dumps as it reads."""
        while True:
            await client.dump_wanted.wait()
            client.dump_wanted = trio.Event()
            while client.dumps:
                done = client.pump(_TURN_RECORDS)
                if done:
                    self._engine.dump_done(client.number)
                if done is None:
                    with contextlib.suppress(OSError):
                        await trio.lowlevel.wait_writable(client.sock)
                await trio.lowlevel.checkpoint()
