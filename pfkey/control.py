"""Shell: pfkeyd's control socket, `<socket>.ctl`: JSON-RPC 2.0, one object a record."""

import json
import time
from pathlib import Path
from typing import Any

from pfkey.errors import ControlError, NoAnswerError, ShellError
from pfkey.link import ANSWER_SECONDS, Link, connected
from pfkey.transport import RECORD_OCTETS_MAX, control_path, open_unix, socket_path

CONTROL_OCTETS_MAX = 2 * RECORD_OCTETS_MAX + 4096  # such a record in hexadecimal, and JSON


class Control(Link):
    """pfkeyd's control socket. `path` is that of the PF_KEY socket beside it.

    Raises:
        ShellError: nobody listens there, or we may not.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = socket_path() if path is None else path
        beside = control_path(path)
        try:
            link = connected(lambda: open_unix(beside))
        except ShellError as error:
            what, remedy = (
                text.replace(str(beside), str(path)) for text in (error.what, error.remedy)
            )
            raise type(error)(what, remedy) from None
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
