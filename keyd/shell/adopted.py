"""PF_KEY clients whose socket comes as a descriptor: `adopt` on the control socket.

`pfkey run` makes a pair of sockets, gives a program one end, us the other, and keeps a copy of
ours: so a program never reads an end when we die, and our successor adopts the same socket.
"""

import os
import socket
import stat
from dataclasses import dataclass
from typing import Any, Self

from keyd.engine.effects import ClientId
from keyd.shell.rpc import INVALID_PARAMS, RpcError
from pfkey.const import SaType

_SO_DOMAIN = 39


@dataclass(frozen=True, slots=True)
class Registrations:
    """What a client has asked to hear: SA types it registered for, or everything."""

    satypes: tuple[int, ...] = ()
    is_promiscuous: bool = False

    @classmethod
    def of(cls, params: dict[str, Any]) -> Self:
        """From the parameters of a call.

        Raises:
            RpcError: they are of another form.
        """
        satypes = params.get("registered", [])
        if not isinstance(satypes, list) or not all(_is_satype(one) for one in satypes):
            raise RpcError(INVALID_PARAMS, "registered must be a list of SA types")
        promiscuous = params.get("promiscuous", False)
        if not isinstance(promiscuous, bool):
            raise RpcError(INVALID_PARAMS, "promiscuous must be true or false")
        return cls(tuple(sorted(set(satypes))), promiscuous)

    def to_json(self, client: ClientId) -> dict[str, Any]:
        """As the notification `client` has it."""
        return {
            "client": client,
            "registered": list(self.satypes),
            "promiscuous": self.is_promiscuous,
        }


def _is_satype(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= max(SaType)


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
