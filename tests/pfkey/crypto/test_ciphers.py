"""The ciphers of ESP: RFC 2405, 2410, 2451, 3602, 4312, held to published vectors."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.crypto import ciphers
from pfkey.crypto.ciphers import Cbc
from pfkey.errors import CryptoError
from tests.pfkey.crypto.nist import CipherVector, cipher_vectors

ROOT = Path(__file__).parents[3]
RFC3602 = tomllib.loads((ROOT / "specs/vectors/rfc3602.toml").read_text())
FILES = {
    **{f"AES/CBC/CBC{kind}{bits}.rsp": ciphers.aes_cbc
       for kind in ("GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt") for bits in (128, 192, 256)},
    **{f"3DES/CBC/TCBC{kind}.rsp": ciphers.des3_cbc
       for kind in ("MMT1", "MMT2", "MMT3", "invperm", "permop", "subtab", "varkey", "vartext")},
    "Blowfish/bf-cbc.txt": ciphers.blowfish_cbc,
    "CAST5/cast5-cbc.txt": ciphers.cast128_cbc,
    "Camellia/camellia-cbc.txt": ciphers.camellia_cbc,
    "SM4/draft-ribose-cfrg-sm4-10-cbc.txt": ciphers.sm4_cbc,
}  # fmt: skip
MAKERS = {
    ciphers.aes_cbc: 16, ciphers.des3_cbc: 24, ciphers.des_cbc: 8, ciphers.blowfish_cbc: 16,
    ciphers.cast128_cbc: 16, ciphers.camellia_cbc: 32,
    ciphers.sm4_cbc: 16,
}  # fmt: skip
any_cbc = st.sampled_from(list(MAKERS)).flatmap(
    lambda make: st.binary(min_size=MAKERS[make], max_size=MAKERS[make]).map(
        lambda key: (make, key)
    )
)


def holds(cbc: Cbc, vector: CipherVector) -> bool:
    return (
        cbc.seal(vector.iv, vector.plaintext) == vector.ciphertext
        and cbc.open(vector.iv, vector.ciphertext) == vector.plaintext
    )


@pytest.mark.parametrize("path", FILES)
def test_published_vectors_hold(path: str) -> None:
    vectors = cipher_vectors(f"ciphers/{path}")
    assert vectors
    for vector in vectors:
        triple = 3 if path.startswith("3DES") and len(vector.key) == 8 else 1
        assert holds(FILES[path](vector.key * triple), vector)


@pytest.mark.parametrize("kind", ["varkey", "vartext", "invperm", "permop", "subtab"])
def test_des_vectors_hold_with_the_eight_octet_key_of_des(kind: str) -> None:
    for vector in cipher_vectors(f"ciphers/3DES/CBC/TCBC{kind}.rsp"):
        assert holds(ciphers.des_cbc(vector.key), vector)


@pytest.mark.parametrize("row", RFC3602["cipher"], ids=lambda row: f"case{row['case']}")
def test_rfc3602_cipher_vectors_hold(row: dict[str, str]) -> None:
    names = ("key", "iv", "plaintext", "ciphertext")
    vector = CipherVector(*(bytes.fromhex(row[name]) for name in names))
    assert holds(ciphers.aes_cbc(vector.key), vector)


def test_vectors_hold_one_after_the_other_under_one_key() -> None:
    """The context's state between two packets cancels out."""
    vectors = cipher_vectors("ciphers/AES/CBC/CBCVarTxt128.rsp")
    assert len({vector.key for vector in vectors}) == 1
    cbc = ciphers.aes_cbc(vectors[0].key)
    assert all(holds(cbc, vector) for vector in vectors)


@given(any_cbc, st.data())
def test_a_long_lived_context_equals_a_fresh_one(
    maker: tuple[type[Cbc], bytes], data: st.DataObject
) -> None:
    make, key = maker
    cbc = make(key)  # type: ignore[arg-type]  # makers are functions of a key
    size = cbc.block_octets
    blocks = st.integers(1, 5).flatmap(lambda n: st.binary(min_size=n * size, max_size=n * size))
    ivs = st.binary(min_size=size, max_size=size)
    for iv, plaintext in data.draw(st.lists(st.tuples(ivs, blocks), max_size=5)):
        sealed = cbc.seal(iv, plaintext)
        assert sealed == make(key).seal(iv, plaintext)  # type: ignore[arg-type]
        assert cbc.open(iv, sealed) == plaintext
        chain = cbc.seal_chain(iv + plaintext)
        assert make(key).seal(chain[:size], plaintext) == chain[size:]  # type: ignore[arg-type]
        assert cbc.open_chain(chain)[size:] == plaintext


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_batch_of_equal_packets_has_an_iv_for_each(key: bytes, seed: bytes) -> None:
    """Even a seed used again gives another IV, because what was sent before is mixed in."""
    chain = ciphers.aes_cbc(key).seal_chain((seed + bytes(16)) * 50)
    ivs = {chain[at : at + 16] for at in range(0, len(chain), 32)}
    assert len(ivs) == 50
    assert seed not in ivs


@given(st.binary())
def test_null_changes_nothing(octets: bytes) -> None:
    null = ciphers.null()
    assert null.seal(b"", octets) == null.open(b"", octets) == octets
    assert null.seal_chain(octets) == null.open_chain(octets) == octets


@pytest.mark.parametrize("octets", [0, 1, 15, 17, 31])
def test_a_broken_block_is_refused_and_leaves_the_context_whole(octets: int) -> None:
    key, iv = bytes(range(16)), bytes(16)
    cbc = ciphers.aes_cbc(key)
    for call in (cbc.seal, cbc.open):
        with pytest.raises(CryptoError, match="16"):
            call(iv, bytes(octets))
    if octets:
        with pytest.raises(CryptoError):
            cbc.open_chain(bytes(octets))
    with pytest.raises(CryptoError):
        cbc.seal_chain(bytes(octets))
    with pytest.raises(CryptoError):
        cbc.seal(iv[1:], bytes(16))
    assert cbc.open(iv, ciphers.aes_cbc(key).seal(iv, bytes(32))) == bytes(32)
    assert cbc.seal(iv, bytes(32)) == ciphers.aes_cbc(key).seal(iv, bytes(32))


def test_a_key_the_library_refuses_is_a_crypto_error_without_the_key() -> None:
    key = b"sevenoct"[:7]
    with pytest.raises(CryptoError) as caught:
        ciphers.aes_cbc(key)
    assert "56 bits" in str(caught.value)
    assert key.hex() not in str(caught.value)
