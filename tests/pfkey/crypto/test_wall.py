"""The wall's front: numbers to primitives, refusals, and what must not leak."""

import pickle
import traceback

import pytest
from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from pfkey import algorithms, crypto
from pfkey.algorithms import Algorithm, Kind
from pfkey.errors import CryptoError, UnsupportedAlgorithmError

DONE = [
    row
    for row in algorithms.AUTH + algorithms.ENCRYPT
    if row.wall in (crypto.AUTHENTICATORS if row.kind == Kind.AUTH else crypto.CIPHERS)
    or (row.kind == Kind.ENCRYPT and row.number in crypto.COUNTER_IV)
]
ISSUE_3 = {
    "auth": {"null", "hmac-md5", "hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"},
    "encrypt": {"null", "3des-cbc", "aes-cbc"},
}


def longest(row: Algorithm) -> int:
    """The octets of its longest key."""
    return (max(row.key_bits) if row.key_bits else row.max_bits) // 8


def made(row: Algorithm, key: bytes) -> object:
    if row.number in crypto.COUNTER_IV and row.kind == Kind.ENCRYPT:
        return crypto.combined(row.number, key)
    make = crypto.integrity if row.kind == Kind.AUTH else crypto.cipher
    return make(row.number, key)


@pytest.mark.parametrize("row", DONE, ids=lambda row: f"{row.kind}-{row.name}")
def test_sizes_are_those_of_the_table(row: Algorithm) -> None:
    key = bytes(range(1, longest(row) + 1))
    if row.kind == Kind.AUTH:
        made = crypto.integrity(row.number, key)
        assert (made.icv_octets, made.iv_octets) == (row.icv, row.iv)
        assert len(made.icv(bytes(row.iv), b"x")) == row.icv
    elif row.number in crypto.COUNTER_IV:
        assert crypto.combined(row.number, key).icv_octets == row.icv
        assert len(crypto.combined(row.number, key).seal(bytes(row.iv), b"x", b"")) == 1 + row.icv
    else:
        cipher = crypto.cipher(row.number, key)
        assert (cipher.block_octets, cipher.iv_octets) == (row.block, row.iv)


@pytest.mark.parametrize("row", DONE, ids=lambda row: f"{row.kind}-{row.name}")
def test_every_key_length_of_the_table_works_and_no_other(row: Algorithm) -> None:
    for octets in range(row.max_bits // 8 + 3):
        key = bytes(range(octets))
        if algorithms.bits_ok(row, octets * 8):
            made(row, key)
        else:
            with pytest.raises(CryptoError, match=row.name):
                made(row, key)


@pytest.mark.parametrize("kind", ["auth", "encrypt"])
def test_what_the_first_examples_need_works_on_this_machine(kind: str) -> None:
    works = crypto.probe()
    for name in ISSUE_3[kind]:
        row = algorithms.by_name(kind, name)
        assert row
        assert (kind, row.number) in works


def test_zero_is_no_algorithm_and_done_as_null() -> None:
    assert crypto.cipher(0, b"").seal(b"", b"text") == b"text"
    assert crypto.integrity(0, b"").icv_octets == 0


@pytest.mark.parametrize("number", [-1, 1, 252, 255, 65535])
def test_an_unknown_number_is_refused_by_number(number: int) -> None:
    with pytest.raises(UnsupportedAlgorithmError, match=str(number)):
        crypto.cipher(number, b"")
    with pytest.raises(UnsupportedAlgorithmError, match=str(number)):
        crypto.integrity(number, b"")


@pytest.mark.parametrize("fault", [UnsupportedAlgorithm("off"), InternalError("off", [])])
def test_a_library_without_an_algorithm_shows_in_the_probe(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """FIPS mode refuses 3DES in either way, only when it is asked to do it."""

    class Off:
        def __init__(self, *args: object) -> None:
            pass

        def encryptor(self) -> None:
            raise fault

        decryptor = encryptor

    monkeypatch.setattr("cryptography.hazmat.primitives.ciphers.Cipher", Off)
    works = crypto.probe()
    ciphers = {number for kind, number in works if kind == "encrypt"}
    # what the library does without its `Cipher`: whole AEADs, and NULL
    assert ciphers == {11, 14, 15, 16, 20, 23, 25}
    assert ("auth", 3) in works


@pytest.mark.parametrize("row", DONE, ids=lambda row: f"{row.kind}-{row.name}")
def test_no_key_in_repr_errors_or_pickles(row: Algorithm) -> None:
    secret = b"hogehogehogehogehogehogehogehogehogehogehogehogehogehogehogehoge"
    key = secret[: longest(row)]
    thing = made(row, key)
    assert "hoge" not in repr(thing)
    if key:
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    with pytest.raises(CryptoError) as caught:
        made(row, secret + secret)
    text = "".join(traceback.format_exception(caught.value))
    assert "hoge" not in text
    assert key.hex() not in text or not key
