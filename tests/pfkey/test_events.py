"""Messages that nobody asked for, as events (RFC 2367 sections 3.1.6 to 3.1.8)."""

import errno

import pytest
from hypothesis import given

from pfkey import events
from pfkey.addresses import pair
from pfkey.base import error_reply
from pfkey.const import ExtType, MsgType, SaType
from pfkey.errors import WireError
from pfkey.events import Acquire, Expire, Lost, NewMapping, Notice, PolicyExpire, types_of
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Comb, Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort
from pfkey.message import Message
from pfkey.policy import parse
from tests.pfkey.strategies import messages

ENDS = pair("10.1.1.1", "20.1.1.1")


def message(type: MsgType, *extensions: object, seq: int = 0, errno: int = 0) -> Message:
    return Message(
        type=type, satype=SaType.ESP, seq=seq, errno=errno,
        extensions=extensions,  # type: ignore[arg-type]  # the tests know what they pass
    )  # fmt: skip


def test_an_acquire_says_what_is_wanted_and_by_which_number() -> None:
    policy, proposal = (
        parse("out ipsec esp/transport//require"),
        Proposal(combs=(Comb(encrypt=12),)),
    )
    event = events.decode(message(MsgType.ACQUIRE, *ENDS, policy, proposal, seq=9).encode())
    assert isinstance(event, Acquire)
    assert (event.satype, event.seq, event.src, event.dst) == (3, 9, "10.1.1.1", "20.1.1.1")
    assert (event.policy, event.proposal) == (policy, proposal)


@pytest.mark.parametrize("fired", [ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT])
def test_an_expire_is_hard_or_soft(fired: ExtType) -> None:
    sent = message(MsgType.EXPIRE, Sa(spi=0x2694), Lifetime(exttype=fired, addtime=60), *ENDS)
    event = events.decode(sent.encode())
    assert isinstance(event, Expire)
    assert (event.entry.spi, event.is_hard) == (0x2694, fired == ExtType.LIFETIME_HARD)


def test_a_policy_expires() -> None:
    event = events.decode(message(MsgType.X_SPDEXPIRE, *ENDS, parse("in none")).encode())
    assert isinstance(event, PolicyExpire)
    assert event.entry.src == "10.1.1.1"


def test_a_new_mapping_has_the_new_place_in_dst() -> None:
    """As on Linux, where DST is the new source."""
    sent = message(
        MsgType.X_NAT_T_NEW_MAPPING, Sa(spi=7), ENDS[0],
        NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500), ENDS[1],
        NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=1027),
    )  # fmt: skip
    event = events.decode(sent.encode())
    assert isinstance(event, NewMapping)
    assert (event.spi, event.src, event.src_port) == (7, "10.1.1.1", 4500)
    assert (event.new_src, event.new_port) == ("20.1.1.1", 1027)


@pytest.mark.parametrize(
    "type", [MsgType.ACQUIRE, MsgType.EXPIRE, MsgType.X_SPDEXPIRE, MsgType.X_NAT_T_NEW_MAPPING]
)
def test_one_without_its_parts_is_a_notice(type: MsgType) -> None:
    event = events.decode(message(type).encode())
    assert isinstance(event, Notice)
    assert event.type == type


def test_what_somebody_else_was_refused_is_a_notice() -> None:
    refused = error_reply(message(MsgType.ACQUIRE, *ENDS).encode(), errno.EINVAL)
    assert isinstance(events.decode(refused), Notice)


def test_the_wrapping_of_bsd_is_taken_off() -> None:
    inner = message(MsgType.FLUSH, seq=5).encode()
    head = Message(type=MsgType.X_PROMISC).encode()
    wrapped = head[:4] + (4).to_bytes(2, "little") + head[6:] + inner
    event = events.decode(wrapped)
    assert isinstance(event, Notice)
    assert (event.type, event.message.seq) == (MsgType.FLUSH, 5)


def test_each_message_type_makes_one_class_of_event() -> None:
    kinds = (Acquire, Expire, PolicyExpire, NewMapping, Notice)
    assert types_of(kinds) == frozenset(MsgType)
    assert sum(len(types_of((kind,))) for kind in kinds) == len(MsgType)
    assert types_of((Lost,)) == frozenset()


@given(messages())
def test_any_message_is_an_event(sent: Message) -> None:
    octets = sent.encode()
    try:
        event = events.decode(octets)
    except WireError:
        assert sent.type == MsgType.X_PROMISC  # what it wraps is no message
        return
    assert not isinstance(event, Lost)
    if not isinstance(event, Notice):
        assert {int(sent.type)} <= types_of((type(event),))
