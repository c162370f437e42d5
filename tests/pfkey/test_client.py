"""Which record answers which request, and what is news (RFC 2367 sections 1.3 and 3.1)."""

import errno
import re
import tomllib
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import client, requests
from pfkey.base import error_reply
from pfkey.client import Conversation, Exchange, describe, refusal
from pfkey.const import Dir, MsgType, SaType
from pfkey.entries import SadEntry, SpdEntry
from pfkey.errors import (
    BusyError,
    ExistsError,
    InvalidError,
    MisuseError,
    NoRoomError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    UnsupportedError,
)
from pfkey.events import Acquire, Lost, Notice, types_of
from pfkey.message import Message
from pfkey.policy import parse
from tests.pfkey.strategies import messages

PID = 7
DUMP = Message(type=MsgType.DUMP, pid=PID)
FLUSH = Message(type=MsgType.FLUSH, pid=PID)
SPECS = Path(__file__).parents[2] / "specs" / "tables" / "messages.toml"


def record(seq: int, *, type: int = MsgType.DUMP, pid: int = PID, errno: int = 0) -> bytes:
    return Message(type=type, seq=seq, pid=pid, errno=errno).encode()


def news(number: int, type: int = MsgType.ADD) -> bytes:
    return record(number, type=type, pid=99)


def seqs(conversation: Conversation) -> list[int | Lost]:
    found: list[int | Lost] = []
    while (event := conversation.next_event()) is not None:
        if isinstance(event, Lost):
            found.append(event)
        else:
            assert isinstance(event, Notice)
            found.append(event.message.seq)
    return found


# One exchange.


def test_a_dump_ends_at_sequence_number_zero() -> None:
    exchange = Exchange(DUMP)
    taken = [(exchange.offer(record(seq)), exchange.is_done) for seq in (1, 0, 0)]
    assert taken == [(True, False), (True, True), (False, True)]
    assert [reply.seq for reply in exchange.replies()] == [1, 0]


def test_a_dump_ends_at_an_error() -> None:
    exchange = Exchange(DUMP)
    assert exchange.offer(error_reply(DUMP.encode(), errno.ENOENT))
    assert (exchange.is_done, exchange.errno, exchange.replies()) == (True, errno.ENOENT, [])


def test_what_is_not_ours_is_left_alone() -> None:
    exchange = Exchange(FLUSH)
    for stranger in (
        record(0, type=MsgType.FLUSH, pid=8),
        record(5, type=MsgType.FLUSH),
        record(5, type=MsgType.FLUSH, errno=1),
        record(0, type=MsgType.ADD),
        b"no message",
        b"",
    ):
        assert not exchange.offer(stranger)
    assert exchange.offer(record(0, type=MsgType.FLUSH))


# Many of them.


def test_numbers_of_ours_are_never_those_of_an_acquire() -> None:
    conversation = Conversation(PID, 0x7FFFFFFE)
    stamped = [conversation.stamp(FLUSH) for _ in range(3)]
    assert [one.seq for one in stamped] == [0xFFFFFFFF, 0x80000000, 0x80000001]
    assert {one.pid for one in stamped} == {PID}
    assert conversation.stamp(FLUSH, 12).seq == 12


@given(st.data())
def test_every_request_gets_its_own_replies_whatever_the_order(data: st.DataObject) -> None:
    """Any number at once, replies of different types in any order, others' messages between."""
    conversation = Conversation(PID, 0)
    kinds = data.draw(st.lists(st.sampled_from((MsgType.GET, MsgType.ADD, MsgType.DELETE))))
    exchanges = [conversation.begin(conversation.stamp(Message(type=kind))) for kind in kinds]
    coming: list[tuple[Exchange | None, bytes]] = [
        (e, record(e.request.seq, type=e.request.type)) for e in exchanges
    ]
    others = data.draw(st.integers(0, 5))
    coming += [(None, news(number)) for number in range(others)]
    for exchange, octets in data.draw(st.permutations(coming)):
        assert conversation.feed(octets) is exchange
        if exchange is not None:
            assert exchange.is_done
            assert list(exchange.records) == [octets]
    assert {*seqs(conversation)} == {*range(others)}


def test_equal_requests_are_answered_in_their_order() -> None:
    """A key manager may use the number of one ACQUIRE for two GETSPIs."""
    conversation = Conversation(PID, 0)
    first, second = (conversation.begin(FLUSH) for _ in range(2))
    assert conversation.feed(record(0, type=MsgType.FLUSH, errno=errno.EPERM)) is first
    assert conversation.feed(record(0, type=MsgType.FLUSH)) is second
    assert (first.errno, second.errno) == (errno.EPERM, 0)


def test_late_copies_are_neither_replies_nor_news() -> None:
    """Linux sends two replies to FLUSH; and what was given up is answered late."""
    conversation = Conversation(PID, 0)
    conversation.begin(FLUSH)
    given_up = conversation.begin(conversation.stamp(Message(type=MsgType.GET)))
    conversation.abandon(given_up)
    conversation.feed(record(0, type=MsgType.FLUSH))
    conversation.feed(record(0, type=MsgType.FLUSH))
    conversation.feed(record(given_up.request.seq, type=MsgType.GET))
    assert (conversation.late, conversation.has_news, given_up.is_done) == (2, False, False)


def test_what_is_no_message_is_counted() -> None:
    conversation = Conversation(PID, 0)
    for octets in (b"", b"no message", bytes(16)):
        assert conversation.feed(octets) is None
    broken = bytearray(news(1) + bytes(8))  # an extension of length 0
    broken[4] = 3
    conversation.feed(bytes(broken))
    assert conversation.has_news
    assert conversation.next_event() is None
    assert conversation.garbled == 4


def test_news_beyond_the_queue_is_counted_where_it_is_missing() -> None:
    conversation = Conversation(PID, 0, queue=2)
    for number in range(4):
        conversation.feed(news(number))
    assert conversation.lost == 2
    assert isinstance(first := conversation.next_event(), Notice)
    assert first.message.seq == 0
    conversation.feed(news(4))
    assert seqs(conversation) == [1, Lost(2), 4]
    for number in range(3):
        conversation.feed(news(number))
    assert seqs(conversation) == [0, 1, Lost(1)]
    assert (conversation.lost, conversation.has_news) == (3, False)


def test_a_queue_of_nothing_keeps_nothing() -> None:
    conversation = Conversation(PID, 0, queue=0)
    conversation.feed(news(1))
    assert (conversation.lost, seqs(conversation)) == (1, [Lost(1)])


def test_only_what_is_wanted_takes_room() -> None:
    """A key manager that waits for ACQUIREs is not buried under `setkey -f`."""
    conversation = Conversation(PID, 0, queue=2)
    conversation.feed(news(1))
    conversation.feed(news(2, MsgType.ACQUIRE))
    conversation.hear(types_of((Acquire,)))
    conversation.feed(news(3))
    assert conversation.lost == 0
    assert seqs(conversation) == [2]
    conversation.hear(None)
    conversation.feed(news(4))
    assert seqs(conversation) == [4]


def test_an_abandoned_dump_is_read_to_its_end_and_dropped() -> None:
    conversation = Conversation(PID, 0)
    exchange = conversation.begin(DUMP)
    conversation.feed(record(1))
    conversation.abandon(exchange)
    seen = [(conversation.is_dumping, conversation.wants_more)]
    conversation.feed(record(2))
    conversation.feed(record(0))
    seen.append((conversation.is_dumping, conversation.wants_more))
    assert seen == [(True, True), (False, True)]
    assert (len(exchange.records), exchange.is_done) == (0, True)


def test_reading_stops_while_a_dump_waits_unless_somebody_else_waits() -> None:
    conversation = Conversation(PID, 0)
    dump = conversation.begin(DUMP)
    seen = []
    for seq in range(1, client.DUMP_AHEAD + 1):
        seen.append(conversation.wants_more)
        conversation.feed(record(seq))
    assert all(seen)
    seen = [conversation.wants_more]
    conversation.begin(FLUSH)
    seen.append(conversation.wants_more)
    conversation.feed(record(0, type=MsgType.FLUSH))
    seen.append(conversation.wants_more)
    conversation.is_hurried = True
    seen.append(conversation.wants_more)
    conversation.is_hurried = False
    dump.records.popleft()
    seen.append(conversation.wants_more)
    assert seen == [False, True, False, True, True]


def test_a_dump_without_end_takes_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DUMP_WAITING_MAX", 10)
    conversation = Conversation(PID, 0)
    exchange = conversation.begin(DUMP)
    for seq in range(1, 100):
        conversation.feed(record(seq))
        assert len(exchange.records) <= 10
    with pytest.raises(MisuseError, match="more than 10 records of a dump wait unread"):
        exchange.check()


def test_a_promiscuous_connection_sends_no_other_requests() -> None:
    conversation = Conversation(PID, 0)
    on = conversation.begin(conversation.stamp(requests.promisc(True)))
    conversation.feed(on.request.encode())
    with pytest.raises(MisuseError, match="promiscuous"):
        conversation.allow(FLUSH)
    conversation.feed(on.request.encode())  # the second copy is news to who hears everything
    assert conversation.has_news
    off = conversation.stamp(requests.promisc(False))
    conversation.allow(off)
    conversation.begin(off)
    conversation.feed(off.encode())
    conversation.allow(FLUSH)  # raises nothing any more


def test_a_refused_promisc_leaves_the_connection_as_it_was() -> None:
    conversation = Conversation(PID, 0)
    on = conversation.begin(requests.promisc(True))
    conversation.feed(error_reply(on.request.encode(), errno.EINVAL))
    conversation.allow(FLUSH)


@given(st.lists(st.binary(max_size=60) | messages().map(Message.encode), max_size=20))
def test_any_octets_may_be_fed(octets: list[bytes]) -> None:
    conversation = Conversation(PID, 0, queue=5)
    exchanges = [conversation.begin(m) for m in (FLUSH, DUMP)]
    for one in octets:
        conversation.feed(one)
    while conversation.next_event() is not None:
        pass
    assert len(exchanges[0].records) <= 1
    assert isinstance(exchanges[1].records, deque)


# Refusals.

SECRET = bytes(range(100, 132))
ADD = requests.sa(
    MsgType.ADD,
    SadEntry(satype=SaType.ESP, src="10.1.1.1", dst="20.1.1.1", spi=0x2694, encrypt=12,
             encrypt_key=SECRET, auth=5, auth_key=SECRET),
)  # fmt: skip


@pytest.mark.parametrize(
    ("number", "family"),
    [
        (errno.ENOENT, NotFoundError), (errno.ESRCH, NotFoundError), (errno.ENODATA, NotFoundError),
        (errno.EEXIST, ExistsError),
        (errno.EINVAL, InvalidError), (errno.EMSGSIZE, InvalidError), (errno.ELOOP, InvalidError),
        (errno.EOPNOTSUPP, UnsupportedError), (errno.ENOSYS, UnsupportedError),
        (errno.ENOPROTOOPT, UnsupportedError), (errno.EBUSY, BusyError),
        (errno.ENOBUFS, NoRoomError), (errno.EPERM, NotPermittedError), (999, RefusedError),
    ],
)  # fmt: skip
def test_each_family_of_errno_has_its_error(number: int, family: type[RefusedError]) -> None:
    error = refusal(ADD, number)
    assert type(error) is family
    assert (error.errno, error.request) == (number, ADD)
    assert "ADD esp 10.1.1.1 20.1.1.1 spi 0x00002694: " in str(error)


def test_every_errno_of_the_message_table_has_a_family() -> None:
    table = tomllib.loads(SPECS.read_text())
    named = {name for row in table.values() for name in row.get("errno", {})}
    assert named
    for name in named:
        assert type(refusal(ADD, getattr(errno, name))) is not RefusedError, name


def test_no_key_is_in_a_refusal() -> None:
    error = refusal(ADD, errno.EINVAL)
    for shown in (str(error), repr(error), repr(error.request), repr(error.__dict__)):
        assert SECRET.hex()[:16] not in shown
        assert repr(SECRET)[2:18] not in shown


def test_a_request_is_named_in_a_few_words() -> None:
    entry = SpdEntry(src="10.0.1.0/24", dst="::ffff:0:0/96", policy=parse("out none"), proto=6)
    spd = requests.spddelete("10.0.1.0/24", "0.0.0.0/0", Dir.OUT)
    assert describe(spd) == "SPDDELETE 10.0.1.0/24 0.0.0.0/0 policy"
    assert describe(requests.policy_name(MsgType.X_SPDGET, 9)) == "SPDGET policy 9"
    assert describe(requests.register(77)) == "REGISTER satype 77"
    with pytest.raises(MisuseError, match=re.escape("one is IPv4, the other IPv6")):
        requests.spd(MsgType.X_SPDADD, entry)
