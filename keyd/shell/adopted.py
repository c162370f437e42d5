"""PF_KEY clients whose socket comes as a descriptor.

    adopt        params {registered, promiscuous, knows_own, dialect}, and a connected
                 SOCK_SEQPACKET socket: serve it as a PF_KEY socket in that dialect, `linux` unless
                 it is said. {client, registered, promiscuous, knows_own}; from now on a
                 notification `client` of that form when it registers for more, or uses an
                 extension of our own (`knows_own`), after which it is told such

`pfkey run` makes a pair of sockets, gives a program one end, us the other, and keeps a copy of
ours: so a program never reads an end when we die, and our successor adopts the same socket.
"""

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from keyd.engine.effects import ClientId
from keyd.shell.rpc import INVALID_PARAMS, NO_ROOM, RpcError
from pfkey.const import SaType
from pfkey.dialect import DIALECTS, LINUX

ADOPT_PARAMS = ("registered", "promiscuous", "knows_own", "dialect")
_SO_DOMAIN = 39
_SATYPES = frozenset(SaType) - {SaType.UNSPEC}


@dataclass(frozen=True, slots=True)
class Registrations:
    """What a client has asked to hear: SA types it registered for, everything, our extensions."""

    satypes: tuple[int, ...] = ()
    is_promiscuous: bool = False
    knows_own: bool = False

    @classmethod
    def of(cls, params: dict[str, Any]) -> Self:
        """From the parameters of a call.

        Raises:
            RpcError: they are of another form.
        """
        satypes = params.get("registered", [])
        if not isinstance(satypes, list) or not all(_is_satype(one) for one in satypes):
            raise RpcError(INVALID_PARAMS, "registered must be a list of SA types")
        for name in ("promiscuous", "knows_own"):
            if not isinstance(params.get(name, False), bool):
                raise RpcError(INVALID_PARAMS, f"{name} must be true or false")
        return cls(
            tuple(sorted(set(satypes))), params.get("promiscuous", False),
            params.get("knows_own", False),
        )  # fmt: skip

    def to_json(self, client: ClientId) -> dict[str, Any]:
        """As the notification `client` has it."""
        return {
            "client": client,
            "registered": list(self.satypes),
            "promiscuous": self.is_promiscuous,
            "knows_own": self.knows_own,
        }


class Told(Protocol):
    """A control connection."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell something that it need not have asked for."""


Adopt = Callable[
    [socket.socket, Registrations, Callable[[ClientId, Registrations], None], str],
    Awaitable[tuple[ClientId | None, Registrations]],
]


async def adopt(serve: Adopt, peer: Told, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
    """Have a socket served; see the module's text.

    Raises:
        RpcError: the socket or the parameters are of another form, or there are too many clients.
    """

    def tell(client: ClientId, has: Registrations) -> None:
        peer.notify("client", has.to_json(client))

    had = Registrations.of(params)
    dialect = params.get("dialect", LINUX.name)
    if not isinstance(dialect, str) or dialect not in DIALECTS:
        raise RpcError(INVALID_PARAMS, f"dialect must be one of {', '.join(DIALECTS)}")
    number, has = await serve(client_socket(fd), had, tell, dialect)
    if number is None:
        raise RpcError(NO_ROOM, "too many clients")
    return has.to_json(number)


def _is_satype(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _SATYPES


def client_socket(fd: int | None) -> socket.socket:
    """A socket of the only kind that can be served, from a copy of the descriptor.

    Raises:
        RpcError: there is none, or it is something else.
    """
    if fd is None:
        raise RpcError(INVALID_PARAMS, "adopt needs a descriptor, as SCM_RIGHTS")
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise RpcError(INVALID_PARAMS, "the descriptor is no socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(fd))
    kind = (_option(sock, _SO_DOMAIN), _option(sock, socket.SO_TYPE))
    if kind != (socket.AF_UNIX, socket.SOCK_SEQPACKET) or not _is_connected(sock):
        sock.close()
        raise RpcError(INVALID_PARAMS, "the socket is no connected Unix SOCK_SEQPACKET")
    return sock


def _option(sock: socket.socket, name: int) -> int:
    return int(sock.getsockopt(socket.SOL_SOCKET, name))


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
