"""The crypto wall: keys meet octets here, and the crypto library is imported nowhere else.

Compression, which has no keys, is here because SAs name it as they name a cipher.

Algorithms are named by their numbers in SADB messages; 0, no algorithm, is done as NULL. What a
number means, its key lengths and the length of its ICV stand in `pfkey.algorithms`; here each
primitive that the table names has its function. Only `CryptoError` and its children are raised.
"""

from collections.abc import Callable

from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from pfkey import algorithms
from pfkey.algorithms import Algorithm, Kind
from pfkey.crypto import authenticators, ciphers, counter_modes
from pfkey.crypto.authenticators import Integrity
from pfkey.crypto.ciphers import Cipher
from pfkey.crypto.counter_modes import Combined, CtrThenMac
from pfkey.crypto.deflate import Compression, Deflate
from pfkey.errors import CryptoError, UnsupportedAlgorithmError

__all__ = [
    "COUNTER_IV",
    "Cipher",
    "Combined",
    "Compression",
    "Integrity",
    "cipher",
    "combined",
    "compression",
    "integrity",
    "probe",
]

# The SADB_EALG numbers whose IV is a counter that must never come twice under one key, not a
# random block: `combined` makes them, `cipher` does not. Only their IV is longer than a block.
COUNTER_IV = frozenset(row.number for row in algorithms.ENCRYPT if row.iv > row.block)

CIPHERS: dict[str, Callable[[bytes], Cipher]] = {
    "null": ciphers.null,
    "cbc.des": ciphers.des_cbc,
    "cbc.3des": ciphers.des3_cbc,
    "cbc.cast5": ciphers.cast128_cbc,
    "cbc.blowfish": ciphers.blowfish_cbc,
    "cbc.aes": ciphers.aes_cbc,
    "cbc.camellia": ciphers.camellia_cbc,
    "cbc.sm4": ciphers.sm4_cbc,
}
AEADS: dict[str, Callable[[bytes, int, int], Combined]] = {
    "gcm.aes": counter_modes.gcm,
    "ccm.aes": counter_modes.ccm,
    "gmac.aes": counter_modes.gmac,
    "chacha20-poly1305": counter_modes.chacha20_poly1305,
}
CTR_WALL = "ctr.aes"
_ICV_MIN = 12
AUTHENTICATORS: dict[str, Callable[[bytes, int], Integrity]] = {
    "null": authenticators.null,
    "hmac.md5": authenticators.hmac_md5,
    "hmac.sha1": authenticators.hmac_sha1,
    "hmac.sha256": authenticators.hmac_sha256,
    "hmac.sha384": authenticators.hmac_sha384,
    "hmac.sha512": authenticators.hmac_sha512,
    "hmac.ripemd160": authenticators.hmac_ripemd160,
    "hmac.sm3": authenticators.hmac_sm3,
    "keyed.md5": authenticators.keyed_md5,
    "keyed.sha1": authenticators.keyed_sha1,
    "gmac.aes": authenticators.aes_gmac,
    "xcbc.aes": authenticators.aes_xcbc,
    "cmac.aes": authenticators.aes_cmac,
}
COMPRESSIONS: dict[str, Callable[[], Compression]] = {"zlib.deflate": Deflate}


def cipher(number: int, key: bytes) -> Cipher:
    """The cipher of an SADB_EALG number under a key.

    Raises:
        UnsupportedAlgorithmError: not done here, or switched off in this machine's library; or
            a counter mode, which `combined` makes.
        CryptoError: a key of a length that the algorithm does not take.
    """
    if number == 0:
        return ciphers.null()
    row = algorithms.by_number(Kind.ENCRYPT, number)
    if row is not None and number in COUNTER_IV:
        raise UnsupportedAlgorithmError(f"{row.name} wants a counter for an IV, not random octets")
    make = CIPHERS.get(row.wall) if row else None
    if row is None or make is None:
        raise _not_done("encryption", number, row)
    _check_key(row, key)
    return make(key)


def combined(
    number: int, key: bytes, auth: int = 0, auth_key: bytes = b"", icv_octets: int = 0
) -> Combined:
    """The counter mode of an SADB_EALG number in `COUNTER_IV`, with its authenticator.

    An AEAD brings its own: `auth` is then 0 or NULL's number. `icv_octets` is as for `integrity`.

    Raises:
        UnsupportedAlgorithmError: not done here, or switched off in this machine's library.
        CryptoError: a key of a wrong length, an AEAD with a second authenticator, or an
            authenticator that wants an IV of its own.
    """
    row = algorithms.by_number(Kind.ENCRYPT, number)
    if row is None or (row.wall not in AEADS and row.wall != CTR_WALL):
        raise _not_done("encryption", number, row)
    _check_key(row, key)
    second = integrity(auth, auth_key, icv_octets)
    if row.wall == CTR_WALL and not second.iv_octets:
        return CtrThenMac(key, row.salt_bits // 8, second)
    if second.icv_octets:
        raise CryptoError(f"{row.name} authenticates itself: authentication {auth} is one too many")
    return AEADS[row.wall](key, row.salt_bits // 8, row.icv)


def integrity(number: int, key: bytes, icv_octets: int = 0) -> Integrity:
    """The authenticator of an SADB_AALG number under a key.

    `icv_octets`: another length than the algorithm's RFC gives, as peers from before it have it.

    Raises:
        UnsupportedAlgorithmError, CryptoError: as `cipher`; or an ICV of a length that the
            algorithm cannot have, or that is below 96 bits.
    """
    if number == 0:
        return authenticators.null()
    row = algorithms.by_number(Kind.AUTH, number)
    make = AUTHENTICATORS.get(row.wall) if row else None
    if row is None or make is None:
        raise _not_done("authentication", number, row)
    _check_key(row, key)
    made = make(key, icv_octets or row.icv)
    if icv_octets not in (0, row.icv) and (
        icv_octets < _ICV_MIN or row.iv or len(made.icv(b"")) != icv_octets
    ):
        raise CryptoError(f"{row.name} has no ICV of {8 * icv_octets} bits")
    return made


def compression(number: int) -> Compression:
    """The algorithm of an SADB_X_CALG number. Raises UnsupportedAlgorithmError."""
    row = algorithms.by_number(Kind.COMPRESS, number)
    make = COMPRESSIONS.get(row.wall) if row else None
    if make is None:
        raise _not_done("compression", number, row)
    return make()


def probe() -> frozenset[tuple[str, int]]:
    """The (kind, number) pairs that work on this machine, found by doing each once.

    A FIPS mode or an OpenSSL without legacy algorithms shows only in the doing.
    """
    works = {
        (row.kind.value, row.number) for row in algorithms.COMPRESS if row.wall in COMPRESSIONS
    }
    for row in algorithms.AUTH + algorithms.ENCRYPT:
        # no octet pattern is asked for: parity and weak keys are nobody's business here
        key = bytes(range(row.min_bits // 8))
        try:
            if row.kind == Kind.AUTH:
                integrity(row.number, key).icv(bytes(row.iv), b"probe")
            elif row.number in COUNTER_IV:
                mode, iv = combined(row.number, key), bytes(row.iv)
                if mode.open(iv, mode.seal(iv, b"probe", b""), b"") != b"probe":
                    continue
            else:
                made = cipher(row.number, key)
                made.open(bytes(made.iv_octets), made.seal(bytes(made.iv_octets), bytes(16)))
        except (CryptoError, InternalError, UnsupportedAlgorithm):
            continue
        works.add((row.kind.value, row.number))
    return frozenset(works)


def _not_done(what: str, number: int, row: Algorithm | None) -> UnsupportedAlgorithmError:
    name = f" ({row.name})" if row else ""
    return UnsupportedAlgorithmError(f"{what} algorithm {number}{name} is not done here")


def _check_key(row: Algorithm, key: bytes) -> None:
    bits = len(key) * 8
    if not algorithms.bits_ok(row, bits):
        raise CryptoError(
            f"{row.name} takes a key of {algorithms.lengths_text(row)} bits, not of {bits}"
        )
