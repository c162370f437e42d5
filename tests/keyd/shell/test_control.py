"""The control socket: JSON-RPC 2.0, one object a record, and those who look on."""

import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.engine.public import without_keys
from keyd.shell import rpc
from pfkey.const import ExtType, MsgType
from tests.support.shell import REGISTER, Process, ask, connect, control, header, sent


def call(sock: socket.socket, octets: bytes) -> Any:
    sock.send(octets)
    return json.loads(sock.recv(1 << 20))


KEYED = (
    header(MsgType.ADD, satype=3, words=2 + 4 + 2)
    + struct.pack("=HHHH", 4, ExtType.KEY_ENCRYPT, 192, 0) + b"s" * 24
    + struct.pack("=HHHH", 2, ExtType.KEY_AUTH, 64, 0) + b"s" * 8
)  # fmt: skip


def test_version_and_status_say_who_answers(daemon: Process) -> None:
    assert control(daemon.socket, "version")["result"]["schema_version"] == 1
    status = control(daemon.socket, "status")["result"]
    assert status["pid"] == daemon.pid
    assert status["dataplane"] is False
    assert status["workers"] == []
    assert status["netns"] == Path("/proc/self/ns/net").stat().st_ino
    assert status["policies"] == status["sas"] == 0


def test_counters_have_the_groups_of_netstat(daemon: Process) -> None:
    result = control(daemon.socket, "counters")["result"]
    assert result["schema_version"] == 1
    assert list(result["counters"]) == ["ipsec", "ah", "esp", "ipcomp", "pfkey"]
    assert result["counters"]["ipsec"]["in_polvio"] == 0


def test_the_log_level_changes_for_all(daemon: Process) -> None:
    assert control(daemon.socket, "log_level")["result"] == {"level": "info"}
    assert control(daemon.socket, "log_level", level="debug")["result"] == {"level": "debug"}
    assert control(daemon.socket, "log_level", level="info")["result"] == {"level": "info"}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"x", rpc.PARSE_ERROR),
        (b"\xff", rpc.PARSE_ERROR),
        (b"[" * 60000, rpc.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"version"}', rpc.PARSE_ERROR),
        (b"[]", rpc.INVALID_REQUEST),
        (b"7", rpc.INVALID_REQUEST),
        (b"{}", rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"version"}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":[],"method":"version"}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"version","params":7}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"nonsense"}', rpc.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":1,"method":"version","params":{"x":1}}', rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"version","params":[1]}', rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"log_level","params":{"level":"loud"}}',
         rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"show_keys":1}}',
         rpc.INVALID_PARAMS),
    ],
)  # fmt: skip
def test_faults_have_the_codes_of_json_rpc(ctl: socket.socket, said: bytes, code: int) -> None:
    answer = call(ctl, said)
    assert answer["error"]["code"] == code
    assert answer["jsonrpc"] == "2.0"
    assert call(ctl, b'{"jsonrpc":"2.0","id":"a","method":"version"}')["id"] == "a"


def test_a_notification_has_no_answer(ctl: socket.socket) -> None:
    ctl.send(b'{"jsonrpc":"2.0","method":"version"}')
    ctl.send(b'{"jsonrpc":"2.0","method":"nonsense"}')
    assert call(ctl, b'{"jsonrpc":"2.0","id":2,"method":"version"}')["id"] == 2


def test_a_subscriber_sees_both_directions_with_keys_masked(
    daemon: Process, ctl: socket.socket
) -> None:
    assert call(ctl, b'{"jsonrpc":"2.0","id":1,"method":"subscribe"}')["result"]["subscribed"]
    with connect(daemon.socket) as client:
        ask(client, KEYED)
    seen = [json.loads(ctl.recv(65536)) for _ in range(2)]
    assert [s["method"] for s in seen] == ["message", "message"]
    assert [s["params"]["direction"] for s in seen] == ["in", "out"]
    assert seen[0]["params"]["pid"] == os.getpid()
    octets = bytes.fromhex(seen[0]["params"]["hex"])
    assert len(octets) == len(KEYED)
    assert b"s" not in octets


def test_keys_are_shown_to_those_who_ask_and_may(daemon: Process, ctl: socket.socket) -> None:
    call(ctl, b'{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"show_keys":true}}')
    with connect(daemon.socket) as client:
        ask(client, KEYED)
    assert json.loads(ctl.recv(65536))["params"]["hex"] == KEYED.hex()


def test_a_subscriber_that_does_not_read_loses_and_is_told_how_much(daemon: Process) -> None:
    with connect(Path(f"{daemon.socket}.ctl")) as deaf, connect(daemon.socket) as client:
        call(deaf, b'{"jsonrpc":"2.0","id":1,"method":"subscribe"}')
        for _ in range(9000):
            sent(client, REGISTER)
            assert client.recv(65536)
        messages, lost = 0, 0
        deaf.settimeout(0.5)
        for _ in range(2000):
            deaf.recv(65536)
            messages += 1
        sent(client, REGISTER)
        try:
            while True:
                said = json.loads(deaf.recv(65536))
                messages += said["method"] == "message"
                lost += said["params"].get("count", 0)
        except TimeoutError:
            pass
        assert lost > 0
        assert messages + lost == 2 * 9001


def test_without_keys_zeroes_keys_and_nothing_else() -> None:
    masked = without_keys(KEYED)
    assert masked == KEYED.replace(b"s", b"\0")
    assert without_keys(REGISTER) == REGISTER


@given(st.binary(max_size=200))
def test_any_octets_can_be_masked(octets: bytes) -> None:
    masked = without_keys(octets)
    assert len(masked) == len(octets)
    assert masked[:16] == octets[:16]


@given(st.binary(max_size=100), st.integers(0, 60))
def test_a_fault_hides_all_that_follows(tail: bytes, cut: int) -> None:
    """A length that leads nowhere: what comes after could be a key."""
    wrong = KEYED[:16] + struct.pack("=HH", 0, ExtType.KEY_AUTH) + tail
    assert not any(without_keys(wrong)[16:])
    assert b"s" not in without_keys(KEYED[: 16 + cut])[24:]


@given(st.binary(max_size=300))
def test_any_octets_are_a_call_or_an_rpc_error(octets: bytes) -> None:
    with contextlib.suppress(rpc.RpcError):
        assert rpc.decode(octets).method
