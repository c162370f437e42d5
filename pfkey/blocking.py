"""Shell: a plain blocking client of pfkeyd, for setkey, scripts and small tools.

    with Connection() as engine:
        exchange = engine.request(Message(type=MsgType.DUMP, pid=os.getpid()))

The socket is SOCK_SEQPACKET, one PF_KEY message a record. Beside it `<socket>.ctl` speaks JSON-RPC
2.0, one object a record.
"""

import contextlib
import errno
import json
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pfkey.client import Exchange
from pfkey.errors import PfkeyError, ShellError
from pfkey.message import Message

RUN = Path("/run/pfkey")
NETNS = Path("/proc/self/ns/net")
RECORD_OCTETS_MAX = 65535 * 8  # sadb_msg_len is 16 bits of 64-bit words
CONTROL_OCTETS_MAX = 2 * RECORD_OCTETS_MAX + 4096  # such a record in hexadecimal, and JSON
ANSWER_SECONDS = 10.0


class ClosedError(ShellError):
    """The other side has gone."""


class NoAnswerError(ShellError):
    """The other side is there and says nothing."""


class ControlError(PfkeyError):
    """pfkeyd refused a control call; `code` is JSON-RPC's."""

    def __init__(self, method: str, code: int, why: str) -> None:
        self.method = method
        self.code = code
        super().__init__(f"{method}: {why}")


def socket_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this network namespace's pfkeyd listens.

    $PFKEY_SOCKET, unless this is a set-id program, else a path made of the namespace's inode: under
    /run/pfkey for root, under $XDG_RUNTIME_DIR/pfkey for others.
    """
    is_set_id = os.getuid() != os.geteuid() or os.getgid() != os.getegid()
    named = environ.get("PFKEY_SOCKET")
    if named and not is_set_id:
        return Path(named)
    name = f"{NETNS.stat().st_ino}.sock"
    runtime = environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and runtime and not is_set_id:
        return Path(runtime) / "pfkey" / name
    return RUN / name


def control_path(path: Path) -> Path:
    """The control socket beside a PF_KEY socket.

    Raises:
        ShellError: a path such as / names no file that something could be beside.
    """
    if not path.name:
        raise ShellError(f"{path} is no socket", "give another --socket PATH")
    return path.with_name(path.name + ".ctl")


def _connect(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _through(path) as address:
            link.connect(address)
    except OSError as error:
        link.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            what = f"no pfkeyd answers at {path}"
            raise ShellError(what, "start it with: pfkeyd &") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ShellError(f"{path}: {error.strerror}", "be root or in its group") from None
        if error.errno is None:  # Python's own: the last part alone is longer than an address
            raise ShellError(
                f"{path}: File name too long", "give a shorter --socket PATH"
            ) from None
        raise ShellError(f"{path}: {error.strerror}") from None
    return link


@contextlib.contextmanager
def _through(path: Path) -> Iterator[str]:
    """A name for `path` that fits sockaddr_un, whose paths end at 107 octets."""
    if len(os.fsencode(path)) < 108:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield str(path)[:107]  # not there, and refused with that reason
        return
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _Link:
    """A SEQPACKET connection: whole records, timeouts, and errors that say who is gone."""

    def __init__(self, link: socket.socket, octets: int = RECORD_OCTETS_MAX) -> None:
        self._socket = link
        self._buffer = bytearray(octets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close. What was registered ends."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, record: bytes) -> None:
        """Send one record.

        Raises:
            ClosedError: nobody is there any more.
        """
        try:
            self._socket.send(record, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionError):
            raise _closed() from None

    def recv(self, timeout: float | None = None) -> bytes | None:
        """The next record; None if none came within `timeout` seconds (None: wait for ever).

        Raises:
            ClosedError: the connection has ended.
        """
        if timeout is not None:
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            if not waiting.poll(max(0, int(timeout * 1000))):
                return None
        try:
            size = self._socket.recv_into(self._buffer)
        except ConnectionError:
            raise _closed() from None
        if size == 0:
            raise _closed()
        return bytes(memoryview(self._buffer)[:size])


def _closed() -> ClosedError:
    return ClosedError("pfkeyd closed the connection", "its log says why")


class Connection(_Link):
    """A PF_KEY socket of pfkeyd.

    Raises:
        ShellError: nobody listens there, or we may not.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(_connect(socket_path() if path is None else path))

    @classmethod
    def over(cls, link: socket.socket) -> Self:
        """A connection over a socket that exists: a real AF_KEY socket, or one half of a pair."""
        self = cls.__new__(cls)
        _Link.__init__(self, link)
        return self

    def request(self, message: Message, timeout: float = ANSWER_SECONDS) -> Exchange:
        """Send a request and wait for all its replies; `timeout` is the wait for each, in seconds.

        What others caused to be sent to us is dropped. The answer may be a refusal: see `errno`.

        Raises:
            ClosedError, NoAnswerError: the engine has gone, or is silent.
        """
        while self.recv(0) is not None:
            pass  # broadcasts, and late copies of what was answered before
        self.send(message.encode())
        exchange = Exchange(message)
        while not exchange.is_done:
            deadline = time.monotonic() + timeout
            while True:
                record = self.recv(max(0.0, deadline - time.monotonic()))
                if record is None:
                    raise NoAnswerError(f"pfkeyd did not answer within {timeout:g} s")
                if exchange.offer(record):
                    break
        return exchange


class Control(_Link):
    """pfkeyd's control socket. `path` is that of the PF_KEY socket beside it."""

    def __init__(self, path: Path | None = None) -> None:
        path = socket_path() if path is None else path
        try:
            link = _connect(control_path(path))
        except ShellError as error:
            raise ShellError(error.what.replace(f"{path}.ctl", str(path)), error.remedy) from None
        super().__init__(link, CONTROL_OCTETS_MAX)
        self._id = 0
        self._waiting: list[dict[str, Any]] = []

    def call(self, method: str, timeout: float = ANSWER_SECONDS, **params: Any) -> Any:
        """Call a method and return its result.

        Raises:
            ControlError: pfkeyd refused.
            ClosedError, NoAnswerError: pfkeyd has gone, or is silent.
        """
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        self.send(json.dumps(request).encode())
        deadline = time.monotonic() + timeout
        while True:
            answer = self._next(max(0.0, deadline - time.monotonic()))
            if answer is None:
                raise NoAnswerError(f"pfkeyd did not answer {method} within {timeout:g} s")
            if "method" in answer:
                self._waiting.append(answer)
            elif answer.get("id") == self._id:
                if "error" in answer:
                    fault = answer["error"]
                    raise ControlError(method, fault.get("code", 0), fault.get("message", ""))
                return answer.get("result")

    def notification(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next notification after `subscribe`; None if none came within `timeout` seconds."""
        if self._waiting:
            return self._waiting.pop(0)
        while True:
            answer = self._next(timeout)
            if answer is None or "method" in answer:
                return answer

    def _next(self, timeout: float | None) -> dict[str, Any] | None:
        record = self.recv(timeout)
        if record is None:
            return None
        try:
            answer = json.loads(record)
        except ValueError:
            raise ShellError("pfkeyd's control socket sent what is no JSON") from None
        if not isinstance(answer, dict):
            raise ShellError("pfkeyd's control socket sent what is no JSON object")
        return answer


def control_call(path: Path | None, method: str, **params: Any) -> Any:
    """One call on a connection of its own; `path` is the PF_KEY socket's, None the usual one."""
    with Control(path) as control:
        return control.call(method, **params)
