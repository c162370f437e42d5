"""Algorithms and keys of an SA (RFC 2367 section 3.5), on a machine that does all of the table."""

from errno import EINVAL, ENOSYS

import pytest

from keyd.engine.keying import keying
from keyd.engine.public import without_keys
from keyd.engine.sad import SaKey, describe
from pfkey.algorithms import AUTH, ENCRYPT, ROWS, Algorithm, bits_ok
from pfkey.const import MsgType, SaType
from pfkey.ext_key import Key
from pfkey.message import Message
from tests.keyd.engine.desk import (
    AES,
    KEY24,
    KEY32,
    NULL,
    SHA256,
    A,
    Desk,
    add,
    auth_key,
    cipher_key,
)  # fmt: skip

ALL = frozenset((row.kind.value, row.number) for row in ROWS)
GCM = 20


def key_of(row: Algorithm, bits: int) -> bytes:
    return bytes(n % 251 for n in range(1, bits // 8 + 1))


@pytest.mark.parametrize("row", [row for row in ENCRYPT if row.is_linux], ids=lambda row: row.name)
def test_every_cipher_takes_its_key_lengths_and_no_other(row: Algorithm) -> None:
    desk = Desk(A, usable=ALL)
    auth = 0 if row.is_aead else SHA256
    for spi, octets in enumerate(range(66), 1):
        more = [] if row.is_aead else [auth_key()]
        request = add(
            spi=spi,
            encrypt=row.number,
            auth=auth,
            keys=[cipher_key(key_of(row, 8 * octets)), *more],
        )
        assert desk.errno(request) == (0 if bits_ok(row, 8 * octets) else EINVAL)


@pytest.mark.parametrize(
    "row", [row for row in AUTH if row.is_linux and row.number <= 251], ids=lambda row: row.name
)
def test_every_authenticator_takes_its_key_length_and_no_other(row: Algorithm) -> None:
    desk = Desk(A, usable=ALL)
    for spi, octets in enumerate(range(66), 1):
        keys = [cipher_key(), auth_key(key_of(row, 8 * octets))]
        request = add(spi=spi, auth=row.number, keys=keys)
        assert desk.errno(request) == (0 if bits_ok(row, 8 * octets) else EINVAL)


def test_an_aead_needs_no_authenticator() -> None:
    desk = Desk(A, usable=ALL)
    salted = cipher_key(bytes(range(20)))
    logs = desk.logs(add(spi=1, encrypt=GCM, auth=0, keys=[salted]))
    assert logs == []
    assert desk.errno(add(spi=2, encrypt=GCM, auth=251, keys=[salted])) == 0  # as BSD clients
    assert desk.errno(add(spi=3, encrypt=GCM, keys=[salted, auth_key()])) == EINVAL
    assert len(desk.engine.sas()) == 2
    assert desk.engine.sas()[0].encrypt_key == bytes(range(20))


@pytest.mark.parametrize("request_", [add(auth=0), add(encrypt=NULL), add(encrypt=0)])
def test_a_key_without_an_algorithm_is_refused(request_: Message) -> None:
    assert Desk(A, usable=ALL).errno(request_) == EINVAL


def test_ah_authenticates_and_no_more() -> None:
    desk = Desk(A, usable=ALL)
    good = add(spi=1, encrypt=0, keys=[auth_key()], satype=SaType.AH)
    assert desk.logs(good) == []
    assert (desk.engine.sas()[0].proto, desk.engine.sas()[0].encrypt) == (51, 0)
    for request in (
        add(spi=2, encrypt=0, auth=0, keys=[], satype=SaType.AH),
        add(spi=2, encrypt=0, auth=251, keys=[Key(exttype=8, bits=0, key=b"")], satype=SaType.AH),
        add(spi=2, encrypt=NULL, keys=[auth_key()], satype=SaType.AH),
        add(spi=2, satype=SaType.AH),
    ):
        assert desk.errno(request) == EINVAL


def ipcomp(
    calg: int = 2, spi: int = 0x100, auth: int = 0, keys: list[Key] | None = None, flags: int = 0x40
) -> Message:
    return add(
        spi=spi, encrypt=calg, auth=auth, keys=keys or [], flags=flags, satype=SaType.X_IPCOMP
    )  # fmt: skip


def test_ipcomp_names_its_algorithm_and_has_no_keys() -> None:
    """RFC 3173; Linux's GET and DUMP show the algorithm and no key."""
    desk = Desk(A, usable=ALL)
    for spi, more in ((2, 0x80), (0xFFFF, 0), (0x100, 0)):
        reply = desk.reply(ipcomp(spi=spi, flags=0x40 | more))
        assert reply.errno == 0
        assert reply.sa is not None
        assert (reply.sa.encrypt, reply.sa.spi, reply.sa.flags) == (2, spi, more)
        assert reply.key_encrypt is None
        assert reply.key_auth is None
    assert desk.errno(ipcomp(spi=0x101, keys=[Key(exttype=9, bits=0, key=b"")])) == 0
    assert {sa.proto for sa in desk.engine.sas()} == {108}
    assert desk.logs(ipcomp(spi=0x102)) == []


@pytest.mark.parametrize(
    ("request_", "errno", "reason"),
    [
        (ipcomp(calg=0), EINVAL, "deflate"),
        (ipcomp(calg=5), EINVAL, "none"),
        (ipcomp(calg=3), ENOSYS, "no maintained library"),
        (ipcomp(calg=1), ENOSYS, "vendor"),
        (ipcomp(spi=0x10000), EINVAL, "16 bits"),
        (ipcomp(auth=SHA256, keys=[auth_key()]), EINVAL, "authenticates nothing"),
        (ipcomp(keys=[auth_key()]), EINVAL, "authenticates nothing"),
        (ipcomp(keys=[cipher_key()]), EINVAL, "keys of no bits"),
        (ipcomp(flags=0x41), EINVAL, "no old IPComp"),
        (ipcomp(flags=0x440), EINVAL, "extended"),
    ],
)
def test_what_is_no_ipcomp_is_refused(request_: Message, errno: int, reason: str) -> None:
    desk = Desk(A, usable=ALL - {("compress", 1), ("compress", 3), ("compress", 4)})
    (log,) = desk.logs(request_)
    assert reason in log.text
    assert desk.errno(request_) == errno


def test_null_authenticator_is_no_authenticator() -> None:
    desk = Desk(A, usable=ALL)
    logs = desk.logs(add(encrypt=AES, auth=251, keys=[cipher_key(KEY24)]))
    assert [log.text.split(":")[0] for log in logs] == [
        "esp spi 0x2694 to 20.1.1.1 has no authenticator"
    ]


def test_parity_bits_do_not_hide_a_weak_3des_key() -> None:
    desk = Desk(A)
    parts = b"\x02" * 8 + b"\x03" * 8 + b"\x44" * 8
    logs = desk.logs(add(keys=[cipher_key(parts), auth_key()]))
    assert any("single DES" in log.text for log in logs)


def test_no_repr_shows_a_key() -> None:
    desk = Desk(A)
    desk.ask(add())
    (sa,) = desk.engine._state.sad
    shown = repr(sa) + repr(keying(add(), ALL)) + repr(desk.engine.sas())
    for secret in (KEY24, KEY32):
        assert secret.hex()[:8] not in shown
        assert repr(secret)[2:10] not in shown


def test_names_are_as_people_read_them() -> None:
    v6 = bytes.fromhex("20010db8000000000000000000000001")
    assert describe(SaKey(bytes([10, 0, 0, 1]), 50, 0x100)) == "esp spi 0x100 to 10.0.0.1"
    assert describe(SaKey(v6, 108, 2)) == "ipcomp spi 0x2 to 2001:db8::1"


def test_octets_after_a_broken_length_are_hidden() -> None:
    octets = bytearray(add().encode())
    octets[16:18] = b"\xff\x00"
    shown = without_keys(bytes(octets))
    assert shown == octets[:16] + bytes(len(octets) - 16)
    assert without_keys(b"\x02\x03") == b"\x02\x03"


def test_padding_after_a_key_is_hidden_and_the_length_kept() -> None:
    octets = add(keys=[Key(exttype=9, bits=192, key=KEY24)], auth=0).encode()
    shown = without_keys(octets)
    assert len(shown) == len(octets)
    assert shown[:24] == octets[:24]
    assert shown[24:48] == bytes(24)
    assert shown[48:] == octets[48:]
    assert shown[1] == MsgType.ADD
