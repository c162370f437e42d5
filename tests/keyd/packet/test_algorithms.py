"""Every algorithm that the manuals name, by that name, from the table to a packet and back."""

import pytest
from scapy.layers.ipsec import AUTH_ALGOS, CRYPT_ALGOS

from keyd.model import SaSpec
from keyd.packet import ip
from keyd.packet.ah import AhSa
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from pfkey import algorithms, crypto
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, Mode
from pfkey.crypto import authenticators, ciphers
from tests.pfkey.crypto import test_authenticators, test_ciphers
from tests.support.judge import SCAPY_AUTHS, SCAPY_CIPHERS

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
DEFLATE = {"zlib.deflate"}  # held to zlib itself, by test_deflate.py
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


def test_every_algorithm_that_is_offered_has_published_vectors() -> None:
    """What each wall function was held to, by the tests that hold it; null changes nothing."""
    makers = {*test_ciphers.FILES.values(), ciphers.des_cbc, ciphers.null}  # DES: NIST's, 8 octets
    held = {wall for wall, make in crypto.CIPHERS.items() if make in makers}
    held |= {"ctr.aes", "gcm.aes", "ccm.aes", "gmac.aes", "chacha20-poly1305"}  # counter modes
    macs = {*test_authenticators.FILES.values(), authenticators.null}
    held_macs = {wall for wall, make in crypto.AUTHENTICATORS.items() if make in macs}
    held_macs |= {"xcbc.aes", "cmac.aes", "gmac.aes", "hmac.sm3"}
    held_macs |= {"keyed.md5", "keyed.sha1"}  # RFC 1828 and 1852 have none: held to their words
    for kind, number in crypto.probe():
        row = algorithms.by_number(algorithms.Kind(kind), number)
        assert row
        assert row.wall in {"encrypt": held, "auth": held_macs, "compress": DEFLATE}[kind], row.name


def test_whatever_scapy_can_do_is_held_to_scapy_in_both_directions() -> None:
    """AES-CMAC has no number in any system's PF_KEY, so no SA can ask for it: the wall alone."""
    known = {name for name, one in CRYPT_ALGOS.items() if one.cipher or name == "NULL"}
    assert known == set(SCAPY_CIPHERS.values())
    known = set(AUTH_ALGOS) - {"AES-CMAC-96"}
    assert known == set(SCAPY_AUTHS.values())
    cmac = AUTH_ALGOS["AES-CMAC-96"].new_mac(SECRET[:16])
    cmac.update(HEADER)
    assert authenticators.aes_cmac(SECRET[:16]).icv(HEADER) == cmac.finalize()[:12]
