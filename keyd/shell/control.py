"""The control socket `<socket>.ctl`: JSON-RPC 2.0 for counters, live state and onlookers.

    version      {version, schema_version}
    status       pid, namespace, databases, clients, workers
    counters     {schema_version, counters: {group: {name: n}}}
    policies     params {after}: {schema_version, policies, next}: what was done under policies
                 whose ids follow; {after: next} has more, unless it is null
    log_level    params {level}: sets it; without, tells it
    sysctl       params {name}: {schema_version, values: {name: n}} of it and all below it, of all
                 where it is ""; with {value}: sets it, {before, value}
    subscribe    params {show_keys}: from now on each PF_KEY record as a notification `message`
    adopt        with a socket as SCM_RIGHTS, see `keyd.shell.adopted`
    set_policy, get_policy, set_mark, set_group, set_encap, get_encap
                 with a socket or a directory as SCM_RIGHTS, see `keyd.shell.socket_policies`

The socket is open to everybody. Who may not speak PF_KEY may ask for the version, and give sockets
the policies that users may.

A notification that does not fit its subscriber's queue is dropped; `lost` tells how many.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from errno import EAGAIN
from typing import Any

import trio

from keyd.engine.public import without_keys
from keyd.shell import rpc, wire
from keyd.shell.knobs import Knobs
from keyd.shell.log import LEVELS, current_level, limited, set_level
from keyd.shell.options import program_version
from keyd.shell.rpc import Call, RpcError
from keyd.shell.tap import Tap
from pfkey.dialect import DIALECTS

LOG = limited("keyd.shell.control")

SCHEMA_VERSION = 1
CONNECTIONS = 256
STRANGERS, STRANGERS_EACH = 64, 8  # connections of users who may not speak PF_KEY; of each of them
FOR_ALL = frozenset(("version", "set_policy", "get_policy", "set_group", "set_encap", "get_encap"))
_REQUEST_OCTETS = 1 << 16
_QUEUE_OCTETS = 4 << 20

Counters = dict[str, dict[str, int]]
# what a method does with a descriptor, and the names of its parameters
Handed = Callable[["Peer", int | None, dict[str, Any]], Awaitable[dict[str, Any]]]


class Peer:
    """One connection to the control socket; a stranger may call little."""

    def __init__(self, sock: socket.socket, *, is_stranger: bool = False) -> None:
        self.sock = sock
        self.is_stranger = is_stranger
        _, self.uid, _ = wire.credentials(sock)
        self.shows_keys = False
        self.lost = 0
        wire.make_room(sock, _QUEUE_OCTETS)

    def watch(self, direction: str, client: int, pid: int, record: bytes, dialect: str) -> None:
        """Tell of a PF_KEY record, or count that it was lost."""
        if self.lost and not self._send("lost", {"count": self.lost}):
            self.lost = 0
        shown = record
        if not self.shows_keys:
            shown = without_keys(record, dialect=DIALECTS[dialect])
        params = {
            "time": time.time(), "client": client, "pid": pid, "direction": direction,
            "dialect": dialect, "hex": shown.hex(),
        }  # fmt: skip
        if self._send("message", params):
            self.lost += 1

    def check_user(self, params: dict[str, Any]) -> None:
        """A stranger speaks for itself alone.

        Raises:
            RpcError: it does not.
        """
        if self.is_stranger and params.get("uid") != self.uid:
            raise RpcError(rpc.NOT_PERMITTED, f"uid must be your own, {self.uid}")

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell something that it need not have asked for."""
        self._send(method, params)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        return wire.send(self.sock, rpc.encode_notification(method, params))


class Control:
    """All control connections. `status` and `counters` come from the daemon."""

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        counters: Callable[[], Awaitable[Counters]],
        policies: Callable[[int], list[dict[str, Any]]],
        knobs: Knobs,
        handed: Mapping[str, tuple[Handed, tuple[str, ...]]],
        tap: Tap,
        nursery: trio.Nursery,
    ) -> None:
        self._status = status
        self._counters = counters
        self._policies = policies
        self._knobs = knobs
        self._handed = handed
        self._tap = tap
        self._nursery = nursery
        self._reader = wire.Reader(_REQUEST_OCTETS)
        self._count = 0
        self._strangers: list[int] = []

    def admit(self, sock: socket.socket) -> None:
        """Begin to serve a connection, or close it when there are too many."""
        if self._count >= CONNECTIONS:
            LOG.warning("control-refused reason=too-many connections=%d", self._count)
            sock.close()
            return
        self._count += 1
        self._nursery.start_soon(self._serve, Peer(sock))

    def admit_stranger(self, sock: socket.socket) -> None:
        """The same for a user who may set policies of sockets and no more."""
        peer = Peer(sock, is_stranger=True)
        if len(self._strangers) >= STRANGERS or self._strangers.count(peer.uid) >= STRANGERS_EACH:
            LOG.warning("control-refused reason=too-many uid=%d", peer.uid)
            sock.close()
            return
        self._strangers.append(peer.uid)
        self._nursery.start_soon(self._serve, peer)

    async def _serve(self, peer: Peer) -> None:
        try:
            await self._requests(peer)
        finally:
            if peer.is_stranger:
                self._strangers.remove(peer.uid)
            else:
                self._count -= 1
            self._tap.remove(peer.watch)
            trio.lowlevel.notify_closing(peer.sock)
            peer.sock.close()

    async def _requests(self, peer: Peer) -> None:
        """Answer each record, until the peer is gone or will read no more."""
        while True:
            try:
                octets = self._reader.look(peer.sock)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(peer.sock)
                continue
            if octets is None:
                return
            fd = wire.take_descriptor(peer.sock)
            try:
                answer = await self._answer(peer, octets, fd)
            finally:
                if fd is not None:
                    os.close(fd)
            while answer and (error := wire.send(peer.sock, answer)):
                if error != EAGAIN:
                    return
                await trio.lowlevel.wait_writable(peer.sock)
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def _answer(self, peer: Peer, octets: bytes, fd: int | None) -> bytes:
        try:
            call = rpc.decode(octets)
        except RpcError as error:
            return rpc.encode_error(None, error)
        try:
            result = await self._do(peer, call, fd)
        except RpcError as error:
            return rpc.encode_error(call.id, error) if call.wants_reply else b""
        return rpc.encode_result(call.id, result) if call.wants_reply else b""

    async def _do(self, peer: Peer, call: Call, fd: int | None) -> object:
        if peer.is_stranger and call.method not in FOR_ALL:
            raise RpcError(rpc.NOT_PERMITTED, "be root or in the group of pfkeyd --group")
        match call.method:
            case "version":
                _only(call)
                return {"version": program_version(), "schema_version": SCHEMA_VERSION}
            case "status":
                _only(call)
                return self._status()
            case "counters":
                _only(call)
                return {"schema_version": SCHEMA_VERSION, "counters": await self._counters()}
            case "policies":
                _only(call, "after")
                return self._counted(call.params.get("after", 0))
            case "log_level":
                _only(call, "level")
                return _log_level(peer, call.params.get("level"))
            case "sysctl":
                _only(call, "name", "value")
                return await self._sysctl(peer, call.params)
            case "subscribe":
                _only(call, "show_keys")
                return self._subscribe(peer, call.params.get("show_keys", False))
        if call.method in self._handed:
            handle, names = self._handed[call.method]
            _only(call, *names)
            return await handle(peer, fd, call.params)
        raise RpcError(rpc.METHOD_NOT_FOUND, f"no method {call.method[:40]!r}")

    async def _sysctl(self, peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
        name, value = params.get("name", ""), params.get("value")
        if not isinstance(name, str):
            raise RpcError(rpc.INVALID_PARAMS, "name must be text")
        if value is None:
            return {"schema_version": SCHEMA_VERSION, "values": await self._knobs.read(name)}
        if not isinstance(value, int) or isinstance(value, bool):
            raise RpcError(rpc.INVALID_PARAMS, "value must be a whole number")
        if not _is_master(peer):
            raise RpcError(rpc.NOT_PERMITTED, "only root may change a value")
        return dict(await self._knobs.write(name, value))

    def _counted(self, after: object) -> dict[str, Any]:
        if not isinstance(after, int) or isinstance(after, bool):
            raise RpcError(rpc.INVALID_PARAMS, "after must be a whole number")
        found = self._policies(after)
        following = found[-1]["id"] if found else None
        return {"schema_version": SCHEMA_VERSION, "policies": found, "next": following}

    def _subscribe(self, peer: Peer, show_keys: object) -> dict[str, Any]:
        if not isinstance(show_keys, bool):
            raise RpcError(rpc.INVALID_PARAMS, "show_keys must be true or false")
        if show_keys and not _is_master(peer):
            raise RpcError(rpc.NOT_PERMITTED, "only root may see keys")
        peer.shows_keys = show_keys
        self._tap.add(peer.watch)
        return {"subscribed": True, "show_keys": show_keys}


def _only(call: Call, *names: str) -> None:
    for name in call.params:
        if name not in names:
            raise RpcError(rpc.INVALID_PARAMS, f"{call.method} takes no {name[:40]!r}")


def _is_master(peer: Peer) -> bool:
    return peer.uid in (0, os.geteuid())


def _log_level(peer: Peer, level: object) -> dict[str, str]:
    if level is not None:
        if level not in LEVELS:
            raise RpcError(rpc.INVALID_PARAMS, f"level must be one of {', '.join(LEVELS)}")
        if not _is_master(peer):
            raise RpcError(rpc.NOT_PERMITTED, "only root may change the log level")
        set_level(str(level))
    return {"level": current_level()}
