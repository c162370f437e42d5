"""Weak keys of DES (FIPS 74, RFC 2405 section 4, RFC 2451 section 2.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.algorithms import by_name
from pfkey.crypto import ciphers
from pfkey.weak_keys import _WEAK_DES, weakness

NAMES = ("des-cbc", "3des-cbc", "aes-cbc")
DES, DES3, AES = (row.number for name in NAMES if (row := by_name("encrypt", name)))


def block(key: bytes, text: bytes) -> bytes:
    return ciphers.des_cbc(key).seal(bytes(8), text)


@given(st.binary(min_size=8, max_size=8))
def test_each_weak_key_has_another_that_undoes_it(text: bytes) -> None:
    """What makes them weak: of the sixteen, itself or its sibling decrypts by encrypting."""
    assert len(_WEAK_DES) == 16
    for key in _WEAK_DES:
        assert any(block(other, block(key, text)) == text for other in _WEAK_DES)


def test_parity_hides_no_weak_key() -> None:
    for key in _WEAK_DES:
        for parity in (bytes(8), b"\1" * 8, b"\0\1" * 4):
            shown = bytes(a | b for a, b in zip(key, parity, strict=True))
            assert "weak" in weakness(DES, shown)


@pytest.mark.parametrize("at", range(3))
def test_3des_with_neighbouring_parts_alike_is_single_des(at: int) -> None:
    parts = [b"hogehoge", b"deadbeef", b"12345678"]
    assert weakness(DES3, b"".join(parts)) == ""
    parts[at] = parts[(at + 1) % 3]
    # the outer two alike is 3DES with two keys, which is what it says
    assert ("single DES" in weakness(DES3, b"".join(parts))) == (at != 2)


@given(st.binary(min_size=8, max_size=8))
def test_nothing_is_said_of_other_keys(key: bytes) -> None:
    stripped = bytes(octet & 0xFE for octet in key)
    assert (weakness(DES, key) == "") == (stripped not in _WEAK_DES)
    assert weakness(AES, key * 2) == weakness(0, b"") == ""
