"""Read the published vectors that `cryptography_vectors` carries."""

from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple


class CipherVector(NamedTuple):
    key: bytes
    iv: bytes
    plaintext: bytes
    ciphertext: bytes


class HmacVector(NamedTuple):
    key: bytes
    message: bytes
    digest: bytes


class AeadVector(NamedTuple):
    key: bytes
    nonce: bytes
    plaintext: bytes | None  # None: the tag does not hold
    sealed: bytes
    aad: bytes
    tag_octets: int


def _records(path: str, *complete: str) -> Iterator[dict[str, bytes]]:
    """Records of `NAME = hex` lines; one ends when it has all the names of `complete`."""
    record: dict[str, bytes] = {}
    text = files("cryptography_vectors").joinpath(path).read_text(encoding="ascii")
    for line in text.splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("#") or not equals or name.upper() in ("COUNT", "LEN"):
            continue
        record[name.upper()] = bytes.fromhex(value)
        if set(complete) <= record.keys():
            yield record
            record = {}


def cipher_vectors(path: str) -> list[CipherVector]:
    vectors = []
    for r in _records(path, "PLAINTEXT", "CIPHERTEXT"):
        key = r.get("KEY") or r.get("KEYS") or r["KEY1"] + r["KEY2"] + r["KEY3"]
        vectors.append(CipherVector(key, r["IV"], r["PLAINTEXT"], r["CIPHERTEXT"]))
    return vectors


def hmac_vectors(path: str) -> list[HmacVector]:
    return [HmacVector(r["KEY"], r["MSG"], r["MD"]) for r in _records(path, "KEY", "MSG", "MD")]


def cmac_vectors(path: str) -> list[HmacVector]:
    return [
        HmacVector(r["KEY"], r["MESSAGE"], r["OUTPUT"])
        for r in _records(path, "KEY", "MESSAGE", "OUTPUT")
    ]


def _blocks(path: str) -> Iterator[dict[str, str]]:
    """Blocks between empty lines; what stands in brackets is true of the blocks below it."""
    around: dict[str, str] = {}
    text = files("cryptography_vectors").joinpath(path).read_text(encoding="ascii")
    for block in text.split("\n\n"):
        found: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = (part.strip() for part in line.strip("[] ").partition("="))
            (around if line.startswith("[") else found)[name.upper()] = value
        if "KEY" in found:
            around["KEY"] = found["KEY"]  # CCM's files give one key for many
        yield around | found


def gcm_vectors(path: str) -> list[AeadVector]:
    """Those whose nonce has the 96 bits that ESP's has."""
    return [
        AeadVector(
            bytes.fromhex(r["KEY"]), bytes.fromhex(r["IV"]),
            None if "FAIL" in r else bytes.fromhex(r["PT"]),
            bytes.fromhex(r["CT"] + r["TAG"]), bytes.fromhex(r["AAD"]), len(r["TAG"]) // 2,
        )
        for r in _blocks(path)
        if "CT" in r and r["IVLEN"] == "96"
    ]  # fmt: skip


def ccm_vectors(path: str) -> list[AeadVector]:
    """Those whose nonce has the 11 octets that ESP's has."""
    return [
        AeadVector(
            bytes.fromhex(r["KEY"]), bytes.fromhex(r["NONCE"]), bytes.fromhex(r["PAYLOAD"]),
            bytes.fromhex(r["CT"]), bytes.fromhex(r["ADATA"]), 16,
        )
        for r in _blocks(path)
        if "CT" in r and r["NLEN"] == "11"
    ]  # fmt: skip


def chacha_vectors(path: str) -> list[AeadVector]:
    return [
        AeadVector(
            bytes.fromhex(r["KEY"]), bytes.fromhex(r["IV"]),
            None if "RESULT" in r else bytes.fromhex(r["PLAINTEXT"]),
            bytes.fromhex(r["CIPHERTEXT"] + r["TAG"]), bytes.fromhex(r["AAD"]), 16,
        )
        for r in _blocks(path)
        if "CIPHERTEXT" in r and len(r["IV"]) == 24
    ]  # fmt: skip
