"""RFC 2367 sections 2.1 to 2.3: alignment, the walk over extensions, refusals."""

from errno import EAGAIN, EINVAL, EMSGSIZE, ENOBUFS

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import base
from pfkey.const import ExtType, MsgType
from pfkey.dialect import FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import WireError
from pfkey.message import Message


@given(st.integers(0, 10_000))
def test_words_hold_their_octets_and_no_word_more(octets: int) -> None:
    assert base.words(octets) * 8 >= octets > (base.words(octets) - 1) * 8
    assert len(base.pad(bytes(octets))) == base.words(octets) * 8


def test_an_unknown_extension_must_fill_its_octets() -> None:
    assert base.Unknown.decode(bytes.fromhex("0100c80001020304")).exttype == 200
    with pytest.raises(WireError, match="2 words do not fill 8 octets"):
        base.Unknown.decode(bytes.fromhex("0200c80001020304"))
    with pytest.raises(WireError, match="no header"):
        base.Unknown.decode(b"\1\0")


def test_errors_name_an_extension_by_structure_and_type() -> None:
    assert base.part("sadb_key", 9) == "sadb_key (KEY_ENCRYPT)"
    assert base.part("sadb_ext", 77) == "sadb_ext (77)"
    assert base.part("sadb_ext", OPENBSD.extensions.ours(77)) == "sadb_ext (77)"


def head(kind: int, words: int = 2, reserved: int = 0) -> bytes:
    return bytes([2, kind, 0, 0, words, 0, reserved, 0]) + bytes(8)


@pytest.mark.parametrize(
    ("dialect", "octets", "errno", "why"),
    [
        (LINUX, head(7, 3), EMSGSIZE, "length of 3 words"),
        (NETBSD, head(7, 3), EINVAL, "length of 3 words"),
        (FREEBSD, b"", EINVAL, "0 octets"),
        (NETBSD, head(24), EINVAL, "no message type 24"),  # NetBSD has no MIGRATE
        (FREEBSD, head(23), EINVAL, "no message type 23"),
        (OPENBSD, head(17), EINVAL, "no message type 17"),
        (LINUX, head(7, reserved=1), EINVAL, "reserved is 1"),
        (OPENBSD, head(7, reserved=1), EINVAL, "reserved is 1"),
        # what only requests must not have
        (NETBSD, head(7, 255) + bytes(2024), ENOBUFS, None),
        (NETBSD, bytes([2, 7, 0, 0, 1, 1]) + bytes(2050), ENOBUFS, "the most is 2048"),
        (FREEBSD, bytes([2, 7, 0, 0, 1, 1]) + bytes(2050), ENOBUFS, "the most is 2048"),
        (OPENBSD, bytes([2, 7, 0, 0, 1, 2]) + bytes(4098), EMSGSIZE, "the most is 4096"),
        (NETBSD, head(7, 3) + b"\1\0\x11\0\0\0\0\0", EINVAL, r"\(X_KMPRIVATE\).*never taken"),
        (OPENBSD, head(7, 3) + b"\1\0\x1a\0\0\0\0\0", EINVAL,
         r"\(X_LOCAL_CREDENTIALS\).*never taken"),
    ],
)  # fmt: skip
def test_requests_are_refused_as_each_system_does(
    dialect: Dialect, octets: bytes, errno: int, why: str | None
) -> None:
    if why is None:
        assert base.header(octets, dialect).length_words == 255
        return
    with pytest.raises(WireError, match=why) as caught:
        Message.decode(octets, dialect, is_request=True)
    assert caught.value.errno == errno


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
def test_an_answer_may_have_what_a_request_may_not(dialect: Dialect) -> None:
    never = next(iter(dialect.never))
    octets = head(7, 3, reserved=5) + b"\1\0" + bytes([dialect.exttype(never), 0]) + bytes(4)
    assert Message.decode(octets, dialect).reserved == 5


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
def test_the_bsds_refuse_extensions_they_do_not_know(dialect: Dialect) -> None:
    octets = head(7, 3) + b"\1\0\xc8\0\0\0\0\0"
    assert Message.decode(octets).extensions[0].exttype == 200
    with pytest.raises(WireError, match="no extension has type 200") as caught:
        Message.decode(octets, dialect)
    assert (caught.value.errno, caught.value.offset) == (EINVAL, 18)


REQUEST = head(7, 3) + b"\1\0\x64\0\7\0\0\0"


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD], ids=repr)
def test_kames_refusals_repeat_the_request(dialect: Dialect) -> None:
    reply = base.error_reply(REQUEST, EAGAIN, dialect)
    assert reply == REQUEST[:2] + b"\x23" + REQUEST[3:]  # EAGAIN is 35 there
    assert Message.decode(reply, dialect).errno == EAGAIN


def test_openbsds_refusals_are_the_header_alone() -> None:
    reply = base.error_reply(REQUEST, EMSGSIZE, OPENBSD)
    assert reply == bytes([2, 7, 40, 0, 2, 0]) + bytes(10)
    assert base.error_reply(base.header(REQUEST, OPENBSD), EMSGSIZE, OPENBSD) == reply


def test_an_errno_the_system_has_not_is_told_as_einval() -> None:
    assert base.error_reply(REQUEST, 74, NETBSD)[2] == EINVAL  # EBADMSG
    assert base.error_reply(REQUEST, 74)[2] == 74


def test_a_field_that_says_no_sa_type_is_no_sa_type() -> None:
    on = Message.decode(bytes([2, 11, 0, 1, 2, 0]) + bytes(10), OPENBSD)
    assert (on.type, on.satype) == (MsgType.X_PROMISC, 1)
    assert on.encode(OPENBSD) == on.octets
    scopes = Message.decode(bytes([2, 18, 0, 11, 2, 0]) + bytes(10), FREEBSD)
    assert (scopes.type, scopes.satype) == (MsgType.X_SPDDUMP, 11)
    assert ExtType.X_REPLAY_WINDOW in OPENBSD.extensions
