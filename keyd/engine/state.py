"""What the handlers work on, and the request they are given."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from keyd.engine.acquires import Acquires
from keyd.engine.clients import Clients
from keyd.engine.effects import ClientId, Now, Send
from keyd.engine.lifetimes import Schedule
from keyd.engine.manners import LINUX_MANNERS, Manners
from keyd.engine.proposal import Proposals
from keyd.engine.refusal import refusal
from keyd.engine.reqids import Reqids
from keyd.engine.sad import Sad, SaRecord
from keyd.engine.socket_policies import SocketPolicies
from keyd.engine.spd import Spd
from keyd.engine.sysctl import Sysctls
from keyd.model import Settings, Usage
from pfkey.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the engine keeps; each bound is refused with ENOBUFS when reached."""

    clients: int = 1024
    sas: int = 1_000_000
    larvals: int = 65_536  # of them
    policies: int = 65_536
    acquires: int = 4_096  # needs that clients have been asked for
    socket_pairs: int = 88  # pairs of policies of sockets, see `keyd.shell.marks`
    promiscuous_dump: int = 1024  # records of another client's dump that are copied


@dataclass(slots=True, kw_only=True)
class State:
    """Both databases, the clients, and what the shell lends."""

    clients: Clients
    sad: Sad
    spd: Spd
    reqids: Reqids
    schedule: Schedule
    limits: Limits
    sockets: SocketPolicies
    sysctl: Sysctls
    acquires: Acquires
    proposals: Proposals
    usable: Container[tuple[str, int]]  # (kind, number) of what this machine does
    usage: Callable[[int], Usage]
    pick: Callable[[int, int], int]
    is_own: Callable[[bytes], bool]  # whether an address is this host's
    told: Settings = field(default_factory=Settings)  # what the data path knows
    warned: set[str] = field(default_factory=set)  # legacy algorithms the log has named

    def usage_of(self, sa: SaRecord) -> Usage:
        """What the data path did with an SA, also after its end."""
        return self.usage(sa.spec.slot) if sa.final_usage is None else sa.final_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message of a client, decoded and said in the one way (`pfkey.neutral`).

    `octets` are those that came. `copies` are what promiscuous clients get of it, to be sent when
    its changes have been made.
    """

    client: ClientId
    message: Message
    now: Now
    clients: Clients
    octets: bytes
    manners: Manners = LINUX_MANNERS
    copies: tuple[Send, ...] = ()

    def refusal(self, errno: int) -> tuple[Send, ...]:
        """The error reply, for effects that may yet fail."""
        told = refusal(self.octets, self.message.type, self.manners, errno)
        return (*self.copies, *self.clients.one(self.client, told))
