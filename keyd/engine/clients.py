"""Who is connected, registered and promiscuous, and who therefore hears what.

Delivery is Linux's: one client; all; the registered ones (a registration for any SA type hears
every type). A promiscuous client gets a raw copy of every message in or out, unwrapped, besides
its own copies.

DEVIATION from Linux, which shows every key to every socket: a message exists in two forms. The
private one goes to the client that asked, the public one, without keys, to everybody else
(`test_no_key_reaches_another_client`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, ENOBUFS

from keyd.engine.effects import ClientId, Send
from pfkey.const import SaType
from pfkey.dialect import LINUX
from pfkey.errors import SadbError

SATYPE_MAX = LINUX.satypes.highest


@dataclass(slots=True)
class Client:
    """What one connection has asked for; it ends with the connection."""

    dialect: str = "linux"
    registered: set[int] = field(default_factory=set)
    is_promiscuous: bool = False
    is_dumping: bool = False
    knows_own: bool = False  # it has used an extension of our own


class Clients:
    """The connected clients, in the order in which they came."""

    __slots__ = ("_clients", "_registered", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clients: dict[ClientId, Client] = {}
        self._registered: frozenset[ClientId] = frozenset()

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
        return any(client.is_promiscuous for client in self._clients.values())

    @property
    def has_registered(self) -> bool:
        """Whether anybody hears notices."""
        return any(client.registered for client in self._clients.values())

    def registered_names(self) -> frozenset[ClientId]:
        """Who does; the same object until that changes."""
        names = frozenset(name for name, client in self._clients.items() if client.registered)
        if names != self._registered:
            self._registered = names
        return self._registered

    def connect(self, client: ClientId, dialect: str = "linux") -> None:
        """Add a client.

        Raises:
            SadbError: ENOBUFS when there are as many as the engine takes.
        """
        if len(self._clients) >= self.limit:
            raise SadbError(ENOBUFS, f"{self.limit} clients are connected already")
        self._clients[client] = Client(dialect)

    def disconnect(self, client: ClientId) -> None:
        """Forget a client and all it asked for."""
        self._clients.pop(client, None)

    def register(self, client: ClientId, satype: int) -> bool:
        """Note that the client wants notices; whether it did not until now.

        SA type 0 only asks for the lists.

        Raises:
            SadbError: EINVAL for no SA type; EEXIST for a second time.
        """
        if satype > SATYPE_MAX:
            raise SadbError(EINVAL, f"satype {satype} is none", "3.1.7")
        if satype == SaType.UNSPEC:
            return False
        registered = self._clients[client].registered
        if satype in registered:
            raise SadbError(EEXIST, f"satype {satype} is registered already", "3.1.7")
        registered.add(satype)
        return len(registered) == 1

    def copies(self, sender: ClientId, private: bytes, public: bytes) -> list[Send]:
        """Raw copies of a message for the promiscuous, whoever it is for."""
        return [
            Send(name, private if name == sender else public)
            for name, client in self._clients.items()
            if client.is_promiscuous
        ]

    def one(self, receiver: ClientId, private: bytes, public: bytes | None = None) -> list[Send]:
        """For one client."""
        copies = self.copies(receiver, private, private if public is None else public)
        return [*copies, Send(receiver, private)]

    def all(
        self, private: bytes, public: bytes | None = None, sender: ClientId | None = None
    ) -> list[Send]:
        """For everybody; only `sender` gets the private form."""
        sends = []
        for name, client in self._clients.items():
            octets = private if public is None or name == sender else public
            sends += [Send(name, octets)] * (2 if client.is_promiscuous else 1)
        return sends

    def registered(self, octets: bytes, sender: ClientId | None = None) -> list[Send]:
        """For every client that registered any SA type, and last for `sender`."""
        sends = []
        for name, client in self._clients.items():
            if client.is_promiscuous:
                sends.append(Send(name, octets))
            if client.registered and name != sender:
                sends.append(Send(name, octets))
        if sender is not None:
            sends.append(Send(sender, octets))
        return sends
