"""Authenticators of ESP and AH: HMACs, cut to the length their RFC gives (RFC 2403, 2404, 4868).

The keyed context is made once per SA and copied per packet: half the cost of keying it anew.
"""

from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import constant_time, hashes, hmac

from pfkey.errors import UnsupportedAlgorithmError

Octets = bytes | bytearray | memoryview


class Integrity(Protocol):
    """What ESP asks of an authenticator."""

    icv_octets: int

    def icv(self, *parts: Octets) -> bytes:
        """The ICV over the parts, one after the other."""

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """Whether the ICV holds, in a time that does not depend on where it differs."""


class Hmac:
    """An HMAC under one key, cut to `icv_octets`."""

    __slots__ = ("_keyed", "icv_octets")

    def __init__(self, algorithm: hashes.HashAlgorithm, key: bytes, icv_octets: int) -> None:
        self.icv_octets = icv_octets
        try:
            self._keyed = hmac.HMAC(key, algorithm)
        except (UnsupportedAlgorithm, InternalError) as fault:
            raise UnsupportedAlgorithmError(
                f"HMAC-{algorithm.name} is switched off in this machine's OpenSSL"
            ) from fault

    def __repr__(self) -> str:
        return f"Hmac(icv_octets={self.icv_octets}, key=…)"

    def icv(self, *parts: Octets) -> bytes:
        """See `Integrity`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(part)
        return context.finalize()[: self.icv_octets]

    def verify(self, icv: Octets, *parts: Octets) -> bool:
        """See `Integrity`."""
        return constant_time.bytes_eq(bytes(icv), self.icv(*parts))


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
