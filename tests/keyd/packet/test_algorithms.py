"""Every algorithm that the manuals name, by that name, from the table to a packet and back."""

import pytest

from keyd.model import SaSpec
from keyd.packet import ip
from keyd.packet.ah import AhSa
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from pfkey import algorithms, crypto
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, Mode

CIPHERS = [
    "des-cbc", "3des-cbc", "blowfish-cbc", "cast128-cbc", "camellia-cbc", "rijndael-cbc",
    "aes-cbc", "sm4-cbc", "aes-ctr", "aes-ccm-8", "aes-ccm-12", "aes-ccm-16", "aes-gcm-8",
    "aes-gcm-12", "aes-gcm-16", "aes-gmac", "chacha20-poly1305", "null",
]  # fmt: skip
AUTHENTICATORS = [
    "hmac-md5", "hmac-sha1", "hmac-sha256", "hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512",
    "hmac-ripemd160", "hmac-sm3", "aes-xcbc-mac", "keyed-md5", "keyed-sha1", "null",
]  # fmt: skip
FOR_AH = [*AUTHENTICATORS[:-1], "aes-128-gmac", "aes-192-gmac", "aes-256-gmac"]
# the keys of the manuals' examples, cut or repeated to the length that is due
SECRET = b"hogehogehogehogedeadbeefblowfishtest.001rijndaeltest.001" * 2
HEADER = bytes.fromhex("4500001400070000400300000a0101010a020202")


def row_of(kind: str, name: str) -> algorithms.Algorithm:
    row = algorithms.by_name(kind, name)
    assert row, name
    return row


def keys(row: algorithms.Algorithm) -> list[bytes]:
    lengths = {bits // 8 for bits in row.key_bits or (row.min_bits, row.max_bits)}
    return [SECRET[:octets] for octets in sorted(lengths)]


def spec(proto: int, encrypt: int, encrypt_key: bytes, auth: int, auth_key: bytes) -> SaSpec:
    return SaSpec(
        slot=0, proto=proto, spi=9876, src=bytes(4), dst=bytes(4), mode=Mode.TRANSPORT,
        encrypt=encrypt, encrypt_key=encrypt_key, auth=auth, auth_key=auth_key,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "auth"),
    [
        (name, auth)
        for name in CIPHERS
        for auth in AUTHENTICATORS
        if auth == "null" or not row_of("encrypt", name).is_aead
    ],
)
def test_esp_does_every_pair_that_may_be(name: str, auth: str) -> None:
    cipher, mac = row_of("encrypt", name), row_of("auth", auth)
    for key in keys(cipher):
        made = spec(IPPROTO_ESP, cipher.number, key, mac.number, SECRET[: mac.max_bits // 8])
        sa = EspSa(made)
        packet = sa.seal(1, b"in clear it says so", 17, bytes(sa.iv_octets))
        result = EspSa(made).open(packet)
        assert not isinstance(result, Drop)
        assert (result[0], bytes(result[1])) == (17, b"in clear it says so")
        assert (b"in clear" in packet) == (cipher.name in ("null", "aes-gmac"))
        assert sa.icv_octets == mac.icv + cipher.icv


@pytest.mark.parametrize("auth", FOR_AH)
def test_ah_does_every_authenticator(auth: str) -> None:
    mac = row_of("auth", auth)
    made = spec(IPPROTO_AH, 0, b"", mac.number, SECRET[: mac.max_bits // 8])
    packet = AhSa(made).seal(HEADER, b"in clear it says so", 1, 17, bytes(mac.iv))
    assert isinstance(packet, bytes)
    assert ip.well_formed(packet)
    result = AhSa(made).open(packet)
    assert not isinstance(result, Drop)
    assert (result[0], bytes(result[1])) == (17, b"in clear it says so")


def test_the_probe_finds_them_all_here() -> None:
    works = crypto.probe()
    for kind, names in (("encrypt", CIPHERS), ("auth", AUTHENTICATORS + FOR_AH)):
        assert all((kind, row_of(kind, name).number) in works for name in names)
