"""The control socket's client: results, refusals, notifications."""

import json
import socket
from pathlib import Path

import pytest

from pfkey.control import Control, control_call
from pfkey.errors import ControlError, ShellError
from tests.pfkey.peer import server


def _answer(link: socket.socket, **answer: object) -> None:
    request = json.loads(link.recv(4096))
    assert request["jsonrpc"] == "2.0"
    link.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}).encode())


def _notify(link: socket.socket, number: int) -> None:
    message = {"jsonrpc": "2.0", "method": "message", "params": {"n": number}}
    link.send(json.dumps(message).encode())


def test_control_calls_return_results_and_keep_notifications(tmp_path: Path) -> None:
    def talk(link: socket.socket) -> None:
        _notify(link, 1)
        _answer(link, result={"x": 1})
        _notify(link, 2)
        link.recv(1)

    with server(tmp_path / "s.ctl", talk), Control(tmp_path / "s") as control:
        assert control.call("subscribe", show_keys=True) == {"x": 1}
        for number in (1, 2):
            found = control.notification(5)
            assert found is not None
            assert found["params"] == {"n": number}
        assert control.notification(0) is None


def test_a_refused_control_call_says_why(tmp_path: Path) -> None:
    error = {"code": -32601, "message": "no such method"}
    with (
        server(tmp_path / "s.ctl", lambda link: _answer(link, error=error)),
        pytest.raises(ControlError, match="bogus: no such method") as caught,
    ):
        control_call(tmp_path / "s", "bogus")
    assert caught.value.code == -32601


@pytest.mark.parametrize("answer", [b"{", b"[]"])
def test_an_answer_that_is_no_json_object_is_an_error(tmp_path: Path, answer: bytes) -> None:
    def talk(link: socket.socket) -> None:
        link.recv(4096)
        link.send(answer)

    with server(tmp_path / "s.ctl", talk), pytest.raises(ShellError, match="no JSON"):
        control_call(tmp_path / "s", "version")
