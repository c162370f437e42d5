"""Authenticators of ESP and AH, each cut to the length its RFC gives.

HMACs: RFC 2403, 2404, 2857, 4868. AES as a MAC: RFC 3566 (XCBC), RFC 4493 and 4494 (CMAC), RFC
4543 (GMAC, for AH). Key, data, key under a hash: RFC 1828 and 1852. The keyed context is made once
per SA and copied per packet: half the cost of keying it anew.
"""

import hashlib
import hmac as standard
from collections.abc import Callable
from typing import Literal, Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from pfkey.crypto import ciphers
from pfkey.errors import CryptoError, UnsupportedAlgorithmError

Octets = bytes | bytearray | memoryview

_BLOCK = 64  # octets that MD5 and SHA-1 take at a time
_GMAC_SALT_OCTETS = 4


class Integrity(Protocol):
    """What ESP and AH ask of an authenticator.

    Where `iv_octets` is not 0, the first part is an IV of so many octets, which must never come
    twice under one key; it is sent, and is not part of what `icv` returns.
    """

    icv_octets: int
    iv_octets: int

    def icv(self, *parts: Octets) -> bytes:
        """The ICV over the parts, one after the other."""

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """Whether the ICV holds, in a time that does not depend on where it differs."""


class _Cut:
    """What the MACs share: an ICV of so many octets."""

    __slots__ = ("icv_octets",)
    iv_octets = 0

    def __init__(self, icv_octets: int) -> None:
        self.icv_octets = icv_octets

    def __repr__(self) -> str:
        return f"{type(self).__name__}(icv_octets={self.icv_octets}, key=…)"

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        raise NotImplementedError

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """See `Integrity`."""
        return constant_time.bytes_eq(bytes(icv), self.icv(*parts))


class Hmac(_Cut):
    """An HMAC under one key, cut to `icv_octets`."""

    __slots__ = ("_keyed",)

    def __init__(self, algorithm: hashes.HashAlgorithm, key: bytes, icv_octets: int) -> None:
        super().__init__(icv_octets)
        try:
            self._keyed = hmac.HMAC(key, algorithm)
        except (UnsupportedAlgorithm, InternalError) as fault:
            raise UnsupportedAlgorithmError(
                f"HMAC-{algorithm.name} is switched off in this machine's OpenSSL"
            ) from fault

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(part)
        return context.finalize()[: self.icv_octets]


class Cmac(_Cut):
    """AES-CMAC (RFC 4493) under one key, cut to `icv_octets`."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes, icv_octets: int) -> None:
        super().__init__(icv_octets)
        try:
            self._keyed = CMAC(AES(key))
        except ValueError as fault:
            raise CryptoError(f"a key of {len(key) * 8} bits does not fit AES") from fault
        except (UnsupportedAlgorithm, InternalError) as fault:
            raise UnsupportedAlgorithmError(
                "AES-CMAC is switched off in this machine's OpenSSL"
            ) from fault

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(bytes(part))
        return context.finalize()[: self.icv_octets]


class Xcbc(_Cut):
    """AES-XCBC-MAC (RFC 3566 section 4) under one key of 128 bits, cut to `icv_octets`.

    A CBC-MAC under K1 whose last block is mixed with K2, or with K3 where it had to be padded.
    """

    __slots__ = ("_cbc", "_padded", "_whole")

    def __init__(self, key: bytes, icv_octets: int) -> None:
        super().__init__(icv_octets)
        # one block of CBC under an IV of zero is the block cipher itself
        once = ciphers.aes_cbc(key)
        first, self._whole, self._padded = (
            once.seal(bytes(16), bytes([number]) * 16) for number in (1, 2, 3)
        )
        self._cbc = ciphers.aes_cbc(first)

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        message = b"".join(parts)
        if message and len(message) % 16 == 0:
            mask = self._whole
        else:
            mask = self._padded
            message += b"\x80" + bytes(-(len(message) + 1) % 16)
        last = int.from_bytes(message[-16:]) ^ int.from_bytes(mask)
        sealed = self._cbc.seal(bytes(16), b"".join((message[:-16], last.to_bytes(16))))
        return sealed[-16:][: self.icv_octets]


class Ripemd(_Cut):
    """HMAC-RIPEMD-160 of the standard library: the crypto library has no such hash."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes, icv_octets: int) -> None:
        super().__init__(icv_octets)
        try:
            self._keyed = standard.new(key, digestmod="ripemd160")
        except ValueError as fault:
            raise UnsupportedAlgorithmError(
                "HMAC-RIPEMD-160 is switched off in this machine's OpenSSL"
            ) from fault

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(part)
        return context.digest()[: self.icv_octets]


class Keyed(_Cut):
    """A hash over key, fill, data, key (RFC 1828, RFC 1852).

    The fill is the padding that ends the hash of the key alone, its length included, so the data
    begins with a block of its own. DEVIATION from KAME, whose keyed-sha1 writes that length in the
    wrong byte order; NetBSD's own stack does as here (test_keyed_hashes_fill_as_their_hash_does).
    """

    __slots__ = ("_end", "_keyed")

    def __init__(
        self, name: str, order: Literal["little", "big"], key: bytes, icv_octets: int
    ) -> None:
        super().__init__(icv_octets)
        fill = b"\x80" + bytes(-(len(key) + 9) % _BLOCK) + (8 * len(key)).to_bytes(8, order)
        try:
            self._keyed = hashlib.new(name, key + fill, usedforsecurity=False)
        except ValueError as fault:
            raise UnsupportedAlgorithmError(
                f"{name} is switched off in this machine's OpenSSL"
            ) from fault
        self._end = key

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(part)
        context.update(self._end)
        return context.digest()[: self.icv_octets]


class Gmac(_Cut):
    """AES-GMAC in AH (RFC 4543 section 4): GCM over nothing, all octets as AAD.

    The first part is the IV, which with the salt makes the nonce and is not covered.
    """

    __slots__ = ("_aead", "_salt")
    iv_octets = 8

    def __init__(self, key: bytes, icv_octets: int) -> None:
        super().__init__(icv_octets)
        self._salt = key[-_GMAC_SALT_OCTETS:]
        try:
            self._aead = AESGCM(key[:-_GMAC_SALT_OCTETS])
        except (UnsupportedAlgorithm, InternalError) as fault:
            raise UnsupportedAlgorithmError(
                "AES-GMAC is switched off in this machine's OpenSSL"
            ) from fault

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        iv, *rest = parts
        if len(iv) != self.iv_octets:
            raise CryptoError(f"an IV of {len(iv)} octets where a counter of 8 is due")
        return self._aead.encrypt(b"".join((self._salt, iv)), b"", b"".join(rest))


class Null:
    """No authenticator: the ICV is empty and always holds."""

    __slots__ = ()
    icv_octets = 0
    iv_octets = 0

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        return b""

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """See `Integrity`."""
        return not icv


Make = Callable[[bytes, int], Integrity]


def null(key: bytes = b"", icv_octets: int = 0) -> Null:
    """No authenticator."""
    return Null()


def hmac_md5(key: bytes, icv_octets: int = 12) -> Hmac:
    """HMAC-MD5-96, RFC 2403."""
    return Hmac(hashes.MD5(), key, icv_octets)  # noqa: S303 - what the operator's file asks for


def hmac_sha1(key: bytes, icv_octets: int = 12) -> Hmac:
    """HMAC-SHA-1-96, RFC 2404."""
    return Hmac(hashes.SHA1(), key, icv_octets)  # noqa: S303 - what the operator's file asks for


def hmac_sha256(key: bytes, icv_octets: int = 16) -> Hmac:
    """HMAC-SHA-256-128, RFC 4868."""
    return Hmac(hashes.SHA256(), key, icv_octets)


def hmac_sha384(key: bytes, icv_octets: int = 24) -> Hmac:
    """HMAC-SHA-384-192, RFC 4868."""
    return Hmac(hashes.SHA384(), key, icv_octets)


def hmac_sha512(key: bytes, icv_octets: int = 32) -> Hmac:
    """HMAC-SHA-512-256, RFC 4868."""
    return Hmac(hashes.SHA512(), key, icv_octets)


def hmac_ripemd160(key: bytes, icv_octets: int = 12) -> Ripemd:
    """HMAC-RIPEMD-160-96, RFC 2857."""
    return Ripemd(key, icv_octets)


def hmac_sm3(key: bytes, icv_octets: int = 32) -> Hmac:
    """HMAC-SM3, draft-sca-cfrg-sm3 (GB/T 32905); not truncated."""
    return Hmac(hashes.SM3(), key, icv_octets)


def keyed_md5(key: bytes, icv_octets: int = 16) -> Keyed:
    """Keyed MD5, RFC 1828."""
    return Keyed("md5", "little", key, icv_octets)


def keyed_sha1(key: bytes, icv_octets: int = 20) -> Keyed:
    """Keyed SHA, RFC 1852."""
    return Keyed("sha1", "big", key, icv_octets)


def aes_gmac(key: bytes, icv_octets: int = 16) -> Gmac:
    """AES-GMAC in AH, RFC 4543: 16, 24 or 32 octets and the salt."""
    return Gmac(key, icv_octets)


def aes_xcbc(key: bytes, icv_octets: int = 12) -> Xcbc:
    """AES-XCBC-MAC-96, RFC 3566: 16 octets."""
    return Xcbc(key, icv_octets)


def aes_cmac(key: bytes, icv_octets: int = 12) -> Cmac:
    """AES-CMAC-96, RFC 4494: 16 octets."""
    return Cmac(key, icv_octets)
