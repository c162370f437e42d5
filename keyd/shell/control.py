"""The control socket `<socket>.ctl`: JSON-RPC 2.0 for counters, live state and onlookers.

    version      {version, schema_version}
    status       pid, namespace, databases, clients, workers
    counters     {schema_version, counters: {group: {name: n}}}
    log_level    params {level}: sets it; without, tells it
    sysctl       params {name}: {schema_version, values: {name: n}} of it and all below it, of all
                 where it is ""; with {value}: sets it, {before, value}
    subscribe    params {show_keys}: from now on each PF_KEY record as a notification `message`

A notification that does not fit its subscriber's queue is dropped; `lost` tells how many.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable
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
_REQUEST_OCTETS = 1 << 16
_QUEUE_OCTETS = 4 << 20

Counters = dict[str, dict[str, int]]


class Peer:
    """One connection to the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
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

    def _send(self, method: str, params: dict[str, Any]) -> int:
        return wire.send(self.sock, rpc.encode_notification(method, params))


class Control:
    """All control connections. `status` and `counters` come from the daemon."""

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        counters: Callable[[], Awaitable[Counters]],
        knobs: Knobs,
        tap: Tap,
        nursery: trio.Nursery,
    ) -> None:
        self._status = status
        self._counters = counters
        self._knobs = knobs
        self._tap = tap
        self._nursery = nursery
        self._reader = wire.Reader(_REQUEST_OCTETS)
        self._count = 0

    def admit(self, sock: socket.socket) -> None:
        """Begin to serve a connection, or close it when there are too many."""
        if self._count >= CONNECTIONS:
            LOG.warning("control-refused reason=too-many connections=%d", self._count)
            sock.close()
            return
        self._count += 1
        self._nursery.start_soon(self._serve, sock)

    async def _serve(self, sock: socket.socket) -> None:
        peer = Peer(sock)
        try:
            await self._requests(peer)
        finally:
            self._count -= 1
            self._tap.remove(peer.watch)
            trio.lowlevel.notify_closing(sock)
            sock.close()

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
            wire.take(peer.sock)
            answer = await self._answer(peer, octets)
            while answer and (error := wire.send(peer.sock, answer)):
                if error != EAGAIN:
                    return
                await trio.lowlevel.wait_writable(peer.sock)
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def _answer(self, peer: Peer, octets: bytes) -> bytes:
        try:
            call = rpc.decode(octets)
        except RpcError as error:
            return rpc.encode_error(None, error)
        try:
            result = await self._do(peer, call)
        except RpcError as error:
            return rpc.encode_error(call.id, error) if call.wants_reply else b""
        return rpc.encode_result(call.id, result) if call.wants_reply else b""

    async def _do(self, peer: Peer, call: Call) -> object:
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
            case "log_level":
                _only(call, "level")
                return _log_level(peer, call.params.get("level"))
            case "sysctl":
                _only(call, "name", "value")
                return await self._sysctl(peer, call.params)
            case "subscribe":
                _only(call, "show_keys")
                return self._subscribe(peer, call.params.get("show_keys", False))
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
