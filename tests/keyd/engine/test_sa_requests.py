"""ADD, UPDATE, DELETE, GET (RFC 2367 sections 3.1.2 to 3.1.5) as Linux answers them."""

from dataclasses import replace
from errno import EEXIST, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH
from logging import INFO, WARNING

import pytest

from keyd.engine import Limits
from keyd.engine.effects import InstallSa, Log, RemoveSa, Send
from keyd.model import Usage
from pfkey.const import ExtType, Mode, MsgType, SaState
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.keyd.engine.desk import (
    AES,
    DES3,
    HERE,
    KEY24,
    KEY32,
    NULL,
    SHA256,
    THERE,
    WALL,
    A,
    B,
    C,
    Desk,
    add,
    auth_key,
    cipher_key,
    dst,
    hard,
    message,
    named,
    soft,
    src,
)  # fmt: skip

RECORD = [
    ExtType.SA, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT, ExtType.LIFETIME_CURRENT,
    ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT, ExtType.X_SA2,
]  # fmt: skip
PUBLIC = [t for t in RECORD if t not in (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT)]


def types(of: Message) -> list[int]:
    return [int(extension.exttype) for extension in of.extensions]


def test_add_is_echoed_to_all_with_the_fields_of_linux() -> None:
    desk = Desk(A, B)
    heard = desk.ask(add())
    (echo,) = heard[A]
    assert (echo.type, echo.satype, echo.errno) == (MsgType.ADD, 3, 0)
    assert (echo.seq, echo.pid) == (7, 4711)
    assert types(echo) == RECORD
    assert echo.sa == Sa(spi=0x2694, state=SaState.MATURE, auth=SHA256, encrypt=DES3, flags=0)
    assert echo.sa2 == Sa2(mode=Mode.TRANSPORT)
    assert echo.src == src(proto=0)
    assert echo.dst == dst(proto=0)
    assert echo.hard == hard()
    assert echo.current is not None
    assert echo.current.addtime == WALL
    assert echo.current.usetime == 0
    assert echo.key_encrypt == cipher_key()
    assert [types(m) for m in heard[B]] == [PUBLIC]


def test_no_key_reaches_another_client() -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.X_PROMISC, satype=1), C)
    broken = bytearray(add().encode())
    broken[16] = 200  # the first extension ends beyond the message
    shifted = bytearray(add().encode())
    shifted[16] -= 1  # the key seems shorter than it is
    effects = []
    for request in (
        add(), add(), add(type=MsgType.UPDATE), named(MsgType.GET), bytes(broken), bytes(shifted),
        message(MsgType.DUMP), named(MsgType.DELETE), replace(add(), type=MsgType.X_PROMISC),
    ):  # fmt: skip
        effects += desk.effects(request)
        desk.engine.dump_done(A)
    sends = [e for e in effects if isinstance(e, Send) and e.client != A]
    assert {e.client for e in sends} == {B, C}
    for send in sends:
        assert KEY24[:8] not in send.record
        assert KEY32[:8] not in send.record
    assert "6465" not in repr(desk.engine.sas())


def test_the_data_path_gets_the_sa_before_the_echo() -> None:
    desk = Desk(A)
    effects = desk.effects(add(hard(octets=1000, allocations=5), soft(), replay=4))
    install, echo = effects[-2:]
    assert isinstance(install, InstallSa)
    assert isinstance(echo, Send)
    spec = install.sa
    assert (spec.slot, spec.spi, spec.src, spec.dst) == (0, 0x2694, HERE, THERE)
    assert (spec.encrypt, spec.encrypt_key) == (DES3, KEY24)
    assert (spec.auth, spec.auth_key) == (SHA256, KEY32)
    assert (spec.hard_bytes, spec.hard_packets, spec.flags) == (1000, 5, 0x40)
    assert desk.engine.sas() == (spec,)


def test_mode_any_is_kept_for_the_match_and_shown_as_transport() -> None:
    desk = Desk(A)
    assert desk.reply(add()).sa2 == Sa2(mode=Mode.TRANSPORT)
    assert desk.engine.sas()[0].mode == Mode.ANY


def test_replay_window_is_kept_as_asked() -> None:
    desk = Desk(A)
    for spi, window in ((1, 0), (2, 32), (3, 64), (4, 255)):
        reply = desk.reply(add(spi=spi, replay=window))
        assert reply.sa is not None
        assert reply.sa.replay == window
        assert desk.engine.sas()[-1].replay_packets == window


def test_flags_are_shown_that_change_packets() -> None:
    """Not the one that setkey always sets and Linux reads back as zero."""
    for flags in (0x80000000, 0x100, 0x200):
        reply = Desk(A).reply(add(flags=0x40 | flags))
        assert reply.sa is not None
        assert reply.sa.flags == flags


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (message(MsgType.ADD, satype=3), EINVAL),
        (replace(add(), extensions=add().extensions[:-1]), EINVAL),  # no destination
        (replace(add(), satype=0), EINVAL),
        (replace(add(), satype=7), EINVAL),
        (add(keys=[]), EINVAL),
        (add(keys=[auth_key()]), EINVAL),
        (add(hard()), EINVAL),
        (add(soft(addtime=1)), EINVAL),
        (add(spi=0), EINVAL),
        (add(encrypt=0), EINVAL),
        (add(encrypt=254), EINVAL),
        (add(auth=252), EINVAL),
        (add(encrypt=99), ENOSYS),
        (add(encrypt=20, auth=0, keys=[cipher_key(bytes(20))]), ENOSYS),  # not on this machine
        (add(auth=10), ENOSYS),
        (add(keys=[cipher_key(KEY24[:16]), auth_key()]), EINVAL),
        (add(encrypt=AES, keys=[cipher_key(bytes(17)), auth_key()]), EINVAL),
        (add(encrypt=NULL), EINVAL),
        (add(keys=[cipher_key(), auth_key(KEY32[:20])]), EINVAL),
        (add(keys=[cipher_key()]), EINVAL),
        (add(auth=0), EINVAL),  # a key without an algorithm
        (add(sa2=Sa2(mode=9)), EINVAL),
        (add(type=MsgType.UPDATE), ESRCH),
        (named(MsgType.GET), ESRCH),
        (named(MsgType.DELETE), ESRCH),
        (named(MsgType.DELETE, satype=0), ESRCH),
        (named(MsgType.DELETE, satype=2), ESRCH),
        (message(MsgType.GET, src(), dst(), satype=3), EINVAL),
        (message(MsgType.DELETE, Sa(spi=1), dst(), satype=3), EINVAL),
        (message(MsgType.DELETE, Sa(spi=1), src(), dst(bytes(16), 128), satype=3), EINVAL),
    ],
)
def test_a_wrong_request_is_refused_with_16_octets_for_the_sender(
    request_: Message, errno: int
) -> None:
    desk = Desk(A, B)
    assert desk.errno(request_) == errno
    assert desk.engine.sas() == ()


def test_null_cipher_takes_an_empty_key() -> None:
    desk = Desk(A)
    assert desk.errno(add(encrypt=NULL, keys=[cipher_key(b""), auth_key()])) == 0
    assert desk.engine.sas()[0].encrypt_key == b""


def test_key_length_error_names_algorithm_and_lengths() -> None:
    desk = Desk(A)
    (log,) = desk.logs(add(encrypt=AES, keys=[cipher_key(bytes(17)), auth_key()]))
    assert "aes-cbc takes keys of 128, 192 or 256 bits, not 136 bits" in log.text
    (log,) = desk.logs(add(encrypt=20, auth=0, keys=[cipher_key(bytes(20))]))
    assert "aes-gcm-16 (keys of 160, 224 or 288 bits) is not done: it is switched off" in log.text


def test_same_name_is_eexist_whatever_the_source() -> None:
    desk = Desk(A)
    assert desk.errno(add()) == 0
    other = replace(add(), extensions=(*add().extensions[:-2], src(bytes(4)), dst()))
    assert desk.errno(other) == EEXIST
    assert desk.errno(add(spi=0x2695)) == 0
    assert desk.errno(add(to=HERE)) == 0
    assert [sa.order for sa in desk.engine.sas()] == [1, 2, 3]


def test_a_full_database_is_enobufs() -> None:
    desk = Desk(A, limits=Limits(sas=1))
    assert desk.errno(add()) == 0
    assert desk.errno(add(spi=2)) == 105


def test_get_shows_keys_and_counts_to_the_sender_only() -> None:
    desk = Desk(A, B)
    desk.ask(add(hard(addtime=100), soft(addtime=80)))
    desk.used[0] = Usage(packets=3, octets=252, first_use=WALL + 5.9, last_use=WALL + 9)
    heard = desk.ask(named(MsgType.GET), B)
    assert set(heard) == {B}
    (reply,) = heard[B]
    assert types(reply) == RECORD
    assert reply.hard == hard(addtime=100)
    assert reply.soft == soft(addtime=80)
    assert reply.current is not None
    current = reply.current
    assert (current.allocations, current.octets, current.usetime) == (3, 252, int(WALL + 5))


def test_delete_shows_the_dead_sa_to_all_and_frees_its_slot() -> None:
    desk = Desk(A, B)
    desk.ask(add())
    desk.used[0] = Usage(packets=3, octets=252)
    effects = desk.effects(named(MsgType.DELETE))
    assert isinstance(effects[0], RemoveSa)
    heard = desk.heard(effects)
    assert types(heard[A][0]) == RECORD
    (shown,) = heard[B]
    assert types(shown) == PUBLIC
    assert shown.sa is not None
    assert shown.sa.state == SaState.DEAD
    assert shown.current is not None
    assert shown.current.octets == 252
    assert desk.engine.sas() == ()
    desk.ask(add(spi=2))
    assert desk.engine.sas()[0].slot == 0


def test_lowest_free_slot_is_used_first() -> None:
    desk = Desk(A)
    for spi in range(1, 6):
        desk.ask(add(spi=spi))
    for spi in (4, 2):
        desk.ask(named(MsgType.DELETE, spi))
    for spi in (10, 11, 12):
        desk.ask(add(spi=spi))
    assert [sa.slot for sa in desk.engine.sas()] == [0, 2, 4, 1, 3, 5]


def test_update_keeps_counters_and_replaces_lifetimes() -> None:
    """strongSwan sends what GET told it, with new lifetimes."""
    desk = Desk(A, B)
    desk.ask(add(hard(addtime=10), soft(addtime=5)))
    desk.used[0] = Usage(packets=3, octets=252, first_use=WALL + 1)
    got = desk.reply(named(MsgType.GET))
    assert got.sa is not None
    assert got.sa2 is not None
    assert got.key_encrypt is not None
    assert got.key_auth is not None
    again = message(
        MsgType.UPDATE, got.sa, got.sa2, src(), dst(), soft(addtime=50), hard(addtime=60),
        got.key_encrypt, got.key_auth, satype=3,
    )  # fmt: skip
    effects = desk.effects(again)
    (install,) = (e for e in effects if isinstance(e, InstallSa))
    assert install.sa.slot == 0
    assert install.sa.mode == Mode.ANY
    (echo,) = desk.heard(effects)[A]
    assert echo.hard == hard(addtime=60)
    assert echo.current is not None
    assert (echo.current.octets, echo.current.addtime) == (252, WALL)
    assert not any(isinstance(e, Send) for e in desk.tick(11))


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (add(keys=[cipher_key(KEY24[::-1]), auth_key()], type=MsgType.UPDATE), "keys"),
        (add(replay=32, type=MsgType.UPDATE), "replay window"),
        (add(sa2=Sa2(reqid=5), type=MsgType.UPDATE), "reqid"),
        (
            add(encrypt=AES, keys=[cipher_key(), auth_key()], type=MsgType.UPDATE),
            "algorithms",
        ),
        (
            message(MsgType.UPDATE, *add().extensions[:-2], src(THERE), dst(), satype=3),
            "source",
        ),
    ],
)
def test_update_cannot_change_the_key(request_: Message, word: str) -> None:
    desk = Desk(A)
    desk.ask(add())
    before = desk.engine.sas()
    (log,) = desk.logs(request_)
    assert log.level == WARNING
    assert word in log.text
    assert desk.errno(request_) == EOPNOTSUPP
    assert desk.engine.sas() == before


def test_an_sa_without_authenticator_is_warned_of() -> None:
    desk = Desk(A)
    texts = [log.text for log in desk.logs(add(auth=0, keys=[cipher_key()]))]
    assert any("esp spi 0x2694 to 20.1.1.1 has no authenticator" in text for text in texts)
    assert not any("no authenticator" in log.text for log in desk.logs(add(spi=2)))


def test_a_3des_key_of_equal_parts_is_warned_of_every_time() -> None:
    desk = Desk(A)
    for spi in (1, 2):
        logs = desk.logs(add(spi=spi, keys=[cipher_key(b"hogehoge" * 3), auth_key()]))
        assert any("single DES" in log.text for log in logs)
        assert all("hoge" not in log.text for log in logs)
    assert not any("single DES" in log.text for log in desk.logs(add(spi=3)))


def test_a_legacy_algorithm_is_named_once() -> None:
    desk = Desk(A)
    logs = [log for spi in (1, 2, 3) for log in desk.logs(add(spi=spi))]
    assert [log.text.split()[0] for log in logs] == ["3des-cbc"]
    assert all(isinstance(log, Log) and log.level == WARNING for log in logs)


def test_a_refusal_that_its_errno_does_not_explain_is_in_the_log() -> None:
    desk = Desk(A)
    (unknown,) = desk.logs(add(encrypt=99))
    assert (unknown.level, "ENOSYS" in unknown.text) == (WARNING, True)
    (zero,) = desk.logs(add(spi=0))
    assert (zero.level, "EINVAL" in zero.text) == (INFO, True)
