"""One layer taken off with its SA: ESP (RFC 4303, RFC 1827), AH (RFC 4302, RFC 1826), IPComp.

A core for those who only look on. An ICV is checked only where the cipher cannot be undone
without it, and no window, no lifetime and no padding is. What cannot be undone is None.
"""

from pfkey import crypto
from pfkey.const import KameFlag, SaFlag
from pfkey.entries import SadEntry
from pfkey.errors import CryptoError

Inside = tuple[int, bytes]  # next header, payload
_INFLATED_MAX = 1 << 16
_SPI_OCTETS, _HEADER_OCTETS, _COUNTER_OCTETS, _TRAILER_OCTETS = 4, 8, 8, 2
_COMP_OCTETS = 4
_AH_LEAST = 8


def is_old(entry: SadEntry | None) -> bool:
    """Whether its packets have no sequence number (`esp-old`, `ah-old`)."""
    return entry is not None and bool(entry.flags & KameFlag.OLD)


def of_ah(payload: bytes) -> Inside | None:
    """Behind AH, which hides nothing."""
    length = (payload[1] + 2) * 4
    return (payload[0], payload[length:]) if _AH_LEAST <= length <= len(payload) else None


def of_ipcomp(entry: SadEntry, payload: bytes) -> Inside | None:
    """What was compressed."""
    try:
        algorithm = crypto.compression(entry.encrypt)
    except CryptoError:
        return None
    plain = algorithm.decompress(payload[_COMP_OCTETS:], _INFLATED_MAX)
    return None if plain is None else (payload[0], plain)


def of_esp(entry: SadEntry, payload: bytes, high: int = 0) -> Inside | None:
    """What was encrypted. `high`: the upper half of an extended sequence number."""
    key, auth_key = entry.encrypt_key or b"", entry.auth_key or b""
    try:
        if entry.encrypt in crypto.COUNTER_IV:
            upper = high.to_bytes(4, "big") if entry.flags & SaFlag.ESN else b""
            combined = crypto.combined(entry.encrypt, key, entry.auth, auth_key)
            start = _HEADER_OCTETS + _COUNTER_OCTETS
            head = payload[:_HEADER_OCTETS]
            plain = combined.open(payload[len(head) : start], payload[start:], head, upper)
        else:
            cipher = crypto.cipher(entry.encrypt, key)
            end = len(payload) - crypto.integrity(entry.auth, auth_key).icv_octets
            iv, start = _iv(entry.flags, cipher.iv_octets, payload)
            plain = cipher.open(iv, payload[start:end])
    except (CryptoError, ValueError):
        return None
    if not plain or len(plain) < _TRAILER_OCTETS or plain[-2] + _TRAILER_OCTETS > len(plain):
        return None
    return plain[-1], bytes(plain[: len(plain) - _TRAILER_OCTETS - plain[-2]])


def _iv(flags: int, octets: int, payload: bytes) -> tuple[bytes, int]:
    """(IV, where the ciphertext begins). One of 32 bits has its complement behind it."""
    at = _SPI_OCTETS if flags & KameFlag.OLD else _HEADER_OCTETS
    if flags & KameFlag.DERIV and octets:  # of the sequence number
        return _doubled(payload[_SPI_OCTETS:at]), at
    if flags & KameFlag.OLD and flags & KameFlag.IV4B and octets:
        return _doubled(payload[at : at + 4]), at + 4
    return payload[at : at + octets], at + octets


def _doubled(octets: bytes) -> bytes:
    return octets + bytes(octet ^ 0xFF for octet in octets)
