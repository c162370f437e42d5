"""Shell: whole records over a socket that blocks for as long as one says."""

import errno
import math
import select
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pfkey.errors import AbsentError, ClosedError, NoAnswerError
from pfkey.transport import RECORD_OCTETS_MAX

ANSWER_SECONDS = 10.0
RETRY_SECONDS = 0.02
_POLL_MAX = 0x7FFFFFFF  # milliseconds, 24 days


class Link:
    """A connection that keeps the bounds of records: timeouts, and errors that say who is gone."""

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

    def send(self, record: bytes, timeout: float = ANSWER_SECONDS) -> None:
        """Send one record.

        Raises:
            ClosedError: nobody is there any more.
            NoAnswerError: the other side reads nothing.
            OSError: the record is none that can be sent; AF_KEY looks at its header.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket.send(record, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                if not self._wait(select.POLLOUT, deadline):
                    raise no_answer(timeout) from None
            except ConnectionError:
                raise closed() from None
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise own_end() from None
                raise

    def recv(self, timeout: float | None = None) -> bytes | None:
        """The next record; None if none came within `timeout` seconds (None: wait for ever).

        Raises:
            ClosedError: the connection has ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._wait(select.POLLIN, deadline):
                    return None
                continue
            except ConnectionError:
                raise closed() from None
            except OSError as error:
                raise broken(error) from None
            if size == 0:
                raise closed()
            return bytes(memoryview(self._buffer)[:size])

    def _wait(self, events: int, deadline: float | None) -> bool:
        milliseconds = None
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            milliseconds = math.ceil(min(left * 1000, _POLL_MAX))
        waiting = select.poll()
        waiting.register(self._socket, events)
        return bool(waiting.poll(milliseconds))


def no_answer(timeout: float) -> NoAnswerError:
    """The error for an engine that takes no request or gives no answer."""
    return NoAnswerError(f"pfkeyd did not answer within {timeout:g} s")


def closed() -> ClosedError:
    """The error for a connection that the engine has ended."""
    return ClosedError("pfkeyd closed the connection", "its log says why")


def broken(error: OSError) -> ClosedError:
    """The error for a connection of which the system says that it is none any more."""
    if error.errno == errno.EBADF:
        return own_end()
    return ClosedError(f"the connection to pfkeyd broke: {error.strerror}", "connect anew")


def own_end() -> ClosedError:
    """The error for the use of a connection that we have closed."""
    return ClosedError("this connection is closed", "connect anew")


def connected(
    once: Callable[[], socket.socket | None], *, wait: float = 0.0, timeout: float = ANSWER_SECONDS
) -> socket.socket:
    """Try until a key engine is there and takes us: `wait` seconds for the first, `timeout` more.

    Raises:
        AbsentError: nobody is there.
        NoAnswerError: somebody is, and does not take us.
        ShellError: we may not.
    """
    began = time.monotonic()
    while True:
        try:
            link = once()
        except AbsentError:
            if time.monotonic() - began >= wait:
                raise
        else:
            if link is not None:
                return link
            if time.monotonic() - began >= wait + timeout:
                raise NoAnswerError(f"pfkeyd takes no connection within {timeout:g} s")
        time.sleep(RETRY_SECONDS)
