"""JSON-RPC 2.0, one object a record: octets to a call, a result or an error to octets."""

import json
from dataclasses import dataclass
from typing import Any, Never

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
NOT_PERMITTED = -32001  # ours: the peer's rights do not suffice
REFUSED = -32002  # ours: the system would not have it
NO_ROOM = -32003  # ours: a limit is reached

Id = str | int | None


class RpcError(Exception):
    """What goes back in `error`."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Without `wants_reply` it is a notification."""

    method: str
    params: dict[str, Any]
    id: Id
    wants_reply: bool


def _no_constant(word: str) -> Never:
    raise ValueError(f"{word} is not JSON")


def decode(octets: bytes) -> Call:
    """Read one request.

    Raises:
        RpcError: with its `id` unknown, so the answer's is null.
    """
    try:
        o = json.loads(octets.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RpcError(PARSE_ERROR, "not JSON") from None
    if not isinstance(o, dict) or o.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, "not one JSON-RPC 2.0 object")
    method, params, identity = o.get("method"), o.get("params", {}), o.get("id")
    if not isinstance(method, str) or isinstance(identity, bool | list | dict | float):
        raise RpcError(INVALID_REQUEST, "method must be text; id text, a whole number or null")
    if isinstance(params, list):
        params = {"": params} if params else {}
    if not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "params must be an object")
    return Call(method, params, identity, "id" in o)


def encode_result(identity: Id, result: object) -> bytes:
    """A reply."""
    return _encode({"jsonrpc": "2.0", "id": identity, "result": result})


def encode_error(identity: Id, error: RpcError) -> bytes:
    """A refusal."""
    said: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        said["data"] = error.data
    return _encode({"jsonrpc": "2.0", "id": identity, "error": said})


def encode_notification(method: str, params: dict[str, Any]) -> bytes:
    """What nobody answers."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


def _encode(o: dict[str, Any]) -> bytes:
    return json.dumps(o, separators=(",", ":")).encode()
