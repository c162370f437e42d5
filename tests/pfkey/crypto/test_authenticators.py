"""The authenticators: RFC 2202, 2403, 2404, 4231, 4868."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import algorithms, crypto
from pfkey.crypto import authenticators
from tests.pfkey.crypto.nist import hmac_vectors

FILES = {
    "rfc-2202-md5.txt": authenticators.hmac_md5,
    "rfc-2202-sha1.txt": authenticators.hmac_sha1,
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
    "hmac-sha512": "sha512",
}  # fmt: skip
hmac_rows = st.sampled_from([algorithms.by_name("auth", name) for name in HASHES])


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


@given(hmac_rows, st.binary(min_size=1), st.data())
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
