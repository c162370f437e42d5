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
    """Blocks between empty lines; what stands above them, in brackets or not, is true of them."""
    around: dict[str, str] = {}
    text = files("cryptography_vectors").joinpath(path).read_text(encoding="ascii")
    for block in text.split("\n\n"):
        found: dict[str, str] = {}
        for line in block.splitlines():
            for pair in line.strip("[] ").split(", "):
                name, _, value = (part.strip() for part in pair.partition("="))
                (around if line.startswith("[") else found)[name.upper()] = value
        if found.keys() & {"CT", "CIPHERTEXT"}:
            yield around | found
        else:
            around |= found


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


def ccm_vectors(path: str, nonce_octets: int = 11, tag_octets: int = 16) -> list[AeadVector]:
    """Those of these lengths; ESP's nonce has 11 octets."""
    found = []
    for r in _blocks(path):
        plain, tag = int(r.get("PLEN", 0)), tag_octets
        if "CT" not in r or len(r["NONCE"]) != 2 * nonce_octets:
            continue
        if int(r.get("TLEN", tag)) != tag or len(r["CT"]) // 2 - tag != plain:
            continue
        payload = None if r.get("RESULT") == "Fail" else bytes.fromhex(r["PAYLOAD"])[:plain]
        data = bytes.fromhex(r["ADATA"])[: int(r["ALEN"])]
        found.append(
            AeadVector(
                bytes.fromhex(r["KEY"]), bytes.fromhex(r["NONCE"]), payload,
                bytes.fromhex(r["CT"]), data, tag,
            )
        )  # fmt: skip
    return found


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
