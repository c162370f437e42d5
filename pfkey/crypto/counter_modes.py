"""Counter modes of ESP, with their authenticator: what takes a counter for an IV.

AEADs (RFC 4106 GCM, RFC 4309 CCM, RFC 4543 GMAC, RFC 7634 ChaCha20-Poly1305) and AES-CTR with an
authenticator of its own (RFC 3686). A key ends with its salt, as SADB_EXT_KEY carries it. The IV
is 8 octets and must never come twice under one key: who hands it in counts.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import ciphers as library
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from pfkey.crypto.authenticators import Integrity
from pfkey.errors import CryptoError, UnsupportedAlgorithmError

Octets = bytes | bytearray | memoryview

IV_OCTETS = 8
_TAG_OCTETS = 16
_SPI_OCTETS = 4
_Made = TypeVar("_Made")


class Combined(Protocol):
    """What ESP asks of a cipher that authenticates. Any length of plaintext will do.

    `head` is SPI and sequence number as they are sent. `high` is the upper half of an extended
    sequence number, which the ICV covers though it is not sent: an AEAD between the two (RFC 4106
    section 5), any other at the end (RFC 4303 section 2.2.1).
    """

    icv_octets: int

    def seal(self, iv: Octets, plaintext: Octets, head: Octets, high: bytes = b"") -> bytes:
        """Ciphertext and ICV, without the IV. Raises CryptoError for an IV that is not 8 octets."""

    def open(self, iv: Octets, sealed: Octets, head: Octets, high: bytes = b"") -> bytes | None:
        """The plaintext of ciphertext and ICV; None when the ICV does not hold."""


class _OneShot(Protocol):
    """The shape of the library's AEADs."""

    def encrypt(self, nonce: Octets, data: Octets, associated_data: Octets | None, /) -> bytes: ...
    def decrypt(self, nonce: Octets, data: Octets, associated_data: Octets | None, /) -> bytes: ...


class Aead:
    """An AEAD of the library with its whole tag. The nonce is salt, then IV."""

    __slots__ = ("_aead", "_salt", "icv_octets")

    def __init__(
        self, make: Callable[[bytes], _OneShot], key: bytes, salt_octets: int, icv_octets: int
    ) -> None:
        self.icv_octets = icv_octets
        self._salt = key[-salt_octets:]
        self._aead = _guarded(make, key[:-salt_octets])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(icv_octets={self.icv_octets}, key=…)"

    def seal(self, iv: Octets, plaintext: Octets, head: Octets, high: bytes = b"") -> bytes:
        """See `Combined`."""
        _check_iv(iv)
        aad = _aad(head, high) if high else head
        return self._aead.encrypt(b"".join((self._salt, iv)), plaintext, aad)

    def open(self, iv: Octets, sealed: Octets, head: Octets, high: bytes = b"") -> bytes | None:
        """See `Combined`."""
        _check_iv(iv)
        aad = _aad(head, high) if high else head
        try:
            return self._aead.decrypt(b"".join((self._salt, iv)), sealed, aad)
        except InvalidTag:
            return None


class ShortGcm(Aead):
    """GCM with a tag of 8 or 12 octets, which the library's one-shot form does not take."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes, salt_octets: int, icv_octets: int) -> None:
        super().__init__(aead.AESGCM, key, salt_octets, icv_octets)
        self._key = AES(key[:-salt_octets])

    def seal(self, iv: Octets, plaintext: Octets, head: Octets, high: bytes = b"") -> bytes:
        """See `Combined`. A short tag is the start of the long one."""
        return super().seal(iv, plaintext, head, high)[: self.icv_octets - _TAG_OCTETS]

    def open(self, iv: Octets, sealed: Octets, head: Octets, high: bytes = b"") -> bytes | None:
        """See `Combined`."""
        _check_iv(iv)
        end = len(sealed) - self.icv_octets
        if end < 0:
            return None
        nonce, tag = b"".join((self._salt, iv)), bytes(sealed[end:])
        context = library.Cipher(self._key, GCM(nonce, tag, self.icv_octets)).decryptor()
        context.authenticate_additional_data(_aad(head, high))
        plaintext = context.update(sealed[:end])
        try:
            return plaintext + context.finalize()
        except InvalidTag:
            return None


class Gmac(Aead):
    """ESP with GMAC and no encryption (RFC 4543): GCM over nothing, all octets as AAD."""

    __slots__ = ()

    def seal(self, iv: Octets, plaintext: Octets, head: Octets, high: bytes = b"") -> bytes:
        """See `Combined`."""
        return bytes(plaintext) + super().seal(iv, b"", b"".join((_aad(head, high), iv, plaintext)))

    def open(self, iv: Octets, sealed: Octets, head: Octets, high: bytes = b"") -> bytes | None:
        """See `Combined`."""
        end = len(sealed) - self.icv_octets
        if end < 0:
            return None
        plaintext = bytes(sealed[:end])
        held = super().open(iv, sealed[end:], b"".join((_aad(head, high), iv, plaintext)))
        return None if held is None else plaintext


class CtrThenMac:
    """AES-CTR (RFC 3686), then an authenticator over head, IV, ciphertext (RFC 4303 3.3.2.1)."""

    __slots__ = ("_context", "_integrity", "_salt", "icv_octets")

    def __init__(self, key: bytes, salt_octets: int, integrity: Integrity) -> None:
        self.icv_octets = integrity.icv_octets
        self._integrity = integrity
        self._salt = key[-salt_octets:]
        # one context for both directions: in this mode they are the same
        self._context = _guarded(
            lambda octets: library.Cipher(AES(octets), CTR(bytes(16))).encryptor(),
            key[:-salt_octets],
        )

    def __repr__(self) -> str:
        return f"CtrThenMac(icv_octets={self.icv_octets}, key=…)"

    def seal(self, iv: Octets, plaintext: Octets, head: Octets, high: bytes = b"") -> bytes:
        """See `Combined`."""
        ciphertext = self._apply(iv, plaintext)
        return ciphertext + self._integrity.icv(head, iv, ciphertext, high)

    def open(self, iv: Octets, sealed: Octets, head: Octets, high: bytes = b"") -> bytes | None:
        """See `Combined`."""
        view = memoryview(sealed)
        end = len(view) - self.icv_octets
        if end < 0 or not self._integrity.verify(view[end:], head, iv, view[:end], high):
            return None
        return self._apply(iv, view[:end])

    def _apply(self, iv: Octets, octets: Octets) -> bytes:
        _check_iv(iv)
        # section 4: salt, IV, and a block counter that begins at 1
        self._context.reset_nonce(b"".join((self._salt, iv, b"\0\0\0\1")))
        return self._context.update(octets)


def gcm(key: bytes, salt_octets: int, icv_octets: int) -> Aead:
    """AES-GCM in ESP, RFC 4106: 16, 24 or 32 octets and the salt."""
    if icv_octets == _TAG_OCTETS:
        return Aead(aead.AESGCM, key, salt_octets, icv_octets)
    return ShortGcm(key, salt_octets, icv_octets)


def gmac(key: bytes, salt_octets: int, icv_octets: int) -> Gmac:
    """AES-GMAC in ESP, RFC 4543: as `gcm`."""
    return Gmac(aead.AESGCM, key, salt_octets, icv_octets)


def ccm(key: bytes, salt_octets: int, icv_octets: int) -> Aead:
    """AES-CCM in ESP, RFC 4309: 16, 24 or 32 octets and the salt."""
    return Aead(lambda octets: aead.AESCCM(octets, icv_octets), key, salt_octets, icv_octets)


def chacha20_poly1305(key: bytes, salt_octets: int, icv_octets: int) -> Aead:
    """ChaCha20-Poly1305 in ESP, RFC 7634: 32 octets and the salt."""
    return Aead(aead.ChaCha20Poly1305, key, salt_octets, icv_octets)


def _guarded(make: Callable[[bytes], _Made], key: bytes) -> _Made:
    try:
        return make(key)
    except ValueError as fault:
        # The library's text is not repeated: it is not ours to promise that it has no key.
        raise CryptoError(f"a key of {len(key) * 8} bits does not fit the cipher") from fault
    except (UnsupportedAlgorithm, InternalError) as fault:
        raise UnsupportedAlgorithmError(
            "a counter mode is switched off in this machine's OpenSSL"
        ) from fault


def _aad(head: Octets, high: bytes) -> bytes:
    """What an AEAD covers beside the plaintext: SPI, then the number, of 32 or 64 bits."""
    return b"".join((head[:_SPI_OCTETS], high, head[_SPI_OCTETS:]))


def _check_iv(iv: Octets) -> None:
    if len(iv) != IV_OCTETS:
        raise CryptoError(f"an IV of {len(iv)} octets where a counter of {IV_OCTETS} is due")
