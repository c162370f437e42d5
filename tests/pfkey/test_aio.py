"""The trio client: against pfkeyd itself, and against peers that misbehave."""

import contextlib
import errno
import inspect
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import pfkey
from pfkey import requests
from pfkey.aio import AsyncClient, connect
from pfkey.base import error_reply
from pfkey.blocking import Client
from pfkey.const import Dir, MsgType, SaType
from pfkey.entries import SadEntry
from pfkey.errors import (
    AbsentError,
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
from tests.keyd.engine.test_hostile import MUTATIONS
from tests.pfkey.test_blocking import POLICY, SA, A, B, numbered, record
from tests.support.shell import Process


@pytest.fixture
async def client(daemon: Process) -> AsyncIterator[AsyncClient]:
    async with pfkey.connect(daemon.socket) as found:
        yield found
        await found.flush()
        await found.spdflush()


async def collect(dump: "AsyncIterator[SadEntry]") -> list[int]:
    return [sa.spi async for sa in dump]


# Against pfkeyd.


async def test_an_sa_from_its_birth_to_its_end(client: AsyncClient) -> None:
    assert (await client.register(SaType.ESP)).encrypt
    added = await client.add(SA)
    assert await client.get(SaType.ESP, A, B, 0x2694) == added
    assert [sa async for sa in client.dump()] == [added]
    assert [sa async for sa in client.dump(src="11.0.0.0/8")] == []
    with pytest.raises(ExistsError, match="it is there already"):
        await client.add(SA)
    assert (await client.update(added)).spi == 0x2694
    await client.delete(SaType.ESP, A, B, 0x2694)
    with pytest.raises(NotFoundError, match="ESRCH"):
        await client.get(SaType.ESP, A, B, 0x2694)


async def test_a_policy_from_its_birth_to_its_end(client: AsyncClient) -> None:
    added = await client.spdadd(POLICY)
    assert await client.spdget(added.id) == added
    assert [one async for one in client.spddump()] == [added]
    now = await client.spdupdate(POLICY)
    assert (await client.spddelete2(now.id)).id == now.id
    await client.spdsetidx(POLICY)
    await client.spddelete(A, B, Dir.OUT)
    with pytest.raises(NotFoundError):
        await client.spddelete(A, B, Dir.OUT)


async def test_many_tasks_use_one_client_at_once(client: AsyncClient) -> None:
    """Each gets its own answer, while dumps go on and others' messages come in between."""

    async def life(number: int) -> None:
        entry = numbered(number)
        for _ in range(5):
            assert (await client.add(entry)).spi == entry.spi
            with pytest.raises(ExistsError) as caught:
                await client.add(entry)
            assert caught.value.request.sa is not None
            assert caught.value.request.sa.spi == entry.spi
            assert (await client.get(entry.satype, A, B, entry.spi)).spi == entry.spi
            assert entry.spi in await collect(client.dump())
            await client.delete(entry.satype, A, B, entry.spi)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(life, number)
    assert await collect(client.dump()) == []


async def test_requests_are_served_while_a_dump_is_read(client: AsyncClient) -> None:
    for number in range(3000):
        await client.add(numbered(number))
    seen = []
    async for sa in client.dump():
        seen.append(sa.spi)
        if len(seen) % 100 == 0:
            await client.delete(sa.satype, sa.src, sa.dst, sa.spi)
    assert sorted(seen) == [0x1000 + number for number in range(3000)]
    assert len(await collect(client.dump())) == 2970


async def test_a_dump_is_paced_by_its_reader(client: AsyncClient) -> None:
    for number in range(3000):
        await client.add(numbered(number))
    dump = client.dump()
    await anext(dump)
    for _ in range(100):
        await trio.lowlevel.checkpoint()  # time enough to read all of it
    assert dump._exchange is not None
    assert len(dump._exchange.records) < 400
    assert len(await collect(dump)) == 2999


async def test_a_dump_may_be_left_before_its_end(client: AsyncClient) -> None:
    for number in range(1000):
        await client.add(numbered(number))
    async for _ in client.dump():
        break
    left = client.dump()
    await anext(left)
    left.close()
    assert len(await collect(client.dump())) == 1000
    kept = client.dump()
    await anext(kept)
    assert len(await collect(client.dump())) == 1000
    assert len(await collect(kept)) == 999


async def test_what_others_do_is_an_event_without_keys(
    daemon: Process, client: AsyncClient
) -> None:
    with Client(daemon.socket) as other:
        other.add(SA)
        with trio.fail_after(5):
            event = await client.event()
    assert isinstance(event, Notice)
    seen = SadEntry.of(event.message)
    assert (seen.spi, seen.encrypt_key) == (0x2694, None)


async def test_events_may_be_of_some_kinds_only(daemon: Process, client: AsyncClient) -> None:
    with Client(daemon.socket) as other:
        events = client.events(Acquire)
        other.add(SA)
        await client.register(SaType.UNSPEC)
        with trio.move_on_after(0.05) as waited:
            await anext(events)
        assert waited.cancelled_caught
        assert client.lost == 0


async def test_events_beyond_the_queue_are_counted(daemon: Process) -> None:
    async with connect(daemon.socket, queue=10) as deaf, connect(daemon.socket) as other:
        for number in range(30):
            await other.add(numbered(number))
        await deaf.register(SaType.UNSPEC)
        assert deaf.lost == 20
        heard = [await deaf.event() for _ in range(11)]
        assert heard[-1] == Lost(20)
        await other.flush()


async def test_a_promiscuous_client_hears_everything(daemon: Process, client: AsyncClient) -> None:
    async with connect(daemon.socket) as ear:
        await ear.promisc()
        await client.add(SA)
        with trio.fail_after(5):
            async for event in ear.events():
                if isinstance(event, Notice) and event.type == MsgType.ADD:
                    break
        with pytest.raises(MisuseError, match="promiscuous"):
            await ear.flush()


async def test_two_tasks_may_not_wait_for_the_events_of_one_client(client: AsyncClient) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.event)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(MisuseError, match="another task waits for events"):
            await client.event()
        nursery.cancel_scope.cancel()


async def test_an_error_in_the_block_is_not_wrapped(daemon: Process) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect(daemon.socket):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with connect(daemon.socket) as client:
            scope.cancel()
            await client.event()
    assert scope.cancelled_caught


async def test_a_cancelled_request_leaves_the_client_usable(client: AsyncClient) -> None:
    for _ in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.get(SaType.ESP, A, B, 1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.register, SaType.UNSPEC)
                await trio.lowlevel.checkpoint()
                scope.cancel()
    assert (await client.register(SaType.UNSPEC)).auth


async def test_a_daemon_that_is_restarted_takes_a_new_client(tmp_path: Path) -> None:
    """Who waits is told at once; who asks later too; a new connection registers anew."""
    with Process(tmp_path) as first:
        async with connect(first.socket) as client, trio.open_nursery() as nursery:
            await client.register(SaType.ESP)

            async def listen() -> None:
                with pytest.raises(ClosedError, match="pfkeyd closed the connection"):
                    await client.event()

            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await trio.to_thread.run_sync(first.stop)
            with pytest.raises(ClosedError):
                await client.flush()
            with pytest.raises(ClosedError):
                await anext(client.dump())
        with pytest.raises(ClosedError, match="pfkeyd closed the connection"):
            await client.flush()
    with pytest.raises(AbsentError, match=r"start it with: pfkeyd --socket .* &"):
        async with connect(tmp_path / "s"):
            pass
    with Process(tmp_path) as second:
        async with connect(second.socket, wait=10) as again:
            await again.register(SaType.ESP)


async def test_a_client_may_wait_for_the_engine_to_be_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def appear() -> None:
        await trio.sleep(3)
        listener.bind(str(tmp_path / "s"))
        listener.listen()

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(appear)
            async with connect(tmp_path / "s", wait=5):
                assert 3 <= trio.current_time() < 3.1
        with pytest.raises(AbsentError):
            async with connect(tmp_path / "absent", wait=5):
                pass
        assert 8 <= trio.current_time() < 8.2


# Against peers that misbehave.


def pair(kind: int = socket.SOCK_SEQPACKET) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, kind)


async def test_silence_ends_with_the_timeout(autojump_clock: trio.testing.MockClock) -> None:
    near, far = pair()
    with far:
        async with connect.over(near, timeout=7) as client:
            for call in (client.flush, client.spdflush, lambda: anext(client.dump())):
                began = trio.current_time()
                with pytest.raises(NoAnswerError, match="did not answer within 7 s"):
                    await call()
                assert trio.current_time() - began == pytest.approx(7)
            with pytest.raises(NoAnswerError):  # the dump before is not over
                await anext(client.spddump())


async def test_a_peer_that_reads_nothing_does_not_hold_us_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = pair()
    with far:
        async with connect.over(near, timeout=1) as client:
            with contextlib.suppress(BlockingIOError):
                while True:
                    near.send(bytes(1000), socket.MSG_DONTWAIT)
            with pytest.raises(NoAnswerError):
                await client.flush()


async def test_replies_come_past_those_of_others() -> None:
    near, far = pair()
    with far:
        async with connect.over(near) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.flush)
            await trio.testing.wait_all_tasks_blocked()
            asked = far.recv(100)
            far.send(record(0, pid=99))
            far.send(b"no message")
            far.send(record(5, type=MsgType.GET))
            far.send(asked)
            far.send(asked)  # a second copy, as Linux sends it
            with trio.fail_after(5):
                heard = [await client.event(), await client.event()]
            assert [type(event) for event in heard] == [Notice, Notice]
            assert client.garbled == 1


async def test_a_reply_that_is_no_message_is_an_error_and_the_next_is_served() -> None:
    near, far = pair()
    with far:
        async with connect.over(near) as client:

            async def answer() -> None:
                await trio.lowlevel.wait_readable(far)
                asked = far.recv(1000)
                far.send(asked[:4] + b"\3\0" + asked[6:16] + bytes(8))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                with pytest.raises(WireError):
                    await client.get(SaType.ESP, A, B, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.flush)
                await trio.lowlevel.wait_readable(far)
                far.send(far.recv(1000))


async def test_what_af_key_refuses_at_once_is_a_refusal_with_its_message() -> None:
    near, far = pair(socket.SOCK_DGRAM)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2304)
    with far:
        async with connect.over(near) as client:
            long = SadEntry(satype=SaType.ESP, src=A, dst=B, spi=1, encrypt_key=bytes(6000))
            with pytest.raises(InvalidError, match="EMSGSIZE: ADD esp") as caught:
                await client.add(long)
            with pytest.raises(InvalidError, match="EMSGSIZE: ADD esp"):
                await client.request(caught.value.request)


async def test_any_octets_may_come_from_the_engine() -> None:
    dice = random.Random(20261124)
    near, far = pair()
    far.setblocking(False)
    octets = requests.sa(MsgType.ADD, numbered(1)).encode()

    async def answer() -> None:
        while True:
            await trio.lowlevel.wait_readable(far)
            asked = far.recv(2000)
            for _ in range(dice.randrange(3)):
                reply = bytearray(asked if dice.randrange(3) else octets)
                reply[8:16] = asked[8:16]
                for _ in range(dice.randrange(3)):
                    if len(reply) > 2:
                        dice.choice(MUTATIONS)(dice, reply)
                if reply:
                    far.send(reply)
            far.send(error_reply(asked, dice.randrange(200)))

    answered = 0
    with far:
        async with (
            connect.over(near, timeout=0.2, queue=20) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(answer)
            for number in range(300):
                try:
                    match number % 4:
                        case 0:
                            await client.add(numbered(1))
                        case 1:
                            await client.spdget(7)
                        case 2:
                            await collect(client.dump())
                        case _:
                            await client.register(SaType.ESP)
                    answered += 1
                except PfkeyError:
                    pass
            nursery.cancel_scope.cancel()
    assert answered


async def test_a_broken_socket_is_a_closed_connection() -> None:
    near, far = pair()
    with far:
        async with connect.over(near) as client:
            os.close(near.detach())
            with pytest.raises(PfkeyError):
                await client.flush()


# Both clients.


def test_both_clients_have_the_same_requests() -> None:
    """The same names with the same parameters; the one waits where the other blocks."""
    own = {"connect", "event", "events", "fileno", "lost", "garbled", "request"}
    names = {n for n in vars(AsyncClient) if not n.startswith("_")}
    assert names - own == {n for n in vars(Client) if not n.startswith("_")} - own - {"over"}
    for name in names:
        theirs = inspect.signature(getattr(Client, name))
        ours = inspect.signature(getattr(AsyncClient, name))
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
        is_dump = name.endswith("dump")
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name)) != is_dump, name


def test_an_unanswered_acquire_is_given_up() -> None:
    async def main() -> bytes:
        near, far = pair()
        with far:
            async with connect.over(near) as client:
                acquire = Acquire(
                    satype=SaType.ESP, seq=77, src=A, dst=B, policy=None, proposal=None,
                    message=Message(type=MsgType.ACQUIRE),
                )  # fmt: skip
                await client.acquire_failed(acquire, errno.ETIMEDOUT)
                return far.recv(100)

    sent = Message.decode(trio.run(main), is_request=True)
    assert (sent.type, sent.satype, sent.seq) == (MsgType.ACQUIRE, SaType.ESP, 77)
    assert (sent.errno, sent.extensions, sent.pid) == (errno.ETIMEDOUT, (), os.getpid())
