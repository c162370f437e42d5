"""Authenticators of ESP and AH, each cut to the length its RFC gives.

HMACs: RFC 2403, 2404, 2857, 4868. AES as a MAC: RFC 3566 (XCBC) and RFC 4493, 4494 (CMAC). The
keyed context is made once per SA and copied per packet: half the cost of keying it anew.
"""

import hmac as standard
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from pfkey.crypto import ciphers
from pfkey.errors import CryptoError, UnsupportedAlgorithmError

Octets = bytes | bytearray | memoryview


class Integrity(Protocol):
    """What ESP asks of an authenticator."""

    icv_octets: int

    def icv(self, *parts: Octets) -> bytes:
        """The ICV over the parts, one after the other."""

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """Whether the ICV holds, in a time that does not depend on where it differs."""


class _Cut:
    """What the MACs share: an ICV of so many octets."""

    __slots__ = ("icv_octets",)

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


class Null:
    """No authenticator: the ICV is empty and always holds."""

    __slots__ = ()
    icv_octets = 0

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


def aes_xcbc(key: bytes, icv_octets: int = 12) -> Xcbc:
    """AES-XCBC-MAC-96, RFC 3566: 16 octets."""
    return Xcbc(key, icv_octets)


def aes_cmac(key: bytes, icv_octets: int = 12) -> Cmac:
    """AES-CMAC-96, RFC 4494: 16 octets."""
    return Cmac(key, icv_octets)
