"""What an ACQUIRE offers (RFC 2367 section 2.3.7): combinations from the algorithm table.

Best first: AEADs, then each cipher with each authenticator. What RFC 8221 says must not be used is
not offered. The knobs are NetBSD's: net.key.esp_keymin, esp_auth and ah_keymin.
"""

from collections.abc import Container, Iterator
from dataclasses import replace

from keyd.engine.sysctl import Sysctls
from pfkey.algorithms import Algorithm, Kind, bits_ok, offered
from pfkey.const import IPPROTO_AH, IPPROTO_ESP
from pfkey.ext_prop import Comb, Proposal

# charon reads messages of up to 4096 octets; a combination has 72.
COMBS_MAX = 54
REPLAY_PACKETS = 32
# What Linux says of lifetimes.
_LIVES = Comb(hard_addtime=86400, soft_addtime=72000, hard_usetime=28800, soft_usetime=25200)
_STANDINGS = ("must", "should", "may", "should-not")


class Proposals:
    """The encoded extensions, kept until a knob changes.

    Args:
        usable: `(kind, number)` of the algorithms that this machine does.
    """

    __slots__ = ("_encoded", "_usable")

    def __init__(self, usable: Container[tuple[str, int]]) -> None:
        self._usable = usable
        self._encoded: dict[tuple[int, ...], bytes] = {}

    def encoded(self, proto: int, sysctl: Sysctls) -> bytes:
        """The extension for a protocol; none for IPComp, as on Linux."""
        if proto not in (IPPROTO_ESP, IPPROTO_AH):
            return b""
        names = ("net.key.esp_keymin", "net.key.esp_auth", "net.key.ah_keymin")
        key = (proto, *(sysctl[name] for name in names))
        if key not in self._encoded:
            self._encoded = {k: v for k, v in self._encoded.items() if k[1:] == key[1:]}
            found = combs(proto, self._usable, sysctl)
            self._encoded[key] = Proposal(replay=REPLAY_PACKETS, combs=found).encode()
        return self._encoded[key]


def combs(proto: int, usable: Container[tuple[str, int]], sysctl: Sysctls) -> tuple[Comb, ...]:
    """The combinations for ESP or AH, best first."""
    found = _ah(usable, sysctl) if proto == IPPROTO_AH else _esp(usable, sysctl)
    return tuple(found)[:COMBS_MAX]


def _ah(usable: Container[tuple[str, int]], sysctl: Sysctls) -> Iterator[Comb]:
    for row in _best(Kind.AUTH, usable):
        if row.icv and row.max_bits >= sysctl["net.key.ah_keymin"]:
            yield _with_auth(_LIVES, row)


def _esp(usable: Container[tuple[str, int]], sysctl: Sysctls) -> Iterator[Comb]:
    """AEADs; ciphers with authenticators; last, unless net.key.esp_auth is set, ciphers alone.

    DEVIATION from NetBSD, which offers either only ciphers alone or none of them: what nobody
    authenticates is the last to choose (test_ciphers_alone_come_last_or_not_at_all).
    """
    ciphers = [
        (row, _with_cipher(row, bits))
        for row in _best(Kind.ENCRYPT, usable)
        if (bits := _least_bits(row, sysctl["net.key.esp_keymin"]))
    ]
    yield from (comb for row, comb in ciphers if row.is_aead)
    plain = [comb for row, comb in ciphers if not row.is_aead]
    # an authenticator with an IV of its own (GMAC) is for AH
    auths = [row for row in _best(Kind.AUTH, usable) if row.icv and not row.iv]
    yield from (_with_auth(comb, row) for comb in plain for row in auths)
    if not sysctl["net.key.esp_auth"]:
        yield from plain


def _best(kind: Kind, usable: Container[tuple[str, int]]) -> list[Algorithm]:
    rows = [row for row in offered(kind, usable) if row.standing in _STANDINGS]
    return sorted(rows, key=lambda row: _STANDINGS.index(row.standing))


def _least_bits(row: Algorithm, key_bits: int) -> int:
    """The shortest key, salt included, whose cipher gets so many bits; 0 if there is none."""
    lengths = range(max(1, row.min_bits), row.max_bits + 1)
    return next((b for b in lengths if bits_ok(row, b) and b - row.salt_bits >= key_bits), 0)


def _with_cipher(row: Algorithm, bits: int) -> Comb:
    return replace(
        _LIVES, encrypt=row.number, encrypt_minbits=bits, encrypt_maxbits=row.max_bits
    )  # fmt: skip


def _with_auth(comb: Comb, row: Algorithm) -> Comb:
    return replace(
        comb, auth=row.number, auth_minbits=row.min_bits, auth_maxbits=row.max_bits
    )  # fmt: skip
