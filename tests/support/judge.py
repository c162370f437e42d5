"""Scapy as the other implementation: of every algorithm that we have, in both directions.

The packets are scapy's. Where its table lacks an algorithm, a row is made here from libcrypto's
cipher or from the standard library's hash, as its RFC says, with nothing of ours. IPComp, which
scapy does not know, is four octets and zlib.
"""

import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, aead, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.hmac import HMAC
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import (
    AH,
    AUTH_ALGOS,
    CRYPT_ALGOS,
    ESP,
    AuthAlgo,
    CryptAlgo,
    SecurityAssociation,
    split_for_transport,
    zero_mutable_fields,
)
from scapy.packet import Packet, Raw

from pfkey.algorithms import Algorithm

LAYERS = {4: IP, 6: IPv6}
IPCOMP = 108

# scapy's own
SCAPY_CIPHERS = {
    "null": "NULL", "des-cbc": "DES", "3des-cbc": "3DES", "aes-cbc": "AES-CBC",
    "cast128-cbc": "CAST", "blowfish-cbc": "Blowfish", "aes-ctr": "AES-CTR",
    "aes-gcm-16": "AES-GCM",  # with shorter tags scapy has no GCM
    "aes-ccm-8": "AES-CCM", "aes-ccm-12": "AES-CCM", "aes-ccm-16": "AES-CCM",
    "aes-gmac": "AES-NULL-GMAC", "chacha20-poly1305": "CHACHA20-POLY1305",
}  # fmt: skip
SCAPY_AUTHS = {
    "null": "NULL", "hmac-md5": "HMAC-MD5-96", "hmac-sha1": "HMAC-SHA1-96",
    "hmac-sha256": "SHA2-256-128", "hmac-sha384": "SHA2-384-192", "hmac-sha512": "SHA2-512-256",
}  # fmt: skip


class Mac(Protocol):
    """What scapy does with a MAC."""

    def update(self, octets: bytes) -> None: ...

    def finalize(self) -> bytes: ...


class Gathered:
    """A MAC that is made of all octets at once."""

    def __init__(self, mac: Callable[[bytes], bytes]) -> None:
        self._mac, self._octets = mac, b""

    def update(self, octets: bytes) -> None:
        self._octets += octets

    def finalize(self) -> bytes:
        return self._mac(self._octets)


class Auth(AuthAlgo):  # type: ignore[misc] # scapy has no types
    """A row of scapy's table whose MAC is a function of the key and the octets."""

    def __init__(self, name: str, icv: int, mac: Callable[[bytes, bytes], bytes]) -> None:
        super().__init__(name, mac=mac, digestmod=None, icv_size=icv)

    def new_mac(self, key: bytes) -> Mac:
        return Gathered(lambda octets: self.mac(key, octets))


class GmacOfAh(Auth):
    """RFC 4543 section 4: the IV, the nonce without its salt, stands where the ICV begins."""

    def __init__(self) -> None:
        super().__init__("GMAC", 24, lambda key, octets: b"")

    def _icv(self, packet: Packet, key: bytes, iv: bytes) -> bytes:
        covered = bytes(zero_mutable_fields(packet.copy(), sending=False))
        return iv + aead.AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", covered)

    def sign(self, pkt: Packet, key: bytes, **extended: object) -> Packet:
        pkt[AH].icv = self._icv(pkt, key, struct.pack(">Q", 1 << 63 | pkt[AH].seq))
        return pkt

    def verify(self, pkt: Packet, key: bytes, **extended: object) -> None:
        pkt[AH].padding, pkt[AH].icv = pkt[AH].icv[24:], pkt[AH].icv[:24]
        assert pkt[AH].icv == self._icv(pkt, key, pkt[AH].icv[:8])


def xcbc(key: bytes, octets: bytes) -> bytes:
    """RFC 3566 section 4."""

    def block(under: bytes, text: bytes) -> bytes:
        return Cipher(AES(under), modes.ECB()).encryptor().update(text)  # noqa: S305 - one block

    def mixed(one: bytes, other: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(one, other, strict=True))

    first, whole, padded = (block(key, bytes([n]) * 16) for n in (1, 2, 3))
    if not octets or len(octets) % 16:
        octets += b"\x80" + bytes(-(len(octets) + 1) % 16)
        whole = padded
    chained = Cipher(AES(first), modes.CBC(bytes(16))).encryptor().update(octets[:-16])
    return block(first, mixed(mixed(octets[-16:], whole), (bytes(16) + chained)[-16:]))


def keyed(name: str, length: str) -> Callable[[bytes, bytes], bytes]:
    """RFC 1828, RFC 1852: the key filled as its hash fills it, the octets, and the key again."""

    def mac(key: bytes, octets: bytes) -> bytes:
        fill = b"\x80".ljust(56 - len(key), b"\0") + struct.pack(length, len(key) * 8)
        return hashlib.new(name, key + fill + octets + key).digest()

    return mac


CIPHERS: dict[str, Any] = {
    **{name: CRYPT_ALGOS[theirs] for name, theirs in SCAPY_CIPHERS.items()},
    "camellia-cbc": CryptAlgo("Camellia", cipher=Camellia, mode=modes.CBC),
    "sm4-cbc": CryptAlgo("SM4", cipher=SM4, mode=modes.CBC),
    **{
        f"aes-gcm-{octets}": CryptAlgo(
            f"GCM {octets}", cipher=AES, mode=modes.GCM, block_size=1, iv_size=8, salt_size=4,
            icv_size=octets, format_mode_iv=lambda sa, iv, **more: sa.crypt_salt + iv,
        )
        for octets in (8, 12)
    },
}  # fmt: skip
AUTHS: dict[str, Any] = {
    **{name: AUTH_ALGOS[theirs] for name, theirs in SCAPY_AUTHS.items()},
    "hmac-sm3": AuthAlgo("SM3", mac=HMAC, digestmod=hashes.SM3, icv_size=32),
    "hmac-ripemd160": Auth("RIPEMD", 12, lambda key, text: hmac.digest(key, text, "ripemd160")),
    "aes-xcbc-mac": Auth("XCBC", 12, xcbc),
    "keyed-md5": Auth("keyed MD5", 16, keyed("md5", "<Q")),
    "keyed-sha1": Auth("keyed SHA", 20, keyed("sha1", ">Q")),
    **{f"aes-{bits}-gmac": GmacOfAh() for bits in (128, 192, 256)},
}


class Judge(Protocol):
    """What seals and opens packets as another implementation would."""

    def encrypt(self, pkt: Packet, seq_num: int) -> Packet: ...

    def decrypt(self, pkt: Packet) -> Packet: ...


def of_sa(
    spi: int, cipher: Algorithm | None, cipher_key: bytes, auth: Algorithm | None,
    auth_key: bytes, tunnel: Packet | None = None,
) -> Judge:  # fmt: skip
    """An SA of ESP, or of AH where there is no cipher; `tunnel` is the header outside."""
    sa = SecurityAssociation(ESP if cipher else AH, spi=spi, tunnel_header=tunnel)
    if cipher:
        sa.crypt_algo = CIPHERS[cipher.name]
        sa.crypt_icv_size = cipher.icv or None
        end = len(cipher_key) - sa.crypt_algo.salt_size
        sa.crypt_key, sa.crypt_salt = cipher_key[:end], cipher_key[end:]
        sa.crypt_algo.check_key(sa.crypt_key)
    if auth:
        sa.auth_algo, sa.auth_key = AUTHS[auth.name], auth_key
    judge: Judge = sa
    return judge


class Deflated:
    """An SA of IPComp with DEFLATE (RFC 3173, RFC 2394)."""

    def __init__(self, cpi: int, tunnel: Packet | None = None) -> None:
        self._head, self._tunnel = struct.pack(">H", cpi), tunnel

    def encrypt(self, pkt: Packet, seq_num: int) -> Packet:
        if self._tunnel:
            pkt = type(self._tunnel)(bytes(self._tunnel / pkt))
        header, following, payload = split_for_transport(pkt, IPCOMP)
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        octets = deflater.compress(bytes(payload)) + deflater.flush()
        made = bytes(header / Raw(bytes((following, 0)) + self._head + octets))
        return type(header)(made)

    def decrypt(self, pkt: Packet) -> Packet:
        octets = bytes(pkt.payload)
        assert octets[1:4] == b"\0" + self._head
        following, inside = octets[0], zlib.decompress(octets[4:], -15)
        if self._tunnel:
            return LAYERS[{4: 4, 41: 6}[following]](inside)
        pkt.remove_payload()
        if pkt.version == 4:
            pkt.proto = following
            del pkt.len, pkt.chksum
        else:
            pkt.nh = following
            del pkt.plen
        return type(pkt)(bytes(pkt / Raw(inside)))
