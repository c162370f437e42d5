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
