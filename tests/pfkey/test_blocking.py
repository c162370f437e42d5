"""The blocking client: against pfkeyd itself, and against peers that misbehave."""

import contextlib
import errno
import math
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey import requests
from pfkey.base import error_reply
from pfkey.blocking import Client
from pfkey.const import Dir, Mode, MsgType, SaState, SaType
from pfkey.entries import Limits, SadEntry, SpdEntry
from pfkey.errors import (
    BusyError,
    ClosedError,
    ExistsError,
    InvalidError,
    MisuseError,
    NoAnswerError,
    NotFoundError,
    PfkeyError,
    WireError,
)
from pfkey.events import Acquire, Lost, Notice
from pfkey.message import Message
from pfkey.policy import parse
from pfkey.requests import authenticator, cipher
from pfkey.transport import RECORD_OCTETS_MAX
from tests.keyd.engine.test_hostile import MUTATIONS
from tests.pfkey.peer import peer
from tests.support.shell import Process

A, B = "10.1.1.1", "20.1.1.1"
FLUSH = Message(type=MsgType.FLUSH, pid=os.getpid())
SA = SadEntry(
    satype=SaType.ESP, src=A, dst=B, spi=0x2694, mode=Mode.TRANSPORT, encrypt=cipher("aes-cbc"),
    encrypt_key=bytes(range(16)), auth=authenticator("hmac-sha256"), auth_key=bytes(range(32)),
    hard=Limits(addtime=3600), soft=Limits(addtime=3000), replay=32,
)  # fmt: skip
POLICY = SpdEntry(src=A, dst=B, policy=parse("out ipsec esp/transport//require"))


def numbered(number: int) -> SadEntry:
    return SadEntry(
        satype=SaType.ESP, src=A, dst=B, spi=0x1000 + number, encrypt=cipher("null")
    )  # fmt: skip


def record(seq: int, *, type: int = MsgType.FLUSH, pid: int | None = None, errno: int = 0) -> bytes:
    return Message(
        type=type, seq=seq, pid=os.getpid() if pid is None else pid, errno=errno
    ).encode()


@pytest.fixture
def client(daemon: Process) -> Iterator[Client]:
    with Client(daemon.socket) as found:
        yield found
        found.flush()
        found.spdflush()


# Against pfkeyd.


def test_an_sa_from_its_birth_to_its_end(client: Client) -> None:
    added = client.add(SA)
    assert added.state == SaState.MATURE
    assert added.current is not None
    assert (added.src, added.dst, added.spi, added.auth_key) == (A, B, 0x2694, SA.auth_key)
    assert (added.hard, added.soft, added.replay) == (SA.hard, SA.soft, 32)
    assert client.get(SaType.ESP, A, B, 0x2694) == added
    assert list(client.dump()) == [added]
    assert list(client.dump(SaType.AH)) == []
    with pytest.raises(ExistsError, match=r"ADD esp 10.*0x00002694: it is there already") as caught:
        client.add(SA)
    assert caught.value.request.type == MsgType.ADD
    changed = client.update(added)
    assert changed.spi == 0x2694
    assert client.delete(SaType.ESP, A, B, 0x2694).spi == 0x2694
    with pytest.raises(NotFoundError, match="ESRCH"):
        client.get(SaType.ESP, A, B, 0x2694)


def test_what_one_engine_dumps_another_can_add(client: Client, tmp_path: Path) -> None:
    client.add(SA)
    with Process(tmp_path) as other, Client(other.socket) as far:
        (found,) = client.dump()
        far.add(found)
        (again,) = far.dump()
        assert (again.src, again.spi, again.encrypt_key) == (A, 0x2694, SA.encrypt_key)
        assert far.register(SaType.ESP).encrypt


def test_a_policy_from_its_birth_to_its_end(client: Client) -> None:
    added = client.spdadd(POLICY)
    assert added.id
    assert client.spdget(added.id) == added
    assert list(client.spddump()) == [added]
    with pytest.raises(ExistsError):
        client.spdadd(POLICY)
    assert client.spdupdate(POLICY).policy.requests == POLICY.policy.requests
    (now,) = client.spddump()
    assert client.spddelete2(now.id).id == now.id
    client.spdsetidx(POLICY)
    assert client.spddelete(A, B, Dir.OUT).src == A
    with pytest.raises(NotFoundError):
        client.spddelete(A, B, Dir.OUT)
    client.spdflush()
    assert list(client.spddump()) == []


def test_a_client_may_have_all_the_time_there_is(daemon: Process) -> None:
    with Client(daemon.socket, timeout=math.inf) as client:
        client.flush()
        assert client.register(SaType.UNSPEC).auth


def test_registering_tells_the_algorithms(client: Client) -> None:
    found = client.register(SaType.ESP)
    assert cipher("aes-cbc") in {row.id for row in found.encrypt}
    assert authenticator("hmac-sha256") in {row.id for row in found.auth}
    with pytest.raises(ExistsError, match="REGISTER esp"):
        client.register(SaType.ESP)
    assert client.register(SaType.UNSPEC) == found


def test_what_others_do_is_an_event_without_keys(daemon: Process, client: Client) -> None:
    with Client(daemon.socket) as other:
        other.add(SA)
        event = client.event(5)
    assert isinstance(event, Notice)
    seen = SadEntry.of(event.message)
    assert (seen.spi, seen.encrypt_key) == (0x2694, None)
    assert client.event(0) is None


def test_requests_are_served_while_a_dump_is_read(client: Client) -> None:
    """Everything is shown once, though half of it is deleted meanwhile; all that is left stays."""
    for number in range(3000):
        client.add(numbered(number))
    seen = []
    for sa in client.dump():
        seen.append(sa.spi)
        if len(seen) % 100 == 0:
            client.delete(sa.satype, sa.src, sa.dst, sa.spi)
            with pytest.raises(NotFoundError):
                client.get(sa.satype, sa.src, sa.dst, sa.spi)
    assert sorted(seen) == [0x1000 + number for number in range(3000)]
    assert len(list(client.dump())) == 2970


def test_a_dump_may_be_left_before_its_end(client: Client) -> None:
    for number in range(1000):
        client.add(numbered(number))
    for _ in client.dump():
        break
    left = client.dump()
    next(left)
    left.close()
    assert len(list(client.dump())) == 1000
    assert client.get(SaType.ESP, A, B, 0x1000).spi == 0x1000


def test_dumps_of_one_client_follow_each_other(client: Client) -> None:
    for number in range(2000):
        client.add(numbered(number))
    client.spdadd(POLICY)
    first, second, third = client.dump(), client.dump(), client.spddump()
    next(first)
    assert (len(list(second)), len(list(third)), len(list(first))) == (2000, 1, 1999)


def test_a_dump_that_the_engine_refuses_says_so() -> None:
    def talk(far: socket.socket) -> None:
        far.send(error_reply(far.recv(100), errno.EBUSY))
        far.recv(1)

    with (
        peer(talk) as near,
        Client.over(near) as client,
        pytest.raises(BusyError, match="EBUSY: DUMP: the key engine is busy"),
    ):
        list(client.dump())


def test_a_promiscuous_client_hears_everything(daemon: Process, client: Client) -> None:
    with Client(daemon.socket) as ear:
        ear.promisc()
        client.add(SA)
        heard = [e.type for e in ear.events(timeout=0.2) if isinstance(e, Notice)]
        assert heard.count(MsgType.ADD) >= 2
        with pytest.raises(MisuseError, match="promiscuous"):
            ear.flush()
        ear.promisc(False)
        ear.get(SaType.ESP, A, B, 0x2694)


def test_a_client_that_does_not_listen_is_told_what_it_lost(daemon: Process) -> None:
    with Client(daemon.socket, queue=10) as deaf, Client(daemon.socket) as other:
        for number in range(30):
            other.add(numbered(number))
        deaf.register(SaType.UNSPEC)  # reads what came before
        assert deaf.lost == 20
        heard = list(deaf.events(timeout=0))
        assert [type(event) for event in heard] == [*[Notice] * 10, Lost]
        assert heard[-1] == Lost(20)
        other.flush()


def test_giving_up_an_acquire_takes_no_answer(client: Client) -> None:
    acquire = Acquire(
        satype=SaType.ESP, seq=77, src=A, dst=B, policy=None, proposal=None,
        message=Message(type=MsgType.ACQUIRE),
    )  # fmt: skip
    client.acquire_failed(acquire)
    assert client.event(0.05) is None
    client.flush()


def test_a_daemon_that_is_restarted_takes_a_new_client(tmp_path: Path) -> None:
    with Process(tmp_path) as first:
        client = Client(first.socket)
        client.register(SaType.ESP)
        first.stop()
    with client, pytest.raises(ClosedError, match="pfkeyd closed the connection"):
        client.flush()
    with Process(tmp_path) as second, Client(second.socket, wait=10) as again:
        again.register(SaType.ESP)
    with pytest.raises(ClosedError, match="this connection is closed; connect anew"):
        client.flush()


# Against peers that misbehave.


def test_a_request_gets_its_replies_past_those_of_others() -> None:
    def talk(far: socket.socket) -> None:
        far.send(record(0, errno=errno.EPERM))  # left over: not a reply
        far.recv(100)
        far.send(record(0, type=MsgType.ACQUIRE, pid=0))
        far.send(record(0, pid=99))
        far.send(record(0))
        far.recv(1)

    with peer(talk) as near, Client.over(near) as client:
        assert client.recv(5) is not None
        exchange = client.request(FLUSH)
        assert (exchange.errno, len(exchange.records)) == (0, 1)


def test_leftovers_are_no_replies() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Client.over(ours, timeout=0.01) as client:
        theirs.send(record(0, errno=errno.EPERM))
        with pytest.raises(NoAnswerError, match=r"did not answer within 0\.01 s"):
            client.request(FLUSH)
        event = client.event(0)
        assert isinstance(event, Notice)


def test_a_closed_connection_is_said_to_be_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Client.over(ours) as client:
        assert client.fileno() == ours.fileno()
        theirs.close()
        with pytest.raises(ClosedError, match="pfkeyd closed the connection"):
            client.recv(1)
        with pytest.raises(ClosedError):
            client.send(b"x")
        with pytest.raises(ClosedError):
            client.event()


def test_the_largest_message_fits() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    size = min(RECORD_OCTETS_MAX, theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4)
    with theirs, Client.over(ours) as client:
        theirs.send(bytes(size))
        found = client.recv(1)
        assert found is not None
        assert len(found) == size


def test_a_peer_that_reads_nothing_does_not_hold_us_for_ever() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Client.over(ours, timeout=0.05) as client:

        def send_all() -> None:
            while True:
                client.send(bytes(1000), 0.05)

        with pytest.raises(NoAnswerError):
            send_all()
        with pytest.raises(NoAnswerError):
            client.flush()


def test_a_peer_that_chatters_does_not_hold_us_for_ever() -> None:
    def talk(far: socket.socket) -> None:
        chatter = [record(0, pid=99), b"no message", record(1, type=MsgType.GET)]
        try:
            while True:
                for one in chatter:
                    far.send(one, socket.MSG_NOSIGNAL)
        except OSError:
            return  # they have had enough

    began = time.monotonic()
    with peer(talk) as near, Client.over(near, timeout=0.1) as client:
        with pytest.raises(NoAnswerError):
            client.flush()
        with pytest.raises(NoAnswerError):
            next(client.dump())
        assert client.lost > 0
    assert time.monotonic() - began < 5


def test_garbage_alone_is_no_event() -> None:
    def talk(far: socket.socket) -> None:
        try:
            while True:
                far.send(b"no message", socket.MSG_NOSIGNAL)
        except OSError:
            return

    with peer(talk) as near, Client.over(near) as client:
        assert client.event(0.05) is None
        assert client.garbled > 0


def test_a_reply_that_is_no_message_is_an_error_and_the_next_is_served() -> None:
    def talk(far: socket.socket) -> None:
        asked = bytearray(far.recv(1000))
        far.send(asked[:4] + b"\3\0" + asked[6:16] + bytes(8))  # an extension of length 0
        far.send(far.recv(1000))
        far.recv(1)

    with peer(talk) as near, Client.over(near) as client:
        with pytest.raises(WireError, match=r"length of 0 words|type 0"):
            client.get(SaType.ESP, A, B, 1)
        client.flush()


def test_any_octets_may_come_from_the_engine() -> None:
    """Mutated replies, in the right places: an answer or an error of ours, and always an end."""
    dice = random.Random(20261124)
    entry = numbered(1)

    def talk(far: socket.socket) -> None:
        with contextlib.suppress(OSError):  # they have closed
            while asked := far.recv(2000):
                mutate(far, asked)

    def mutate(far: socket.socket, asked: bytes) -> None:
        for _ in range(dice.randrange(3)):
            octets = bytearray(asked if dice.randrange(3) else entry_octets)
            octets[8:16] = asked[8:16]
            for _ in range(dice.randrange(3)):
                if len(octets) > 2:
                    dice.choice(MUTATIONS)(dice, octets)
            if octets:
                far.send(octets, socket.MSG_NOSIGNAL)
        far.send(error_reply(asked, dice.randrange(200)), socket.MSG_NOSIGNAL)

    entry_octets = requests.sa(MsgType.ADD, entry).encode()
    answered = 0
    with peer(talk) as near, Client.over(near, timeout=0.2, queue=20) as client:
        for number in range(300):
            try:
                match number % 4:
                    case 0:
                        client.add(entry)
                    case 1:
                        client.spdget(7)
                    case 2:
                        list(client.dump())
                    case _:
                        client.register(SaType.ESP)
                answered += 1
            except PfkeyError:
                pass
            client.event(0)
    assert answered


# AF_KEY, driven through a pair: a datagram socket that looks at what is sent, and has no end.


def test_what_af_key_refuses_at_once_is_a_refusal_with_its_message() -> None:
    def talk(far: socket.socket) -> None:
        far.recv(1)

    with peer(talk, socket.SOCK_DGRAM) as near, Client.over(near) as client:
        long = SadEntry(satype=SaType.ESP, src=A, dst=B, spi=1, encrypt_key=bytes(400_000 // 64))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2304)
        with pytest.raises(InvalidError, match="EMSGSIZE: ADD esp") as caught:
            client.add(long)
        request = caught.value.request
        assert request.key_encrypt is not None
        with pytest.raises(InvalidError, match="EMSGSIZE: ADD esp"):
            client.request(request)
        with pytest.raises(InvalidError, match="EMSGSIZE: ADD esp"):
            list(client.requests([request]))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        near.send(b"x")


def test_af_key_answers_over_a_datagram_socket() -> None:
    def talk(far: socket.socket) -> None:
        for _ in range(2):  # FLUSH comes back twice on Linux
            asked = far.recv(1000)
            far.send(asked)
            with contextlib.suppress(ConnectionRefusedError):  # the first may have been enough
                far.send(asked)

    with peer(talk, socket.SOCK_DGRAM) as near, Client.over(near) as client:
        client.flush()
        client.flush()
        assert client.event(0) is None
