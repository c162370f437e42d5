"""The PF_KEY socket, in a running pfkeyd without packets: synchronous send, and bad clients."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from errno import EBUSY, EMSGSIZE
from pathlib import Path

import pytest

from keyd.shell import wire
from pfkey.const import ExtType, MsgType
from tests.support.nobody import open_directory
from tests.support.shell import (
    REGISTER,
    Process,
    ask,
    at_once,
    connect,
    control,
    drain,
    header,
    outq,
    sent,
)


@pytest.fixture
def client(daemon: Process) -> Iterator[socket.socket]:
    with connect(daemon.socket) as sock:
        yield sock


def address(kind: int, host: int) -> bytes:
    """An address extension of 10.0.0.0/8."""
    octets = struct.pack(">H2xBBH", 0, 10, host >> 16, host & 0xFFFF)
    return struct.pack("=HHBBH", 3, kind, 255, 32, 0) + struct.pack("=H", 2) + octets[2:].rjust(
        6, b"\0"
    ) + bytes(8)  # fmt: skip


def add(number: int) -> bytes:
    """ADD of an ESP SA with a NULL cipher and hmac-sha1, its SPI from `number`."""
    spi = struct.pack(">I", 0x10000 + number)
    sa = struct.pack("=HH", 2, ExtType.SA) + spi + struct.pack("=BBBBI", 0, 0, 3, 11, 0)
    auth = struct.pack("=HHHH", 4, ExtType.KEY_AUTH, 160, 0) + b"k" * 20 + bytes(4)
    encrypt = struct.pack("=HHHH", 1, ExtType.KEY_ENCRYPT, 0, 0)
    body = sa + address(ExtType.ADDRESS_SRC, 1) + address(ExtType.ADDRESS_DST, 2) + auth + encrypt
    return header(MsgType.ADD, satype=3, words=2 + len(body) // 8, seq=number) + body


def errno_of(record: bytes) -> int:
    return record[2]


def collect(sock: socket.socket, until_seq_0: bool = True) -> list[bytes]:
    """The records of a dump, to the one with sequence number 0."""
    got = []
    while True:
        record = sock.recv(65536)
        if record[1] != MsgType.DUMP:
            continue
        got.append(record)
        if struct.unpack_from("=I", record, 8)[0] == 0:
            return got


@pytest.fixture
def many(client: socket.socket) -> Iterator[int]:
    """Thousands of SAs."""
    count = 6000
    for number in range(count):
        sent(client, add(number))
        if number == 0:
            first = drain(client)
            assert [errno_of(r) for r in first] == [0], first
        elif number % 100 == 0:
            drain(client)
    drain(client)
    yield count
    sent(client, header(MsgType.FLUSH))


def test_a_reply_is_there_when_the_request_has_been_consumed(client: socket.socket) -> None:
    for _ in range(200):
        reply = ask(client, REGISTER)
        assert reply[:2] == bytes((2, MsgType.REGISTER))


def test_an_error_reply_is_there_as_well(client: socket.socket) -> None:
    reply = ask(client, header(MsgType.GETSPI))
    assert len(reply) == 16
    assert errno_of(reply)


@pytest.mark.parametrize("length", [1, 7, 8, 15])
def test_half_a_message_is_answered_with_emsgsize(client: socket.socket, length: int) -> None:
    assert errno_of(ask(client, REGISTER[:length])) == EMSGSIZE
    assert not errno_of(ask(client, REGISTER))


def test_a_record_larger_than_any_message_is_answered_with_emsgsize(
    client: socket.socket,
) -> None:
    client.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE
    huge = header(MsgType.ADD, words=0xFFFF) + bytes((1 << 20) - 16)
    assert errno_of(ask(client, huge)) == EMSGSIZE
    assert not errno_of(ask(client, REGISTER))


def test_an_empty_record_is_no_end(client: socket.socket) -> None:
    client.send(b"")
    client.send(b"")
    assert not errno_of(ask(client, REGISTER))


def test_what_was_sent_before_the_end_still_counts(daemon: Process) -> None:
    with connect(daemon.socket) as sock:
        for number in range(50):
            sock.send(add(70_000 + number))
        sock.send(b"")
        sock.send(add(71_000))
    # closed with all replies unread
    daemon.until(lambda: control(daemon.socket, "status")["result"]["sas"] == 51)
    with connect(daemon.socket) as sock:
        sent(sock, header(MsgType.FLUSH))
    assert control(daemon.socket, "status")["result"]["sas"] == 0


def test_a_descriptor_that_comes_along_is_ignored(client: socket.socket) -> None:
    socket.send_fds(client, [REGISTER], [0, 1, 2])
    client.settimeout(2)
    assert not errno_of(client.recv(65536))


def test_one_who_never_reads_costs_others_nothing(daemon: Process, many: int) -> None:
    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(connect(daemon.socket)) for _ in range(3)]
        for sock in deaf:
            sent(sock, REGISTER)
            sent(sock, header(MsgType.DUMP))
        talker = stack.enter_context(connect(daemon.socket))
        began = time.monotonic()
        for _ in range(100):
            assert ask(talker, REGISTER)[1] == MsgType.REGISTER
        assert time.monotonic() - began < 2


def test_a_dump_is_complete_though_its_reader_is_slow_and_others_are_served(
    daemon: Process, many: int
) -> None:
    with connect(daemon.socket) as slow, connect(daemon.socket) as other:
        slow.send(header(MsgType.DUMP))
        while outq(slow):
            pass
        with at_once(slow):
            assert slow.recv(65536, socket.MSG_PEEK)[1] == MsgType.DUMP
        got = []
        for n in range(40):
            got.append(slow.recv(65536))
            if n % 10 == 0:
                assert ask(other, REGISTER)[1] == MsgType.REGISTER
            time.sleep(0.005)
        got += collect(slow)
        assert len(got) == many
        numbers = [struct.unpack_from("=I", record, 8)[0] for record in got]
        assert numbers == [*range(1, many), 0]


def test_requests_are_served_while_a_dump_to_the_same_client_is_pending(
    client: socket.socket, many: int
) -> None:
    sent(client, header(MsgType.DUMP, seq=1))
    time.sleep(0.3)  # the queue is as full as the dump may make it
    sent(client, header(MsgType.DUMP, seq=77))
    sent(client, REGISTER)
    records, done = [], False
    while not done:
        record = client.recv(65536)
        records.append(record)
        done = record[1] == MsgType.DUMP and len(record) > 16 and record[8:12] == bytes(4)
    busy = [r for r in records if len(r) == 16]
    assert [errno_of(r) for r in busy] == [EBUSY]
    assert any(r[1] == MsgType.REGISTER for r in records)
    assert sum(r[1] == MsgType.DUMP and len(r) > 16 for r in records) == many
    # and the end of the dump was noticed: another one may follow
    client.settimeout(5)
    sent(client, header(MsgType.DUMP))
    assert len(collect(client)) == many


def test_a_reader_that_goes_in_the_middle_of_a_dump_is_forgotten(
    daemon: Process, many: int
) -> None:
    with connect(daemon.socket) as sock:
        sent(sock, header(MsgType.DUMP))
    with connect(daemon.socket) as sock:
        sent(sock, header(MsgType.DUMP))
        sock.shutdown(socket.SHUT_RD)
    daemon.until(lambda: control(daemon.socket, "status")["result"]["dumps"] == 0)


def test_two_hundred_at_once_are_all_served(daemon: Process) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(daemon.socket)) for _ in range(200)]
        for sock in socks:
            sock.send(header(MsgType.DUMP, satype=3))
        for sock in socks:
            assert sock.recv(65536)[1] == MsgType.DUMP
        assert control(daemon.socket, "status")["result"]["clients"] >= 200
    daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)


def test_beyond_the_limit_connections_are_closed_and_room_comes_back(daemon: Process) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(daemon.socket)) for _ in range(1024)]
        daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 1024)
        with connect(daemon.socket) as late:
            assert late.recv(1) == b""
        assert not errno_of(ask(socks[-1], REGISTER))
    daemon.until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)
    assert "reason=too-many" in daemon.log
    with connect(daemon.socket) as sock:
        assert not errno_of(ask(sock, REGISTER))


@pytest.mark.root
def test_rights_are_checked_on_accept_and_belong_to_the_descriptor() -> None:
    with open_directory(0o755) as directory, Process(directory) as daemon:
        daemon.socket.chmod(0o666)  # what the file's mode would refuse, the credentials do
        with connect(daemon.socket) as mine:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                    stranger = connect(daemon.socket)
                    is_refused = stranger.recv(1) == b""
                    is_served = not errno_of(ask(mine, REGISTER))
                    os._exit(0 if is_refused and is_served else 1)
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert daemon.stop() == 0


def test_the_reader_tells_the_end_from_an_empty_record() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    reader = wire.Reader(64)
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            reader.look(ours)
        theirs.send(b"")
        theirs.send(b"x" * 100)
        with pytest.raises(BlockingIOError):
            reader.look(ours)
        assert reader.look(ours) == b"x" * 64
        assert reader.look(ours) == b"x" * 64, "looking takes nothing"
        wire.take(ours)
        theirs.send(b"")
        theirs.send(b"last")
        theirs.close()
        with pytest.raises(BlockingIOError):
            reader.look(ours)
        assert reader.look(ours) == b"last"
        wire.take(ours)
        assert reader.look(ours) is None


def test_pf_key_is_for_its_owner_alone_and_control_for_everybody(daemon: Process) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    assert Path(f"{daemon.socket}.ctl").stat().st_mode & 0o777 == 0o666
