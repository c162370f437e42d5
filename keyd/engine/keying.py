"""Which algorithms and keys an SA may have, and what to warn of (RFC 2367 section 3.5).

An SA of IPComp has no keys, and names its algorithm where others name a cipher (RFC 3173).
"""

import logging
from collections.abc import Callable, Container
from dataclasses import dataclass
from errno import EINVAL, ENOSYS

from keyd.engine.effects import Log
from keyd.model import SaSpec
from pfkey.algorithms import Algorithm, Kind, bits_ok, by_number, lengths_text, why_not
from pfkey.const import IPPROTO_COMP, SaType
from pfkey.errors import SadbError
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.message import Message
from pfkey.weak_keys import weakness

# The registries' ends on Linux: a number beyond is no algorithm at all.
NUMBER_MAX = {Kind.AUTH: 251, Kind.ENCRYPT: 253, Kind.COMPRESS: 4}
EXTENSION = {
    Kind.AUTH: "KEY_AUTH", Kind.ENCRYPT: "KEY_ENCRYPT", Kind.COMPRESS: "KEY_ENCRYPT",
}  # fmt: skip
WEAK = ("must-not", "should-not")  # standing in RFC 8221


@dataclass(frozen=True, slots=True, kw_only=True)
class Keying:
    """The algorithms of an SA with their keys; 0 and no key where there is none."""

    auth: int
    encrypt: int
    auth_key: bytes
    encrypt_key: bytes

    def __repr__(self) -> str:
        return f"Keying(auth={self.auth}, encrypt={self.encrypt}, keys=…)"


def keying(message: Message, usable: Container[tuple[str, int]]) -> Keying:
    """Check what an ADD or UPDATE brings.

    DEVIATION from Linux, which ignores a key without an algorithm, and does no AEAD through PF_KEY:
    such a key is refused, and an AEAD's number with its salted key makes an SA
    (test_a_key_without_an_algorithm_is_refused, test_an_aead_needs_no_authenticator). Nor may an
    AH SA be without an authenticator or with a cipher (test_ah_authenticates_and_no_more).

    Raises:
        SadbError: EINVAL for a number that is no algorithm, a key that is missing, superfluous or
            of a wrong length; ENOSYS for an algorithm that this machine does not do.
    """
    sa = message.sa
    assert sa is not None, "the handler has checked that"  # noqa: S101 - for the type checker
    if message.satype == SaType.X_IPCOMP:
        return _compression(sa, message, usable)
    if message.satype == SaType.ESP and message.key_encrypt is None:
        raise SadbError(EINVAL, "an ESP SA needs KEY_ENCRYPT, be it empty", "3.1.3")
    if message.satype == SaType.ESP and sa.encrypt == 0:
        raise SadbError(EINVAL, "an ESP SA needs an encryption algorithm; null is number 11")
    if message.satype == SaType.AH and message.key_auth is None:
        raise SadbError(EINVAL, "an AH SA needs KEY_AUTH", "3.1.3")
    if message.satype == SaType.AH and sa.encrypt:
        raise SadbError(EINVAL, f"AH encrypts nothing, and {sa.encrypt} is a cipher; use ESP")
    auth, auth_key = _checked(Kind.AUTH, sa.auth, message.key_auth, usable)
    if message.satype == SaType.AH and (auth is None or not auth.icv):
        raise SadbError(EINVAL, "an AH SA needs an authenticator, such as hmac-sha2-256")
    encrypt, encrypt_key = _checked(Kind.ENCRYPT, sa.encrypt, message.key_encrypt, usable)
    if message.satype == SaType.ESP and auth is not None and auth.iv:
        raise SadbError(EINVAL, f"{auth.name} is for AH; in ESP aes-gmac is a cipher, number 23")
    if encrypt is not None and encrypt.is_aead and auth is not None and auth.icv:
        raise SadbError(EINVAL, f"{encrypt.name} authenticates by itself; {auth.name} is too much")
    return Keying(auth=sa.auth, encrypt=sa.encrypt, auth_key=auth_key, encrypt_key=encrypt_key)


def _compression(sa: Sa, message: Message, usable: Container[tuple[str, int]]) -> Keying:
    """What an ADD or UPDATE of an IPComp SA brings; a key may be there and is empty."""
    if sa.encrypt == 0:
        raise SadbError(EINVAL, "an IPComp SA needs a compression algorithm; deflate is number 2")
    if sa.auth or (message.key_auth is not None and message.key_auth.bits):
        raise SadbError(EINVAL, "IPComp authenticates nothing; put it into ESP or AH")
    _checked(Kind.COMPRESS, sa.encrypt, message.key_encrypt, usable)
    return Keying(auth=0, encrypt=sa.encrypt, auth_key=b"", encrypt_key=b"")


def warnings(sa: SaSpec, name: Callable[[], str], warned: set[str]) -> list[Log]:
    """What the operator should know of a new SA; each weak algorithm once.

    `name` is what people call it, made where it is needed.
    """
    if sa.proto == IPPROTO_COMP:
        return []
    auth = by_number(Kind.AUTH, sa.auth)
    encrypt = by_number(Kind.ENCRYPT, sa.encrypt)
    logs = []
    if (auth is None or auth.icv == 0) and not (encrypt is not None and encrypt.is_aead):
        text = f"{name()} has no authenticator: anyone can change its packets; add -A hmac-sha256"
        logs.append(Log(logging.WARNING, text))
    if weak := weakness(sa.encrypt, sa.encrypt_key):
        logs.append(Log(logging.WARNING, f"{name()}: {weak}"))
    for row in (auth, encrypt):
        if row is None or row.standing not in WEAK or row.max_bits == 0 or row.name in warned:
            continue
        warned.add(row.name)
        text = f"{row.name} is a legacy algorithm: RFC 8221 says {row.standing}; said only once"
        logs.append(Log(logging.WARNING, text))
    return logs


def _checked(
    kind: Kind, number: int, key: Key | None, usable: Container[tuple[str, int]]
) -> tuple[Algorithm | None, bytes]:
    if number == 0:
        if key is not None and key.bits:
            why = f"{EXTENSION[kind]} of {key.bits} bits without an algorithm"
            raise SadbError(EINVAL, why, "3.1.3")
        return None, b""
    row = by_number(kind, number)
    if number > NUMBER_MAX[kind]:
        raise SadbError(EINVAL, f"{kind} algorithm {number} is none")
    if row is None:
        raise SadbError(ENOSYS, f"{kind} algorithm {number} is unknown")
    if (kind.value, number) not in usable:
        raise SadbError(ENOSYS, f"{row.name} (keys of {_bits(row)}) is not done: {why_not(row)}")
    bits = 0 if key is None else key.bits
    if not bits_ok(row, bits):
        raise SadbError(EINVAL, f"{row.name} takes keys of {_bits(row)}, not {bits} bits")
    return row, b"" if key is None else key.key[: bits // 8]


def _bits(row: Algorithm) -> str:
    return "no bits" if row.max_bits == 0 else f"{lengths_text(row)} bits"
