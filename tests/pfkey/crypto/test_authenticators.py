"""The authenticators: RFC 2202, 2286, 2403, 2404, 2857, 3566, 4231, 4493, 4494, 4868."""

import hashlib
import hmac
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import algorithms, crypto
from pfkey.crypto import authenticators
from pfkey.errors import UnsupportedAlgorithmError
from tests.pfkey.crypto.nist import cmac_vectors, hmac_vectors

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
    icv = bytearray(mac.icv(message))
    bit = data.draw(st.integers(0, len(icv) * 8 - 1))
    icv[bit // 8] ^= 1 << bit % 8
    assert not mac.verify(icv, message)
    assert not mac.verify(mac.icv(message)[:-1], message)


def test_null_has_an_empty_icv_that_holds() -> None:
    null = authenticators.null()
    assert null.icv_octets == 0
    assert null.icv(b"anything") == b""
    assert null.verify(b"", b"anything")
    assert not null.verify(b"x", b"anything")
