"""The authenticators: RFC 1828, 1852, 2202, 2286, 2403, 2404, 2857, 3566, 4231, 4493, 4494,
4543 and 4868."""

import hashlib
import hmac
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import algorithms, crypto
from pfkey.crypto import authenticators
from pfkey.errors import CryptoError, UnsupportedAlgorithmError
from tests.pfkey.crypto.nist import cmac_vectors, gcm_vectors, hmac_vectors

ROOT = Path(__file__).parents[3]
RFC3566 = tomllib.loads((ROOT / "specs/vectors/rfc3566.toml").read_text())
FILES = {
    "rfc-2202-md5.txt": authenticators.hmac_md5,
    "rfc-2202-sha1.txt": authenticators.hmac_sha1,
    "rfc-2286-ripemd160.txt": authenticators.hmac_ripemd160,
    "rfc-4231-sha256.txt": authenticators.hmac_sha256,
    "rfc-4231-sha384.txt": authenticators.hmac_sha384,
    "rfc-4231-sha512.txt": authenticators.hmac_sha512,
}
# RFC 4868 section 2.7.2.1, AUTH256-1, -2 and -4's first 128 bits
RFC4868_AUTH256 = [
    (b"\x0b" * 32, b"Hi There", "198a607eb44bfbc69903a0f1cf2bbdc5"),
    (b"Jefe" * 8, b"what do ya want for nothing?", "167f928588c5cc2eef8e3093caa0e87c"),
    (b"\xaa" * 32, b"\xdd" * 50, "cdcb1220d1ecccea91e53aba3092f962"),
]
HASHES = {
    "hmac-md5": "md5", "hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha384": "sha384",
    "hmac-sha512": "sha512", "hmac-ripemd160": "ripemd160",
}  # fmt: skip
# GM/T 0042-2015 appendix D.3, its first example
SM3_KEY = bytes(range(1, 33))
SM3_TEXT = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq" * 2
SM3_MAC = "ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a"
hmac_rows = st.sampled_from([algorithms.by_name("auth", name) for name in HASHES])
all_rows = st.sampled_from([
    row for row in algorithms.AUTH if row.icv and row.wall in crypto.AUTHENTICATORS
])  # fmt: skip


@pytest.mark.parametrize("path", FILES)
def test_published_vectors_hold(path: str) -> None:
    make = FILES[path]
    vectors = hmac_vectors(f"HMAC/{path}")
    assert len(vectors) >= 6
    for key, message, digest in vectors:
        assert make(key, len(digest)).icv(message) == digest
        assert make(key, 12).verify(digest[:12], message)


@pytest.mark.parametrize(("key", "message", "icv"), RFC4868_AUTH256)
def test_sha256_is_cut_to_128_bits(key: bytes, message: bytes, icv: str) -> None:
    row = algorithms.by_name("auth", "hmac-sha2-256")
    assert row
    assert crypto.integrity(row.number, key).icv(message).hex() == icv


@given(hmac_rows, st.data())
def test_icv_is_the_start_of_the_standard_librarys_hmac(
    row: algorithms.Algorithm, data: st.DataObject
) -> None:
    octets = row.min_bits // 8
    key = data.draw(st.binary(min_size=octets, max_size=octets))
    mac = crypto.integrity(row.number, key)
    for parts in data.draw(st.lists(st.lists(st.binary()), max_size=4)):
        whole = hmac.digest(key, b"".join(parts), HASHES[row.name])
        assert mac.icv(*parts) == whole[: mac.icv_octets]
        assert mac.verify(memoryview(whole)[: mac.icv_octets], *parts)
    assert mac.icv_octets == row.icv
    assert row.icv * 2 == hashlib.new(HASHES[row.name]).digest_size or row.icv == 12


@pytest.mark.parametrize("case", RFC3566["case"], ids=lambda case: f"case{case['number']}")
def test_rfc3566_vectors_hold(case: dict[str, Any]) -> None:
    key = bytes.fromhex(RFC3566["key"])
    message = bytes(case["zeros"]) if "zeros" in case else bytes.fromhex(case["message"])
    mac = bytes.fromhex(case["mac"])
    for _ in range(2):  # one after the other under one key
        assert authenticators.aes_xcbc(key, 16).icv(message) == mac
    row = algorithms.by_name("auth", "aes-xcbc-mac")
    assert row
    cut = crypto.integrity(row.number, key)
    assert cut.icv(message) == mac[:12]
    assert cut.icv(message[:7], message[7:]) == mac[:12]
    assert cut.verify(mac[:12], message)
    assert not cut.verify(mac, message)


def test_cmac_vectors_hold() -> None:
    """RFC 4493 section 4 has those of NIST SP 800-38B for 128 bits; RFC 4494 cuts to 96."""
    vectors = cmac_vectors("CMAC/nist-800-38b-aes128.txt")
    assert len(vectors) == 4
    for key, message, mac in vectors:
        assert authenticators.aes_cmac(key, 16).icv(message) == mac
        assert authenticators.aes_cmac(key).icv(memoryview(message)[:5], message[5:]) == mac[:12]
        assert authenticators.aes_cmac(key).verify(bytearray(mac[:12]), message)
        assert not authenticators.aes_cmac(key).verify(mac, message)


def test_hmac_sm3_is_that_of_the_standard() -> None:
    row = algorithms.by_name("auth", "hmac-sm3")
    assert row
    mac = crypto.integrity(row.number, SM3_KEY)
    assert mac.icv(SM3_TEXT).hex() == SM3_MAC
    assert mac.verify(bytes.fromhex(SM3_MAC), SM3_TEXT[:50], SM3_TEXT[50:])
    assert not mac.verify(bytes.fromhex(SM3_MAC), SM3_TEXT[:-1])


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_nist_gcm_vectors_without_plaintext_hold_for_gmac(bits: int) -> None:
    """GMAC is GCM over nothing (NIST SP 800-38D section 6); those that must fail do."""
    row = algorithms.by_name("auth", f"aes-{bits}-gmac")
    assert row
    vectors = [
        vector
        for vector in gcm_vectors(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp")
        if vector.tag_octets == 16 and len(vector.sealed) == 16
    ]
    assert len([v for v in vectors if v.plaintext is None]) >= 20
    assert len([v for v in vectors if v.plaintext == b""]) >= 20
    for vector in vectors:
        mac = crypto.integrity(row.number, vector.key + vector.nonce[:4])
        holds = mac.verify(vector.sealed, vector.nonce[4:], vector.aad)
        assert holds == (vector.plaintext is not None)


@pytest.mark.parametrize("iv", [b"", bytes(7), bytes(12)])
def test_gmac_takes_no_iv_but_of_eight_octets(iv: bytes) -> None:
    with pytest.raises(CryptoError, match="counter"):
        authenticators.aes_gmac(bytes(20)).icv(iv, b"text")


def padded(text: bytes, order: Literal["little", "big"]) -> bytes:
    """What MD5 (RFC 1321 section 3) and SHA-1 (RFC 3174 section 4) hash in the end."""
    zeros = next(n for n in range(64) if (len(text) + 1 + n + 8) % 64 == 0)
    return text + b"\x80" + bytes(zeros) + (8 * len(text)).to_bytes(8, order)


@given(st.binary(max_size=300), st.data())
def test_keyed_hashes_fill_as_their_hash_does(text: bytes, data: st.DataObject) -> None:
    """RFC 1828 and 1852 have no vectors: held to their words, one hash over one buffer."""
    for name, octets, order in (("md5", 16, "little"), ("sha1", 20, "big")):
        row = algorithms.by_name("auth", f"keyed-{name}")
        assert row
        key = data.draw(st.binary(min_size=octets, max_size=octets))
        whole = padded(key, order) + text + key  # type: ignore[arg-type]  # of the two words
        mac = crypto.integrity(row.number, key)
        cut = data.draw(st.integers(0, len(text)))
        assert mac.icv(text[:cut], memoryview(text)[cut:]) == hashlib.new(name, whole).digest()
        assert mac.icv_octets == row.icv == octets


def test_a_machine_without_ripemd_is_not_offered_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **named: object) -> None:
        raise ValueError("unsupported hash type ripemd160")

    row = algorithms.by_name("auth", "hmac-ripemd160")
    assert row
    monkeypatch.setattr("hmac.new", absent)
    with pytest.raises(UnsupportedAlgorithmError, match="RIPEMD"):
        crypto.integrity(row.number, bytes(20))
    assert ("auth", row.number) not in crypto.probe()


@given(all_rows, st.binary(min_size=1), st.data())
def test_one_flipped_bit_is_refused(
    row: algorithms.Algorithm, message: bytes, data: st.DataObject
) -> None:
    mac = crypto.integrity(row.number, bytes(row.min_bits // 8))
    parts = (bytes(row.iv), message) if row.iv else (message,)
    icv = bytearray(mac.icv(*parts))
    bit = data.draw(st.integers(0, len(icv) * 8 - 1))
    icv[bit // 8] ^= 1 << bit % 8
    assert not mac.verify(icv, *parts)
    assert not mac.verify(mac.icv(*parts)[:-1], *parts)


def test_null_has_an_empty_icv_that_holds() -> None:
    null = authenticators.null()
    assert null.icv_octets == 0
    assert null.icv(b"anything") == b""
    assert null.verify(b"", b"anything")
    assert not null.verify(b"x", b"anything")
