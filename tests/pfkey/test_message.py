"""Whole messages: RFC 2367 sections 2.1 and 2.2, as Linux reads them."""

from dataclasses import replace
from errno import EAFNOSUPPORT, EINVAL, EMSGSIZE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.base import SADB_MSG, header
from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType, SaFlag, SaType
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_x_word import Word
from pfkey.message import DECODERS, Message, error_reply
from tests.pfkey import strategies, vectors

EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)


@pytest.mark.parametrize("octets", vectors.REAL)
def test_real_messages_rebuild_identically_from_their_values(octets: bytes) -> None:
    message = Message.decode(octets)
    assert message.octets is octets
    assert message.encode() == octets
    assert replace(message).encode() == octets


def test_dump_record_says_what_setkey_prints() -> None:
    message = Message.decode(vectors.DUMP_RECORD)
    assert (message.type, message.satype) == (MsgType.DUMP, SaType.ESP)
    assert message.sa
    assert message.sa.spi == 0x2694
    assert message.src
    assert (message.src.text, message.src.prefixlen) == ("10.1.1.1", 32)
    assert message.dst
    assert message.dst.text == "20.1.1.1"
    assert message.key_encrypt
    assert message.key_encrypt.key == b"hoge" * 6
    assert message.hard
    assert message.hard.addtime == 86400
    assert message.current
    assert (message.current.allocations, message.current.octets) == (5, 500)
    assert message.sa2
    assert message.sa2.mode == Mode.TRANSPORT
    assert message.key_auth is None


def test_spd_dump_record_says_what_setkey_prints() -> None:
    message = Message.decode(vectors.SPD_DUMP_RECORD)
    assert message.reserved == 1
    policy = message.policy
    assert policy
    assert (policy.type, policy.dir, policy.id) == (PolicyType.IPSEC, Dir.OUT, 1)
    (request,) = policy.requests
    assert (request.src, request.dst) == (bytes([20, 0, 0, 1]), bytes([20, 0, 0, 2]))
    assert (request.mode, request.level) == (Mode.TUNNEL, Level.REQUIRE)


def test_the_first_example_of_the_faq_is_read() -> None:
    add = Message.decode(vectors.ADD_FIRST_EXAMPLE, is_request=True)
    assert [e.exttype for e in add.extensions] == [
        ExtType.KEY_ENCRYPT, ExtType.SA, ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST,
    ]  # fmt: skip
    assert add.sa
    assert (add.sa.spi, add.sa.flags) == (9876, SaFlag.CYCSEQ)
    spdadd = Message.decode(vectors.SPDADD_FIRST_EXAMPLE, is_request=True)
    assert spdadd.policy
    assert spdadd.policy.priority == 0x80000000
    assert spdadd.policy.requests[0].level == Level.USE


def test_a_changed_message_forgets_its_octets() -> None:
    message = replace(Message.decode(vectors.REGISTER), seq=7)
    assert message.octets is None
    assert header(message.encode()).seq == 7


@EACH
@given(st.data())
def test_messages_survive_the_wire(dialect: Dialect, data: st.DataObject) -> None:
    message: Message = data.draw(strategies.messages(dialect))
    octets = message.encode(dialect)
    assert len(octets) % 8 == 0
    decoded = Message.decode(octets, dialect)
    assert decoded == message
    assert decoded.dialect is dialect
    assert replace(decoded).encode(dialect) == octets


@EACH
@given(st.data())
def test_another_dialect_says_the_same_or_refuses(dialect: Dialect, data: st.DataObject) -> None:
    message: Message = data.draw(strategies.messages(dialect))
    other: Dialect = data.draw(st.sampled_from(list(DIALECTS.values())))
    try:
        octets = message.encode(other)
    except WireError:
        return
    again = Message.decode(octets, other)
    assert [e.exttype for e in again.extensions] == [e.exttype for e in message.extensions]
    assert again.encode(other) == octets
    # what was rounded in the first step is not rounded again
    assert Message.decode(replace(again).encode(other), other) == again


def decoded(octets: bytes, dialect: Dialect = LINUX) -> Message | None:
    """The message, or None where a well-formed WireError says why not."""
    try:
        return Message.decode(octets, dialect)
    except WireError as error:
        fault = error
    assert fault.errno in (EINVAL, EMSGSIZE, EAFNOSUPPORT)
    assert 0 <= fault.offset <= max(len(octets), 16)
    assert fault.part
    assert fault.rule
    return None


@EACH
@given(st.binary(max_size=200))
def test_any_octets_parse_or_raise_wire_error(dialect: Dialect, octets: bytes) -> None:
    message = decoded(octets, dialect)
    assert message is None or message.encode(dialect) == octets


@EACH
@given(st.data())
def test_mutations_of_messages_parse_or_raise_wire_error(
    dialect: Dialect, data: st.DataObject
) -> None:
    real = strategies.messages(dialect).map(lambda message: message.encode(dialect))
    if dialect is LINUX:
        real |= st.sampled_from(vectors.REAL)
    octets = data.draw(strategies.mutations(real))
    message = decoded(octets, dialect)
    if message is not None:
        assert message.encode(dialect) == octets
        # what was read can be written, and reads the same
        assert Message.decode(replace(message).encode(dialect), dialect) == message


@EACH
@given(st.data())
def test_header_is_what_the_format_says(dialect: Dialect, data: st.DataObject) -> None:
    message: Message = data.draw(strategies.messages(dialect))
    octets = message.encode(dialect)
    raw = SADB_MSG.parse(octets)
    peek = header(octets, dialect, is_request=False)
    assert (peek.type, peek.satype, peek.errno) == (message.type, message.satype, message.errno)
    assert raw["type"] == dialect.messages.theirs(message.type)
    assert (peek.seq, peek.pid, peek.reserved) == (raw["seq"], raw["pid"], raw["reserved"])
    assert peek.length_octets == len(octets)


@pytest.mark.parametrize(
    ("octets", "errno", "why"),
    [
        (b"", EMSGSIZE, "0 octets"),
        (bytes(15), EMSGSIZE, "15 octets"),
        (bytes.fromhex("01070000020000000000000000000000"), EINVAL, "version 1"),
        (bytes.fromhex("02000000020000000000000000000000"), EINVAL, "no message type 0"),
        (bytes.fromhex("02190000020000000000000000000000"), EINVAL, "no message type 25"),
        (bytes.fromhex("02070000020001000000000000000000"), EINVAL, "reserved is 1"),
        (bytes.fromhex("02070000030000000000000000000000"), EMSGSIZE, "3 words"),
        (bytes.fromhex("02070000010000000000000000000000"), EMSGSIZE, "1 words"),
        # version is asked before the length, the reserved field too
        (bytes.fromhex("01070000ff0000000000000000000000"), EINVAL, "version 1"),
    ],
)
def test_base_header_faults_have_the_errno_of_linux(octets: bytes, errno: int, why: str) -> None:
    with pytest.raises(WireError, match=why) as caught:
        Message.decode(octets, is_request=True)
    assert caught.value.errno == errno


def test_trailing_octets_short_of_a_word_are_a_fault_of_the_walk() -> None:
    with pytest.raises(WireError, match="1 octets are left over") as caught:
        Message.decode(vectors.REGISTER + b"x")
    assert (caught.value.errno, caught.value.offset) == (EINVAL, 16)


def request(*extensions: bytes) -> bytes:
    body = b"".join(extensions)
    return bytes([2, 3, 0, 3]) + ((16 + len(body)) // 8).to_bytes(2, "little") + bytes(10) + body


SA = bytes.fromhex("02000100000026940000000340000000")
SRC = bytes.fromhex("03000500ff200000020000000a0101010000000000000000")


@pytest.mark.parametrize(
    ("octets", "offset", "why"),
    [
        (request(SA, SA), 32, r"sadb_ext \(SA\).*twice"),
        (request(SA, b"\0\0\x05\0" + SRC[4:]), 32, r"sadb_ext \(ADDRESS_SRC\).*0 words"),
        (request(SA, b"\x09\0" + SRC[2:]), 32, r"sadb_ext \(ADDRESS_SRC\).*9 words"),
        (request(SA, b"\x01\0\0\0\0\0\0\0"), 34, "type 0"),
        (request(SRC[:8] + b"\x03" + SRC[9:]), 24, r"sadb_address \(ADDRESS_SRC\).*family 3"),
        (request(SRC[:5] + b"\x21" + SRC[6:]), 21, r"sadb_address \(ADDRESS_SRC\).*33 bits"),
        (request(b"\x04" + SRC[1:] + bytes(8)), 16, r"32 octets, address family 2 takes 24"),
        (request(SRC[:8] + b"\x0a" + SRC[9:]), 16, r"24 octets, address family 10 takes 40"),
        (request(b"\x01\0\x01\0\0\0\0\0"), 16, r"sadb_sa \(SA\).*8 octets, must be 16"),
        (request(b"\x03" + SA[1:] + bytes(8)), 16, r"sadb_sa \(SA\).*24 octets, must be 16"),
        (request(b"\x02\0\x09\0\x80\0\0\0" + bytes(8)), 20, r"sadb_key \(KEY_ENCRYPT\).*128 bits"),
    ],
)
def test_faults_name_extension_offset_and_rule(octets: bytes, offset: int, why: str) -> None:
    with pytest.raises(WireError, match=why) as caught:
        Message.decode(octets)
    assert (caught.value.errno, caught.value.offset) == (EINVAL, offset)


def test_unknown_extensions_are_kept_and_may_stand_twice() -> None:
    unknown = bytes.fromhex("0100c80001020304")
    message = Message.decode(request(SA, unknown, unknown))
    assert [e.exttype for e in message.extensions] == [1, 200, 200]
    assert replace(message).encode() == message.octets


def test_a_longer_key_extension_than_needed_is_read() -> None:
    key = bytes.fromhex("0400090040000000") + b"12345678" + bytes(16)
    message = Message.decode(request(key))
    assert message.key_encrypt
    assert message.key_encrypt.key == b"12345678"


def test_a_key_never_shows_in_a_repr_or_an_error() -> None:
    shown = repr(Message.decode(vectors.DUMP_RECORD))
    assert "hoge" not in shown
    assert b"hoge".hex() not in shown
    cut = vectors.ADD_FIRST_EXAMPLE.replace(b"\xc0\0\0\0", b"\xff\0\0\0")
    with pytest.raises(WireError) as caught:
        Message.decode(cut)
    assert "hoge" not in str(caught.value)


def test_the_refusal_of_linux_is_the_header_alone() -> None:
    expected = bytes.fromhex("020311030200000000000000d2040000")
    assert error_reply(vectors.ADD_FIRST_EXAMPLE, 17) == expected
    assert error_reply(header(vectors.ADD_FIRST_EXAMPLE), 17) == expected
    with pytest.raises(WireError):
        error_reply(b"short", 17)


def test_a_message_too_long_for_its_length_field_is_refused() -> None:
    big = Message.decode(request(SA))
    rows = tuple(replace(big).extensions) * 40000
    with pytest.raises(WireError, match="do not fit a message"):
        replace(big, extensions=rows).encode()


def test_values_out_of_range_are_wire_errors() -> None:
    with pytest.raises(WireError, match="seq does not fit"):
        Message(type=MsgType.ADD, seq=2**32).encode()


def test_every_extension_type_has_a_decoder_and_a_strategy() -> None:
    assert set(DECODERS) == set(ExtType) == strategies.EVERY_TYPE


@EACH
def test_an_extension_of_our_own_tells_that_its_sender_knows_of_them(dialect: Dialect) -> None:
    window = Word(exttype=ExtType.X_REPLAY_WINDOW, value=4096)
    octets = Message(type=MsgType.ADD, satype=SaType.ESP, extensions=(window,)).encode(dialect)
    assert octets[16:] == bytes.fromhex("0100640000100000")
    assert Message.decode(octets, dialect).uses_own
    assert not Message.decode(
        replace(Message.decode(octets, dialect), extensions=()).encode(dialect), dialect
    ).uses_own
