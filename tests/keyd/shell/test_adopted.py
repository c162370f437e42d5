"""Clients whose socket comes as a descriptor: `adopt` on the control socket."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyd.shell import rpc
from pfkey import requests
from pfkey.const import ExtType, MsgType, SaType
from pfkey.dialect import NETBSD, OPENBSD, Dialect
from pfkey.entries import SadEntry
from pfkey.message import Message
from pfkey.requests import authenticator, cipher
from tests.support.shell import (
    HEADER,
    REGISTER,
    Process,
    ask,
    connect,
    control,
    drain,
    header,
    sent,
)

PLAIN = {"promiscuous": False, "knows_own": False}


def adopt(ctl: socket.socket, *fds: int, **params: object) -> Any:
    """The whole answer."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "adopt", "params": params}
    socket.send_fds(ctl, [json.dumps(call).encode()], fds)
    return json.loads(ctl.recv(65536))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A program's end, and the one to hand over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def descriptors(daemon: Process) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def test_an_adopted_socket_is_a_pf_key_socket(
    daemon: Process, ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    answer = adopt(ctl, theirs.fileno())["result"]
    assert answer == {"client": answer["client"], "registered": [], **PLAIN}
    theirs.close()
    reply = ask(program, header(MsgType.GET, satype=3, seq=9, pid=8))
    assert HEADER.unpack_from(reply)[6:] == (9, 8)
    program.close()
    daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)


def test_registrations_are_told_before_the_request_is_consumed(
    ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    client = adopt(ctl, theirs.fileno())["result"]["client"]
    for request, registered, promiscuous in (
        (header(MsgType.REGISTER, satype=3), [3], False),
        (header(MsgType.REGISTER, satype=2), [2, 3], False),
        (header(MsgType.X_PROMISC, satype=1), [2, 3], True),
        (header(MsgType.X_PROMISC, satype=0), [2, 3], False),
    ):
        sent(program, request)
        ctl.setblocking(False)
        assert json.loads(ctl.recv(65536)) == {
            "jsonrpc": "2.0",
            "method": "client",
            "params": {
                "client": client,
                "registered": registered,
                "promiscuous": promiscuous,
                "knows_own": False,
            },
        }
    sent(program, header(MsgType.REGISTER, satype=3))  # EEXIST: nothing has changed
    with pytest.raises(BlockingIOError):
        ctl.recv(1)


def test_what_was_registered_with_a_predecessor_is_again_without_a_word(
    daemon: Process, ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    had = {"registered": [3, 2], "promiscuous": True}
    answer = adopt(ctl, theirs.fileno(), **had)["result"]
    assert answer == PLAIN | {
        "client": answer["client"], "registered": [2, 3], "promiscuous": True
    }  # fmt: skip
    assert drain(program) == []
    with connect(daemon.socket) as other:
        sent(other, REGISTER)
    heard = [HEADER.unpack_from(record)[1] for record in drain(program)]
    assert heard == [MsgType.REGISTER] * 3  # the request; the reply, as registered and as a copy


def test_one_adopted_with_requests_in_its_queue_is_answered(
    ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    program.send(header(MsgType.REGISTER, satype=3, seq=1))
    program.send(header(MsgType.GET, satype=3, seq=2))
    adopt(ctl, theirs.fileno(), registered=[3])
    replies = [HEADER.unpack_from(program.recv(65536)) for _ in range(2)]
    assert [(kind, seq) for _, kind, _, _, _, _, seq, _ in replies] == [
        (MsgType.REGISTER, 1), (MsgType.GET, 2)
    ]  # fmt: skip


def listening() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind("")
    sock.listen()
    return sock


def half(kind: int) -> socket.socket:
    """One of a pair; the other is gone."""
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    other.close()
    return one


OTHERS: dict[str, Callable[[], Any]] = {
    "stream": lambda: half(socket.SOCK_STREAM),
    "datagram": lambda: half(socket.SOCK_DGRAM),
    "alone": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "listening": listening,
    "inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "file": tempfile.TemporaryFile,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_such_socket_is_refused_and_closed(
    daemon: Process, ctl: socket.socket, kind: str
) -> None:
    before = descriptors(daemon)
    with OTHERS[kind]() as other:
        answer = adopt(ctl, other.fileno())
    assert answer["error"]["code"] == rpc.INVALID_PARAMS
    assert "socket" in answer["error"]["message"]
    assert descriptors(daemon) == before


@pytest.mark.parametrize(
    "params",
    [{"registered": 3}, {"registered": [0]}, {"registered": [4]}, {"registered": ["3"]},
     {"registered": [True]}, {"promiscuous": 1}, {"other": 1}],
)  # fmt: skip
def test_parameters_of_another_form_are_refused(
    daemon: Process,
    ctl: socket.socket,
    pair: tuple[socket.socket, socket.socket],
    params: dict[str, object],
) -> None:
    before = descriptors(daemon)
    assert adopt(ctl, pair[1].fileno(), **params)["error"]["code"] == rpc.INVALID_PARAMS
    assert descriptors(daemon) == before


def test_descriptors_that_nobody_asked_for_are_closed(
    daemon: Process, ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    assert "adopt needs a descriptor" in adopt(ctl)["error"]["message"]
    before = descriptors(daemon)
    fd = pair[1].fileno()
    for octets in (b"x", b'{"jsonrpc":"2.0","id":1,"method":"version"}'):
        socket.send_fds(ctl, [octets], [fd] * 9)
        ctl.recv(65536)
        assert descriptors(daemon) == before
    assert "result" in adopt(ctl, fd, fd, fd)
    assert descriptors(daemon) == before + 1


def test_a_socket_made_to_wait_by_its_owner_holds_up_nobody(
    daemon: Process, ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Flags belong to both: whoever handed it over can change them at any time."""
    program, theirs = pair
    adopt(ctl, theirs.fileno())
    os.set_blocking(theirs.fileno(), True)
    sent(program, header(MsgType.DUMP, satype=3))
    with connect(daemon.socket) as other:
        assert ask(other, REGISTER)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, b"\xff" * 7 + b"\x7f" + bytes(8))
    with connect(daemon.socket) as other:
        assert ask(other, REGISTER)


def test_a_half_closed_socket_is_let_go(
    daemon: Process, ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    adopt(ctl, theirs.fileno())
    program.shutdown(socket.SHUT_WR)
    daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)


def test_one_client_too_many_is_refused(daemon: Process, ctl: socket.socket) -> None:
    pairs = []
    try:
        while True:
            pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            answer = adopt(ctl, pairs[-1][1].fileno())
            if "error" in answer:
                break
        assert answer["error"] == {"code": rpc.NO_ROOM, "message": "too many clients"}
        assert len(pairs) == 1025
    finally:
        for one, other in pairs:
            one.close()
            other.close()
    daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)


@pytest.mark.parametrize("dialect", [NETBSD, OPENBSD], ids=repr)
def test_an_adopted_socket_speaks_the_dialect_it_is_said_to(
    ctl: socket.socket, pair: tuple[socket.socket, socket.socket], dialect: Dialect
) -> None:
    program, theirs = pair
    had = {"registered": [3], "promiscuous": False, "dialect": dialect.name}
    assert adopt(ctl, theirs.fileno(), **had)["result"]["registered"] == [3]
    assert drain(program) == []
    esp = dialect.satypes.theirs(3)
    reply = ask(program, header(MsgType.REGISTER, satype=esp))
    # EEXIST on NetBSD, where once is enough; on OpenBSD it may be repeated
    assert reply[:4] == bytes((2, MsgType.REGISTER, 17 if dialect is NETBSD else 0, esp))


def test_no_other_dialects_are_adopted(
    ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    _, theirs = pair
    for dialect in ("solaris", "", 7, None):
        error = adopt(ctl, theirs.fileno(), dialect=dialect)["error"]
        assert error["code"] == rpc.INVALID_PARAMS
        assert "linux, netbsd, freebsd, openbsd" in error["message"]


def test_who_used_an_extension_of_ours_is_told_such_by_a_successor_too(
    ctl: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    program, theirs = pair
    client = adopt(ctl, theirs.fileno())["result"]["client"]
    entry = SadEntry(
        satype=SaType.ESP, src="10.1.1.1", dst="10.1.1.2", spi=0x1000, encrypt=cipher("aes-cbc"),
        encrypt_key=b"k" * 16, auth=authenticator("hmac-sha1"), auth_key=b"a" * 20, replay=4096,
    )  # fmt: skip
    assert ask(program, requests.sa(MsgType.ADD, entry).encode())[2] == 0
    told = json.loads(ctl.recv(65536))["params"]
    assert told == {"client": client, "registered": [], "promiscuous": False, "knows_own": True}

    name = requests.sa_name(MsgType.GET, SaType.ESP, "10.1.1.1", "10.1.1.2", 0x1000).encode()
    for knows_own in (False, True):
        fresh, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with fresh, other:
            fresh.settimeout(5)
            answer = adopt(ctl, other.fileno(), knows_own=knows_own)["result"]
            assert answer["knows_own"] is knows_own
            window = Message.decode(ask(fresh, name)).ext(ExtType.X_REPLAY_WINDOW)
            assert (window is not None) is knows_own
    error = adopt(ctl, theirs.fileno(), knows_own=1)["error"]
    assert error["code"] == rpc.INVALID_PARAMS
