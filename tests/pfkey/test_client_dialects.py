"""The client library against pfkeyd in each dialect: the same calls, the same values."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import pfkey
from pfkey.blocking import Client
from pfkey.const import Dir, ExtType, FlowType, Level, Mode, MsgType, SaType
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.entries import Limits, SadEntry, SpdEntry
from pfkey.errors import (
    AbsentError,
    ExistsError,
    InvalidError,
    MisuseError,
    NotFoundError,
    ShellError,
    UnsupportedError,
    WireError,
)
from pfkey.events import Acquire, Notice, decode
from pfkey.hot_events import Acquire as Record
from pfkey.hot_parts import Place
from pfkey.message import Message
from pfkey.policy import parse
from pfkey.requests import authenticator, cipher
from pfkey.transport import choose
from tests.keyd.engine.test_dialects import flow
from tests.support.shell import Process

A, B = "10.1.1.1", "20.1.1.1"
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)


@pytest.fixture
def linux(daemon: Process) -> Iterator[Client]:
    with Client(daemon.socket) as client:
        client.flush()
        client.spdflush()
        yield client


def entry(spi: int = 0x1000, mode: int = Mode.TUNNEL) -> SadEntry:
    return SadEntry(
        satype=SaType.ESP, src=A, dst=B, spi=spi, mode=mode, replay=32, encrypt=cipher("aes-cbc"),
        encrypt_key=bytes(range(16)), auth=authenticator("hmac-sha256"), auth_key=bytes(32),
        hard=Limits(addtime=600), soft=Limits(addtime=500),
    )  # fmt: skip


@EACH
def test_sas_come_and_go_in_each_dialect(daemon: Process, linux: Client, dialect: Dialect) -> None:
    with Client(daemon.socket, dialect=dialect.name) as client:
        algorithms = client.register(SaType.ESP)
        assert 12 in {row.id for row in algorithms.encrypt}
        client.add(entry())
        with pytest.raises(ExistsError):
            client.add(entry())
        (shown,) = client.dump()
        (told,) = linux.dump()
        for one in (client.get(SaType.ESP, A, B, 0x1000), shown, told):
            assert (one.spi, one.src, one.dst, one.mode) == (0x1000, A, B, Mode.TUNNEL)
            assert (one.encrypt_key, one.auth_key) == (bytes(range(16)), bytes(32))
            assert (one.replay, one.hard) == (32, Limits(addtime=600))
        client.delete(SaType.ESP, A, B, 0x1000)
        with pytest.raises(NotFoundError):
            client.get(SaType.ESP, A, B, 0x1000)
        assert list(client.dump()) == []


@EACH
def test_an_spi_is_reserved_and_completed(daemon: Process, linux: Client, dialect: Dialect) -> None:
    with Client(daemon.socket, dialect=dialect.name) as client:
        larval = client.getspi(SaType.ESP, A, B, spis=(0x2000, 0x2000))
        assert (larval.spi, larval.src, larval.dst) == (0x2000, A, B)
        client.update(entry(0x2000, Mode.TRANSPORT))
        assert [one.state for one in linux.dump()] == [1]


@pytest.mark.parametrize("dialect", [LINUX, NETBSD, FREEBSD], ids=repr)
def test_policies_come_and_go(daemon: Process, linux: Client, dialect: Dialect) -> None:
    text = "out ipsec esp/tunnel/10.1.1.1-20.1.1.1/require"
    policy = SpdEntry(src="10.0.1.0/24", dst="10.0.2.0/24", policy=parse(text))
    with Client(daemon.socket, dialect=dialect.name) as client:
        added = client.spdadd(policy)
        assert added.id
        (shown,) = client.spddump()
        assert (shown.src, shown.dst, shown.id) == ("10.0.1.0/24", "10.0.2.0/24", added.id)
        assert client.spdget(added.id).policy.requests[0].level == Level.REQUIRE
        client.spddelete("10.0.1.0/24", "10.0.2.0/24", Dir.OUT)
        missing = NotFoundError if dialect is LINUX else InvalidError
        with pytest.raises(missing):
            client.spddelete("10.0.1.0/24", "10.0.2.0/24", Dir.OUT)
        assert list(client.spddump()) == []


def test_flows_are_messages_of_ones_own(daemon: Process, linux: Client) -> None:
    with Client(daemon.socket, dialect="openbsd") as client:
        exchange = client.request(flow(seq=3))
        assert exchange.errno == 0
        (told,) = linux.spddump()
        assert (told.src, told.dst) == ("10.0.1.0/24", "10.7.0.0/16")
        dump = client.request(Message(type=MsgType.X_SPDDUMP, pid=5))
        (shown,) = dump.replies()
        assert shown.dialect is OPENBSD
        assert shown.ext(ExtType.X_FLOW_TYPE).proto == FlowType.REQUIRE  # type: ignore[union-attr]
        with pytest.raises(WireError, match="not of this dialect"):
            client.spdflush()
        with pytest.raises(WireError, match="request id"):
            client.add(SadEntry(satype=SaType.ESP, src=A, dst=B, spi=0x300, reqid=7))


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
def test_what_others_do_is_news_in_ones_own_dialect(
    daemon: Process, linux: Client, dialect: Dialect
) -> None:
    with Client(daemon.socket, dialect=dialect.name) as client:
        linux.add(entry())
        news = client.event(5)
        assert isinstance(news, Notice)
        assert (news.type, news.message.dialect) == (MsgType.ADD, dialect)
        assert news.message.key_encrypt is None
        client.promisc()
        linux.get(SaType.ESP, A, B, 0x1000)
        seen = client.event(5)
        while isinstance(seen, Notice) and seen.type == MsgType.X_PROMISC:  # of its own request
            seen = client.event(5)
        assert isinstance(seen, Notice)
        assert seen.type == MsgType.GET
        assert client.garbled == 0


@EACH
def test_the_trio_client_speaks_it_as_well(
    daemon: Process, linux: Client, dialect: Dialect
) -> None:
    async def go() -> None:
        async with pfkey.connect(daemon.socket, dialect=dialect.name) as client:
            await client.register(SaType.ESP)
            await client.add(entry(0x4000))
            found = [one async for one in client.dump()]
            assert [(one.spi, one.mode) for one in found] == [(0x4000, Mode.TUNNEL)]
            linux.delete(SaType.ESP, A, B, 0x4000)
            with trio.fail_after(5):
                news = await client.event()
            assert isinstance(news, Notice)
            assert news.type == MsgType.DELETE

    trio.run(go)


def test_errno_has_one_meaning_whatever_its_number(daemon: Process, linux: Client) -> None:
    """EOPNOTSUPP is 95 on Linux and 45 elsewhere: one class of error."""
    for dialect in DIALECTS:
        with Client(daemon.socket, dialect=dialect) as client, pytest.raises(UnsupportedError):
            client.add(replace(entry(), src="fe80::1", dst="fe80::2"))


def test_dialects_have_names(daemon: Process) -> None:
    with pytest.raises(MisuseError, match="'solaris': it is one of linux, netbsd"):
        Client(daemon.socket, dialect="solaris")
    with pytest.raises(AbsentError, match=r"absent\.netbsd"):
        Client(daemon.socket.with_name("absent"), dialect="netbsd")
    with pytest.raises(ShellError, match="/ is no socket"):
        Client(Path("/"), dialect="netbsd")


def test_af_key_speaks_as_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(None, "unix") is choose(None, "af_key") is LINUX
    for platform, dialect in (("netbsd10", NETBSD), ("freebsd14", FREEBSD), ("openbsd7", OPENBSD)):
        monkeypatch.setattr("sys.platform", platform)
        assert choose(None, "af_key") is dialect
        assert choose(None, "unix") is LINUX
    assert choose("linux", "af_key") is LINUX


def test_an_acquire_can_be_answered_in_each_dialect() -> None:
    """The event is the same value; what is not told there is None."""
    record = Record(
        satype=SaType.ESP, seq=9, src=Place(bytes(4), 32), dst=Place(bytes((20, 1, 1, 1)), 32),
        policy_id=17,
    )  # fmt: skip
    for dialect in DIALECTS.values():
        event = decode(record.encode(dialect), dialect)
        assert isinstance(event, Acquire)
        assert (event.seq, event.dst, event.satype) == (9, "20.1.1.1", SaType.ESP)
        assert (event.policy is None) == (dialect is OPENBSD)
