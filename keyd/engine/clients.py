"""Who is connected, registered and promiscuous, and who therefore hears what.

A message goes to one client, to all, or as a notice to those who registered; each hears it in its
own system's words and only if that system would tell it (`keyd.engine.manners`). A promiscuous
client also gets a copy of every message.

DEVIATION from the systems, which show keys to every socket: a message exists in two forms. The
private one goes to the client that asked, the public one, without keys, to everybody else
(`test_no_key_reaches_another_client`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, ENOBUFS

from keyd.engine.effects import ClientId, Send
from keyd.engine.manners import LINUX_MANNERS, MANNERS, Kin, Manners
from keyd.engine.told import Told
from pfkey.const import MsgType, SaType
from pfkey.dialect import LINUX
from pfkey.errors import SadbError

SATYPE_MAX = LINUX.satypes.highest


@dataclass(slots=True)
class Client:
    """What one connection has asked for; it ends with the connection."""

    manners: Manners = LINUX_MANNERS
    registered: set[int] = field(default_factory=set)
    is_promiscuous: bool = False
    is_dumping: bool = False

    def hears_notice(self, type: int, satype: int) -> bool:
        """Whether what nobody asked for is for this client."""
        manners = self.manners
        if type == MsgType.EXPIRE and manners.expires_to_all:
            return True
        if type == MsgType.ACQUIRE and manners.by_satype:
            return satype in self.registered
        return bool(self.registered)


class Clients:
    """The connected clients, in the order in which they came."""

    __slots__ = ("_asked", "_clients", "_curious", "_promiscuous", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clients: dict[ClientId, Client] = {}
        self._promiscuous = 0
        self._curious = 0  # those to whom not everything goes that they get
        self._asked: dict[int, frozenset[ClientId]] = {}

    def __contains__(self, client: object) -> bool:
        return client in self._clients

    def __len__(self) -> int:
        return len(self._clients)

    def __getitem__(self, client: ClientId) -> Client:
        return self._clients[client]

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    @property
    def has_promiscuous(self) -> bool:
        """Whether anybody hears everything."""
        return self._promiscuous > 0

    @property
    def has_registered(self) -> bool:
        """Whether anybody hears notices."""
        return any(client.registered for client in self._clients.values())

    def asked(self, satype: int) -> frozenset[ClientId]:
        """Who hears an ACQUIRE for an SA type; the same object until that changes."""
        names = frozenset(
            name
            for name, client in self._clients.items()
            if client.hears_notice(MsgType.ACQUIRE, satype)
        )
        if names != self._asked.get(satype):
            self._asked[satype] = names
        return self._asked[satype]

    def connect(self, client: ClientId, dialect: str = "linux") -> None:
        """Add a client.

        Raises:
            SadbError: ENOBUFS when there are as many as the engine takes.
        """
        if len(self._clients) >= self.limit:
            raise SadbError(ENOBUFS, f"{self.limit} clients are connected already")
        self._clients[client] = Client(MANNERS[dialect])
        self._count()

    def disconnect(self, client: ClientId) -> None:
        """Forget a client and all it asked for."""
        if self._clients.pop(client, None) is not None:
            self._count()

    def knows_own(self, client: ClientId) -> Manners:
        """A client has used an extension of our own, and is told such from now on."""
        known = self._clients[client]
        known.manners = known.manners.twin()
        return known.manners

    def set_promiscuous(self, client: ClientId, *, is_on: bool) -> None:
        """Show a client everything from now on, or no longer."""
        self._clients[client].is_promiscuous = is_on
        self._count()

    def _count(self) -> None:
        self._promiscuous = sum(client.is_promiscuous for client in self)
        self._curious = sum(client.is_promiscuous or client.manners.hears_all for client in self)

    def register(self, client: ClientId, satype: int) -> bool:
        """Note that the client wants notices; whether it did not until now.

        SA type 0 only asks for the lists.

        Raises:
            SadbError: EINVAL for no SA type; EEXIST for a second time.
        """
        manners = self._clients[client].manners
        is_linux = manners.kin is Kin.LINUX
        is_one = satype <= SATYPE_MAX or not is_linux
        if not is_one or (not is_linux and satype not in manners.dialect.satypes):
            raise SadbError(EINVAL, f"satype {satype} is none", "3.1.7")
        if satype == SaType.UNSPEC:
            return False
        registered = self._clients[client].registered
        if satype in registered:
            if manners.registers_again:
                return False
            raise SadbError(EEXIST, f"satype {satype} is registered already", "3.1.7")
        registered.add(satype)
        return len(registered) == 1

    def one(self, receiver: ClientId, told: Told) -> list[Send]:
        """For one client, its keys included; and for those whose system tells everybody.

        Raises:
            SadbError: EINVAL if its dialect has no word for it.
        """
        if not self._curious:
            return [Send(receiver, _needed(told, self._clients[receiver], keys=True))]
        sends, own = [], []
        for name, client in self._clients.items():
            if name == receiver:
                *copies, reply = self._for(name, client, told, is_asking=True, is_heard=True)
                sends += copies
                own = [reply]
            else:
                sends += self._for(name, client, told, is_heard=client.manners.hears_all)
        return [*sends, *own]

    def all(self, told: Told, sender: ClientId | None = None) -> list[Send]:
        """For everybody; only `sender` gets the keys.

        Raises:
            SadbError: EINVAL if the sender's dialect has no word for it.
        """
        sends: list[Send] = []
        manners, public = None, None
        for name, client in self._clients.items():
            if client.is_promiscuous or name == sender:
                sends += self._for(name, client, told, is_asking=name == sender, is_heard=True)
                continue
            if client.manners is not manners:  # most speak as the one before
                manners = client.manners
                public = told.octets(manners)
            if public is not None:
                sends.append(Send(name, public))
        return sends

    def notice(self, told: Told) -> list[Send]:
        """For those who are to hear of what nobody asked for."""
        sends = []
        for name, client in self._clients.items():
            is_heard = client.hears_notice(told.type, told.satype)
            if is_heard or client.is_promiscuous:
                sends += self._for(name, client, told, is_heard=is_heard)
        return sends

    def registered(self, told: Told, sender: ClientId) -> list[Send]:
        """For every client that registered any SA type, and last for `sender`."""
        sends, own = [], []
        for name, client in self._clients.items():
            if name == sender:
                *copies, reply = self._for(name, client, told, is_asking=True, is_heard=True)
                sends += copies
                own = [reply]
            elif client.registered or client.is_promiscuous or client.manners.hears_all:
                is_heard = bool(client.registered) or client.manners.hears_all
                sends += self._for(name, client, told, is_heard=is_heard)
        return [*sends, *own]

    def copies(
        self, receiver: ClientId, told: Told, *, is_request: bool = False, seq: int = 0
    ) -> list[Send]:
        """Copies for the promiscuous of what goes to one client, or comes from it."""
        sends = []
        for name, client in self._clients.items():
            manners = client.manners
            if not client.is_promiscuous or (is_request and not manners.copies_requests):
                continue
            if name == receiver and not is_request and manners.kin is Kin.OPENBSD:
                continue
            octets = told.octets(manners, keys=name == receiver)
            if octets is not None:
                sends.append(Send(name, manners.wrapped(octets, seq)))
        return sends

    def _for(
        self,
        name: ClientId,
        client: Client,
        told: Told,
        *,
        is_asking: bool = False,
        is_heard: bool,
    ) -> list[Send]:
        """What one client gets: a copy if it is promiscuous, and the message if it is to hear it.

        On OpenBSD a promiscuous client gets no copy of what it hears anyway.
        """
        is_copied = client.is_promiscuous
        if is_copied and is_heard and client.manners.kin is Kin.OPENBSD:
            is_copied = False
        if not is_copied and not is_heard:
            return []
        if is_asking:
            octets: bytes | None = _needed(told, client, keys=True)
        else:
            octets = told.octets(client.manners)
        if octets is None:
            return []
        own = [Send(name, octets)] if is_heard else []
        return [Send(name, client.manners.wrapped(octets)), *own] if is_copied else own


def _needed(told: Told, client: Client, *, keys: bool) -> bytes:
    octets = told.octets(client.manners, keys=keys)
    if octets is None:
        name = client.manners.dialect.name
        raise SadbError(EINVAL, f"the answer cannot be said in the dialect {name}")
    return octets
