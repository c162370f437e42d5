"""The control socket is open to everybody: what users may do who may not speak PF_KEY."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyd.shell import rpc
from pfkey import policy as language
from tests.support.nobody import NOBODY, as_user, open_directory
from tests.support.shell import Process, connect, control

pytestmark = pytest.mark.root

# With a UDP socket handed over: what each call is answered, then the socket's mark.
CALLS = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ctl:
    ctl.settimeout(5)
    ctl.connect(sys.argv[1])
    for number, (method, params) in enumerate(json.loads(sys.argv[2])):
        call = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        socket.send_fds(ctl, [json.dumps(call).encode()], [sock.fileno()])
        print(ctl.recv(65536).decode())
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
"""
MANY = """
import socket, sys
held = []
for number in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.settimeout(5)
    one.connect(sys.argv[1])
    held.append(one)
    try:
        one.send(b'{"jsonrpc": "2.0", "id": 1, "method": "version"}')
        print(len(one.recv(65536)) > 0, flush=True)
    except ConnectionError:
        print(False, flush=True)
sys.stdin.read()
"""
KEY_SOCKET = """
import socket, sys
one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    one.connect(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Process]:
    with open_directory(0o755) as directory, Process(directory) as running:
        yield running
        assert running.stop() == 0


def ctl(daemon: Process) -> str:
    return f"{daemon.socket}.ctl"


def python(script: str, *words: str) -> list[str]:
    return [*as_user(), sys.executable, "-I", "-S", "-c", script, *words]


def said(script: str, *words: str) -> list[str]:
    """What nobody's program prints."""
    done = subprocess.run(python(script, *words), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def calls(daemon: Process, *given: tuple[str, dict[str, Any]]) -> tuple[list[Any], int]:
    """The answers, and the mark that the socket has in the end."""
    *answers, mark = said(CALLS, ctl(daemon), json.dumps(given))
    return [json.loads(answer) for answer in answers], int(mark)


def octets(policy: str) -> str:
    return language.parse(policy).encode().hex()


def test_pf_key_itself_stays_closed(daemon: Process) -> None:
    assert said(KEY_SOCKET, str(daemon.socket)) == ["Permission denied"]
    assert Path(ctl(daemon)).stat().st_mode & 0o777 == 0o666
    assert daemon.socket.stat().st_mode & 0o777 == 0o600


def test_nothing_is_told_and_nothing_changed(daemon: Process) -> None:
    methods: dict[str, dict[str, Any]] = {
        "status": {}, "counters": {}, "log_level": {"level": "debug"}, "sysctl": {"name": ""},
        "subscribe": {}, "adopt": {}, "set_mark": {"mark": 1}, "no_such_method": {},
    }  # fmt: skip
    answers, mark = calls(daemon, *methods.items())
    assert [answer["error"]["code"] for answer in answers] == [rpc.NOT_PERMITTED] * len(methods)
    assert mark == 0
    assert control(daemon.socket, "log_level")["result"]["level"] == "info"


@pytest.mark.parametrize("uid", [None, 0, NOBODY + 1])
def test_nobody_speaks_for_somebody_else(daemon: Process, uid: int | None) -> None:
    params = {"policies": [octets("out ipsec esp/transport//require")], "uid": uid}
    answers, mark = calls(daemon, ("set_policy", params), ("set_group", params))
    assert [answer["error"]["code"] for answer in answers] == [rpc.NOT_PERMITTED] * 2
    assert "uid must be your own, 65534" in answers[0]["error"]["message"]
    assert mark == 0


def test_a_user_protects_its_own_sockets(daemon: Process) -> None:
    wanted = octets("out ipsec esp/transport//require")
    answers, mark = calls(
        daemon,
        ("version", {}),
        ("set_policy", {"policies": [wanted], "uid": NOBODY}),
        ("get_policy", {"direction": 2}),
    )
    assert all("result" in answer for answer in answers), answers
    assert mark >> 24 >= 0x50


@pytest.mark.parametrize("policy", ["out bypass", "in none", "in discard"])
def test_what_takes_privileges_is_refused(daemon: Process, policy: str) -> None:
    params = {"policies": [octets(policy)], "uid": NOBODY}
    (answer,), mark = calls(daemon, ("set_policy", params))
    assert answer["error"]["data"] == {"errno": 1}
    assert mark == 0


def test_users_have_few_connections_and_others_keep_theirs(daemon: Process) -> None:
    with subprocess.Popen(
        python(MANY, ctl(daemon), "10"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as many:
        assert many.stdout is not None
        assert many.stdin is not None
        served = [many.stdout.readline().strip() for _ in range(10)]
        assert served == ["True"] * 8 + ["False"] * 2
        assert said(KEY_SOCKET, ctl(daemon)) == []
        with connect(Path(ctl(daemon))):
            assert "result" in control(daemon.socket, "status")
        many.stdin.close()
    answers, _ = calls(daemon, ("version", {}))
    assert "result" in answers[0]
    assert "control-refused reason=too-many uid=65534" in daemon.log
