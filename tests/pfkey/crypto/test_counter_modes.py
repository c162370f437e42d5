"""Counter modes: RFC 3686, 4106, 4309, 4543, 7634, held to published vectors.

Whole ESP packets are in `tests/keyd/packet/test_esp.py`.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import algorithms, crypto
from pfkey.crypto import authenticators, counter_modes
from pfkey.crypto.counter_modes import Combined
from pfkey.errors import CryptoError
from tests.pfkey.crypto.nist import (
    AeadVector,
    ccm_vectors,
    chacha_vectors,
    cipher_vectors,
    gcm_vectors,
)

ROWS = [row for row in algorithms.ENCRYPT if row.number in crypto.COUNTER_IV]
HMAC = 3
rows = st.sampled_from(ROWS)
ivs = st.binary(min_size=8, max_size=8)


def made_of(row: algorithms.Algorithm) -> Combined:
    key = bytes(range(1, row.max_bits // 8 + 1))
    return crypto.combined(row.number, key, *((0, b"") if row.is_aead else (HMAC, bytes(20))))


def holds(mode: Combined, vector: AeadVector, salt_octets: int) -> bool:
    iv = vector.nonce[salt_octets:]
    if mode.open(iv, vector.sealed, vector.aad) != vector.plaintext:
        return False
    return vector.plaintext is None or (
        mode.seal(iv, vector.plaintext, vector.aad) == vector.sealed
    )


# Vectors


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_rfc3686_vectors_hold(bits: int) -> None:
    vectors = cipher_vectors(f"ciphers/AES/CTR/aes-{bits}-ctr.txt")
    assert len(vectors) == 3
    for key, block, plaintext, ciphertext in vectors:
        salt, iv, first = block[:4], block[4:12], block[12:]
        assert first == bytes.fromhex("00000001")
        mode = counter_modes.CtrThenMac(key + salt, 4, authenticators.null())
        for _ in range(2):  # one after the other under one key
            assert mode.seal(iv, plaintext, b"") == ciphertext
            assert mode.open(iv, ciphertext, b"") == plaintext


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("tag", [8, 12, 16])
def test_nist_gcm_vectors_hold_for_tags_of_all_lengths(bits: int, tag: int) -> None:
    vectors = [
        vector
        for vector in gcm_vectors(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp")
        if vector.tag_octets == tag
    ]
    assert len(vectors) >= 300
    assert any(vector.plaintext is None for vector in vectors)
    for vector in vectors:
        assert holds(counter_modes.gcm(vector.key + vector.nonce[:4], 4, tag), vector, 4)


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_nist_ccm_vectors_hold(bits: int) -> None:
    vectors = ccm_vectors(f"ciphers/AES/CCM/VNT{bits}.rsp")
    assert len(vectors) == 10
    for vector in vectors:
        assert holds(counter_modes.ccm(vector.key + vector.nonce[:3], 3, 16), vector, 3)


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("tag", [8, 12, 16])
def test_nist_ccm_vectors_hold_for_tags_of_all_lengths(bits: int, tag: int) -> None:
    """Their nonce has 13 octets, so the salt gets two more than ESP's; the tag is what counts."""
    vectors = ccm_vectors(f"ciphers/AES/CCM/VTT{bits}.rsp", 13, tag)
    assert len(vectors) == 10
    for vector in vectors:
        assert holds(counter_modes.ccm(vector.key + vector.nonce[:5], 5, tag), vector, 5)


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_nist_ccm_vectors_that_must_fail_do(bits: int) -> None:
    vectors = ccm_vectors(f"ciphers/AES/CCM/DVPT{bits}.rsp", 13)
    assert sum(vector.plaintext is None for vector in vectors) >= 30
    assert sum(vector.plaintext is not None for vector in vectors) >= 10
    for vector in vectors:
        assert holds(counter_modes.ccm(vector.key + vector.nonce[:5], 5, 16), vector, 5)


def test_chacha20_poly1305_vectors_hold() -> None:
    vectors = chacha_vectors("ciphers/ChaCha20Poly1305/openssl.txt")
    assert any(vector.plaintext is None for vector in vectors)
    assert sum(vector.plaintext is not None for vector in vectors) >= 4
    for vector in vectors:
        assert holds(
            counter_modes.chacha20_poly1305(vector.key + vector.nonce[:4], 4, 16), vector, 4
        )


# Laws


@given(rows, ivs, st.binary(max_size=200), st.binary(max_size=12))
def test_what_is_sealed_opens(
    row: algorithms.Algorithm, iv: bytes, plaintext: bytes, aad: bytes
) -> None:
    sealed = made_of(row).seal(iv, plaintext, aad)
    mode = made_of(row)
    assert len(sealed) == len(plaintext) + mode.icv_octets
    assert mode.open(iv, sealed, aad) == plaintext
    view = memoryview(b"x" + iv + sealed + aad)
    assert mode.open(view[1:9], view[9 : 9 + len(sealed)], view[9 + len(sealed) :]) == plaintext
    assert made_of(row).seal(bytearray(iv), memoryview(plaintext), bytearray(aad)) == sealed


@given(rows, ivs, st.binary(min_size=1, max_size=40), st.data())
def test_one_flipped_bit_anywhere_is_refused(
    row: algorithms.Algorithm, iv: bytes, plaintext: bytes, data: st.DataObject
) -> None:
    mode, aad = made_of(row), b"spi+sequ"
    whole = bytearray(aad + iv + mode.seal(iv, plaintext, aad))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    assert mode.open(whole[8:16], whole[16:], whole[:8]) is None


@given(rows, ivs, st.binary(max_size=60))
def test_any_octets_open_or_not_and_never_raise(
    row: algorithms.Algorithm, iv: bytes, octets: bytes
) -> None:
    assert made_of(row).open(iv, octets, b"") is None


@given(rows, ivs, ivs)
def test_another_counter_gives_another_key_stream(
    row: algorithms.Algorithm, one: bytes, two: bytes
) -> None:
    mode = made_of(row)
    sealed = [mode.seal(iv, bytes(32), b"")[:32] for iv in (one, two)]
    if row.wall != "gmac.aes":
        assert (sealed[0] == sealed[1]) == (one == two)
    assert mode.seal(one, bytes(32), b"") == made_of(row).seal(one, bytes(32), b"")


# Refusals


@given(rows, st.binary(max_size=20))
def test_only_an_iv_of_eight_octets_will_do(row: algorithms.Algorithm, iv: bytes) -> None:
    mode = made_of(row)
    if len(iv) != 8:
        with pytest.raises(CryptoError, match="counter"):
            mode.seal(iv, b"", b"")


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_aead], ids=lambda row: row.name)
def test_an_aead_takes_no_second_authenticator(row: algorithms.Algorithm) -> None:
    key = bytes(row.min_bits // 8)
    crypto.combined(row.number, key, 251)
    with pytest.raises(CryptoError, match="one too many"):
        crypto.combined(row.number, key, HMAC, bytes(20))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_counter_mode_is_no_cipher_for_random_ivs(row: algorithms.Algorithm) -> None:
    with pytest.raises(CryptoError, match="counter"):
        crypto.cipher(row.number, bytes(row.min_bits // 8))


@pytest.mark.parametrize("number", [0, 12, 255])
def test_what_is_no_counter_mode_is_refused(number: int) -> None:
    with pytest.raises(CryptoError, match=str(number)):
        crypto.combined(number, bytes(16))


def test_the_probe_finds_the_counter_modes() -> None:
    works = {number for kind, number in crypto.probe() if kind == "encrypt"}
    assert works >= crypto.COUNTER_IV
    assert {13, 14, 15, 16, 18, 19, 20, 23, 25} <= crypto.COUNTER_IV
