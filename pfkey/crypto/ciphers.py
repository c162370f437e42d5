"""Ciphers of ESP: CBC of RFC 2405, 2451, 3602 and 4312, and NULL of RFC 2410.

One OpenSSL context per direction lives as long as the SA, because making one costs more than
encrypting a packet. CBC carries its state from call to call, the last ciphertext block C; two
identities turn that into one packet after the other:

- *Encrypting under a given IV.* The context computes E(x ⊕ C) for the first block x. Fed with
  P1 ⊕ IV ⊕ C it gives E(P1 ⊕ IV): the packet's true first block.
- *Encrypting a batch.* A block of fresh random octets R fed before a packet comes out as
  E(R ⊕ C), and the packet's first block then as E(P1 ⊕ E(R ⊕ C)). So E(R ⊕ C) is the packet's
  IV, as random and as unforeseeable as R, and many packets need one call
  (NIST SP 800-38A appendix C, first method).

Decrypting needs neither: fed with IV, then the ciphertext, the context answers with one block to
throw away, then the plaintext.
"""

import warnings
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers import algorithms as decrepit
from cryptography.hazmat.primitives import ciphers as library
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.ciphers.modes import CBC

from pfkey.errors import CryptoError, UnsupportedAlgorithmError

Octets = bytes | bytearray | memoryview


class Cipher(Protocol):
    """What ESP asks of a cipher. Lengths are whole blocks; a plaintext has at least one."""

    block_octets: int
    iv_octets: int

    def seal(self, iv: Octets, plaintext: Octets) -> bytes:
        """The ciphertext, without the IV."""

    def open(self, iv: Octets, ciphertext: Octets) -> bytes:
        """The plaintext."""

    def seal_chain(self, octets: Octets) -> bytes:
        """Encrypt packets that each begin with `iv_octets` random octets.

        In the answer, of the same length, each packet begins with its IV.
        """

    def open_chain(self, octets: Octets) -> bytes:
        """Decrypt packets that each begin with their IV; in the answer those octets are noise."""


class Cbc:
    """CBC under one key. Not for two threads: the contexts have state."""

    __slots__ = ("_last", "_opener", "_sealer", "block_octets", "iv_octets")

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        size = algorithm.block_size // 8
        self.block_octets = self.iv_octets = size
        self._last = 0  # the sealer's last ciphertext block
        try:
            context = library.Cipher(algorithm, CBC(bytes(size)))
            self._sealer: CipherContext = context.encryptor()
            self._opener: CipherContext = context.decryptor()
        except (UnsupportedAlgorithm, InternalError) as fault:
            raise UnsupportedAlgorithmError(
                f"{algorithm.name}-CBC is switched off in this machine's OpenSSL"
            ) from fault

    def __repr__(self) -> str:
        return f"Cbc(block_octets={self.block_octets}, key=…)"

    def seal(self, iv: Octets, plaintext: Octets) -> bytes:
        """See `Cipher`.

        Raises:
            CryptoError: no whole blocks, or an IV of another length.
        """
        size = self.block_octets
        if len(iv) != size or not plaintext or len(plaintext) % size:
            raise _not_whole(size, len(iv), len(plaintext))
        first = int.from_bytes(plaintext[:size]) ^ int.from_bytes(iv) ^ self._last
        octets = self._sealer.update(b"".join((first.to_bytes(size), plaintext[size:])))
        self._last = int.from_bytes(octets[-size:])
        return octets

    def open(self, iv: Octets, ciphertext: Octets) -> bytes:
        """See `Cipher`. Raises CryptoError as `seal` does."""
        size = self.block_octets
        if len(iv) != size or not ciphertext or len(ciphertext) % size:
            raise _not_whole(size, len(iv), len(ciphertext))
        return self._opener.update(b"".join((iv, ciphertext)))[size:]

    def seal_chain(self, octets: Octets) -> bytes:
        """See `Cipher`. Raises CryptoError as `seal` does."""
        size = self.block_octets
        if not octets or len(octets) % size:
            raise _not_whole(size, size, len(octets))
        sealed = self._sealer.update(octets)
        self._last = int.from_bytes(sealed[-size:])
        return sealed

    def open_chain(self, octets: Octets) -> bytes:
        """See `Cipher`. Raises CryptoError as `seal` does."""
        if len(octets) % self.block_octets:
            raise _not_whole(self.block_octets, self.block_octets, len(octets))
        return self._opener.update(octets)


class Null:
    """No encryption (RFC 2410): no IV, no key, blocks of one octet."""

    __slots__ = ()
    block_octets = 1
    iv_octets = 0

    def seal(self, iv: Octets, plaintext: Octets) -> bytes:
        """See `Cipher`."""
        return bytes(plaintext)

    def open(self, iv: Octets, ciphertext: Octets) -> bytes:
        """See `Cipher`."""
        return bytes(ciphertext)

    def seal_chain(self, octets: Octets) -> bytes:
        """See `Cipher`."""
        return bytes(octets)

    open_chain = seal_chain


def _not_whole(size: int, iv: int, octets: int) -> CryptoError:
    return CryptoError(f"{octets} octets with an IV of {iv}: not whole blocks of {size} octets")


def _cbc(algorithm: Callable[[bytes], BlockCipherAlgorithm], key: bytes) -> Cbc:
    with warnings.catch_warnings():
        # Weak ciphers are what the operator's file asks for; the table's `standing` warns.
        warnings.simplefilter("ignore")
        try:
            made = algorithm(key)
        except ValueError as fault:
            # The library's text is not repeated: it is not ours to promise that it has no key.
            raise CryptoError(f"a key of {len(key) * 8} bits does not fit the cipher") from fault
        return Cbc(made)


def null(key: bytes = b"") -> Null:
    """NULL, RFC 2410."""
    return Null()


def des_cbc(key: bytes) -> Cbc:
    """DES-CBC, RFC 2405: triple DES with one key three times is DES."""
    return _cbc(decrepit.TripleDES, key * 3)


def des3_cbc(key: bytes) -> Cbc:
    """3DES-CBC, RFC 2451: 24 octets."""
    return _cbc(decrepit.TripleDES, key)


def aes_cbc(key: bytes) -> Cbc:
    """AES-CBC, RFC 3602: 16, 24 or 32 octets."""
    return _cbc(AES, key)


def camellia_cbc(key: bytes) -> Cbc:
    """Camellia-CBC, RFC 4312: 16, 24 or 32 octets."""
    return _cbc(decrepit.Camellia, key)


def sm4_cbc(key: bytes) -> Cbc:
    """SM4-CBC, draft-ribose-cfrg-sm4 (GB/T 32907): 16 octets."""
    return _cbc(SM4, key)


def blowfish_cbc(key: bytes) -> Cbc:
    """Blowfish-CBC, RFC 2451: 5 to 56 octets."""
    return _cbc(decrepit.Blowfish, key)


def cast128_cbc(key: bytes) -> Cbc:
    """CAST-128-CBC, RFC 2451 and 2144: 5 to 16 octets."""
    return _cbc(decrepit.CAST5, key)
