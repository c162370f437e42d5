"""The one table of algorithms: RFC 2367 section 3.5, later RFCs, and the systems' own additions.

Held to `specs/tables/algorithms.toml` in both directions. Key lengths are in bits, salt or nonce
included, as SADB_EXT_KEY carries them; `block`, `iv` and `icv` are octets.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Which registry a number belongs to: sadb_sa_auth, sadb_sa_encrypt (twice for IPComp)."""

    AUTH = "auth"
    ENCRYPT = "encrypt"
    COMPRESS = "compress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One row.

    `number` is Linux's, or where Linux has none the first other system's (then `is_linux` is
    false); what another system calls it is `pfkey.dialect`'s.
    `ivlen` is what SADB_EXT_SUPPORTED reports, which on Linux is not always `iv`. `wall` names the
    primitive behind the crypto wall, empty where there is none. `tshark` is Wireshark's spelling.
    """

    kind: Kind
    name: str
    number: int
    min_bits: int = 0
    max_bits: int = 0
    step_bits: int = 0
    key_bits: frozenset[int] | None = None  # the lengths allowed, where the step says too much
    salt_bits: int = 0
    block: int = 1
    iv: int = 0
    icv: int = 0
    ivlen: int = 0
    aliases: tuple[str, ...] = ()
    rfc: str = ""
    standing: str = "may"
    tshark: str = ""
    wall: str = ""
    is_aead: bool = False
    is_linux: bool = True
    is_offered: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the printed one first."""
        return (self.name, *self.aliases)


def _auth(
    name: str, number: int, bits: int, icv: int, rfc: str, standing: str, wall: str = "",
    tshark: str = "", *, block: int = 64, aliases: tuple[str, ...] = (), iv: int = 0,
    salt_bits: int = 0, max_bits: int | None = None, is_linux: bool = True,
    is_offered: bool = True,
) -> Algorithm:  # fmt: skip
    return Algorithm(
        kind=Kind.AUTH, name=name, number=number, min_bits=bits,
        max_bits=bits if max_bits is None else max_bits, step_bits=0 if max_bits is None else 8,
        salt_bits=salt_bits, block=block, iv=iv, ivlen=iv, icv=icv, aliases=aliases, rfc=rfc,
        standing=standing, wall=wall, tshark=tshark, is_linux=is_linux, is_offered=is_offered,
    )  # fmt: skip


def _cbc(
    name: str, number: int, bits: tuple[int, int, int], block: int, rfc: str, standing: str,
    wall: str = "", tshark: str = "", *, ivlen: int = 8, iv: int | None = None,
    aliases: tuple[str, ...] = (), key_bits: frozenset[int] | None = None,
    is_linux: bool = True,
) -> Algorithm:  # fmt: skip
    return Algorithm(
        kind=Kind.ENCRYPT, name=name, number=number, min_bits=bits[0], max_bits=bits[1],
        step_bits=bits[2], key_bits=key_bits, block=block, iv=block if iv is None else iv,
        ivlen=ivlen, aliases=aliases, rfc=rfc, standing=standing, wall=wall, tshark=tshark,
        is_linux=is_linux, is_offered=is_linux,
    )  # fmt: skip


def _counter(
    name: str, number: int, bits: tuple[int, int, int], salt_bits: int, icv: int, rfc: str,
    standing: str, wall: str, tshark: str = "",
) -> Algorithm:  # fmt: skip
    return Algorithm(
        kind=Kind.ENCRYPT, name=name, number=number, min_bits=bits[0], max_bits=bits[1],
        step_bits=bits[2], salt_bits=salt_bits, block=1, iv=8, ivlen=8, icv=icv, rfc=rfc,
        standing=standing, wall=wall, tshark=tshark, is_aead=icv > 0,
    )  # fmt: skip


_ANY96 = "ANY 96 bit authentication [no checking]"
_AES = (128, 256, 64)
_CCM = (152, 280, 64)
_GCM = (160, 288, 64)

# The order of the rows up to the last that Linux lists is the order of Linux's REGISTER reply.
# fmt: off
AUTH: tuple[Algorithm, ...] = (
    _auth("null", 251, 0, 0, "RFC 2410", "must-not", "null", "NULL", block=1),
    _auth("hmac-md5", 2, 128, 12, "RFC 2403", "must-not", "hmac.md5", "HMAC-MD5-96 [RFC2403]"),
    _auth("hmac-sha1", 3, 160, 12, "RFC 2404", "must", "hmac.sha1", "HMAC-SHA-1-96 [RFC2404]"),
    _auth("hmac-sha256", 5, 256, 16, "RFC 4868", "must", "hmac.sha256",
          "HMAC-SHA-256-128 [RFC4868]", aliases=("hmac-sha2-256",)),
    _auth("hmac-sha384", 6, 384, 24, "RFC 4868", "may", "hmac.sha384",
          "HMAC-SHA-384-192 [RFC4868]", block=128, aliases=("hmac-sha2-384",)),
    _auth("hmac-sha512", 7, 512, 32, "RFC 4868", "should", "hmac.sha512",
          "HMAC-SHA-512-256 [RFC4868]", block=128, aliases=("hmac-sha2-512",)),
    _auth("hmac-ripemd160", 8, 160, 12, "RFC 2857", "may", "hmac.ripemd160",
          "MAC-RIPEMD-160-96 [RFC2857]"),
    _auth("aes-xcbc-mac", 9, 128, 12, "RFC 3566", "should", "xcbc.aes", _ANY96, block=16),
    _auth("hmac-sm3", 10, 256, 32, "draft-sca-cfrg-sm3", "may", "hmac.sm3"),
    # DEVIATION from Linux, which does not know the rows below: offered behind its own, for AH of
    # the other systems (test_authenticators_of_other_systems_follow_those_of_linux).
    _auth("aes-128-gmac", 11, 160, 16, "RFC 4543", "may", "gmac.aes", block=16, iv=8,
          salt_bits=32, is_linux=False),
    _auth("aes-192-gmac", 12, 224, 16, "RFC 4543", "may", "gmac.aes", block=16, iv=8,
          salt_bits=32, is_linux=False),
    _auth("aes-256-gmac", 13, 288, 16, "RFC 4543", "may", "gmac.aes", block=16, iv=8,
          salt_bits=32, is_linux=False),
    _auth("chacha20-poly1305", 14, 288, 16, "RFC 7634", "may", block=16, iv=8, salt_bits=32,
          is_linux=False, is_offered=False),
    _auth("keyed-md5", 249, 128, 16, "RFC 1828", "must-not", "keyed.md5", is_linux=False),
    _auth("keyed-sha1", 250, 160, 20, "RFC 1852", "may", "keyed.sha1", is_linux=False),
    _auth("tcp-md5", 252, 8, 16, "RFC 2385", "may", max_bits=640,
          is_linux=False, is_offered=False),
)
ENCRYPT: tuple[Algorithm, ...] = (
    Algorithm(kind=Kind.ENCRYPT, name="null", number=11, aliases=("simple",), rfc="RFC 2410",
              standing="must", wall="null", tshark="NULL"),
    _cbc("des-cbc", 2, (64, 64, 0), 8, "RFC 2405", "must-not", "cbc.des", "DES-CBC [RFC2405]"),
    _cbc("3des-cbc", 3, (192, 192, 0), 8, "RFC 2451", "should-not", "cbc.3des",
         "TripleDES-CBC [RFC2451]"),
    _cbc("cast128-cbc", 6, (40, 128, 8), 8, "RFC 2451", "may", "cbc.cast5",
         "CAST5-CBC [RFC2144]"),
    _cbc("blowfish-cbc", 7, (40, 448, 8), 8, "RFC 2451", "must-not", "cbc.blowfish",
         "BLOWFISH-CBC [RFC2451]"),
    _cbc("aes-cbc", 12, _AES, 16, "RFC 3602", "must", "cbc.aes", "AES-CBC [RFC3602]",
         aliases=("rijndael-cbc",)),
    _cbc("serpent-cbc", 252, _AES, 16, "draft-ietf-ipsec-ciph-aes-cbc-00", "may"),
    _cbc("camellia-cbc", 22, _AES, 16, "RFC 4312", "may", "cbc.camellia"),
    _cbc("twofish-cbc", 253, _AES, 16, "draft-ietf-ipsec-ciph-aes-cbc-00", "may",
         tshark="TWOFISH-CBC"),
    _counter("aes-ctr", 13, _GCM, 32, 0, "RFC 3686", "may", "ctr.aes", "AES-CTR [RFC3686]"),
    _cbc("sm4-cbc", 24, _AES, 16, "draft-ribose-cfrg-sm4", "may", "cbc.sm4", ivlen=16,
         key_bits=frozenset({128})),
    # DEVIATION from Linux, which knows the rows below but neither lists nor takes them through
    # PF_KEY: we offer what the machine can do (test_aeads_follow_the_ciphers_of_linux).
    _counter("aes-ccm-8", 14, _CCM, 24, 8, "RFC 4309", "should", "ccm.aes"),
    _counter("aes-ccm-12", 15, _CCM, 24, 12, "RFC 4309", "may", "ccm.aes"),
    _counter("aes-ccm-16", 16, _CCM, 24, 16, "RFC 4309", "may", "ccm.aes"),
    _counter("aes-gcm-8", 18, _GCM, 32, 8, "RFC 4106", "may", "gcm.aes",
             "AES-GCM with 8 octet ICV [RFC4106]"),
    _counter("aes-gcm-12", 19, _GCM, 32, 12, "RFC 4106", "may", "gcm.aes",
             "AES-GCM with 12 octet ICV [RFC4106]"),
    _counter("aes-gcm-16", 20, _GCM, 32, 16, "RFC 4106", "must", "gcm.aes",
             "AES-GCM with 16 octet ICV [RFC4106]"),
    _counter("aes-gmac", 23, _GCM, 32, 16, "RFC 4543", "may", "gmac.aes"),
    _counter("chacha20-poly1305", 25, (288, 288, 0), 32, 16, "RFC 7634", "should",
             "chacha20-poly1305"),
    _cbc("skipjack-cbc", 250, (80, 80, 0), 8, "", "may", is_linux=False),
)
COMPRESS: tuple[Algorithm, ...] = (
    Algorithm(kind=Kind.COMPRESS, name="oui", number=1, rfc="RFC 3173", is_offered=False),
    Algorithm(kind=Kind.COMPRESS, name="deflate", number=2, rfc="RFC 2394", wall="zlib.deflate",
              is_offered=False),
    Algorithm(kind=Kind.COMPRESS, name="lzs", number=3, rfc="RFC 2395", is_offered=False),
    Algorithm(kind=Kind.COMPRESS, name="lzjh", number=4, rfc="RFC 3051", is_offered=False),
)
# fmt: on

_REASONS = {
    "tcp-md5": "TCP signatures are made inside the kernel's TCP",
    "oui": "it names a vendor and no algorithm",
}
ROWS: tuple[Algorithm, ...] = AUTH + ENCRYPT + COMPRESS
# By plain text: a member of Kind is equal to its value and has its hash.
_BY_NUMBER = {(row.kind.value, row.number): row for row in ROWS}
_BY_NAME = {(row.kind.value, name): row for row in ROWS for name in row.names}


def by_number(kind: str, number: int) -> Algorithm | None:
    """The row of a number in a registry; None for 0 (no algorithm) and unknown numbers."""
    return _BY_NUMBER.get((kind, number))


def by_name(kind: str, name: str) -> Algorithm | None:
    """The row of a name or an alias."""
    return _BY_NAME.get((kind, name))


def offered(kind: str, usable: Container[tuple[str, int]]) -> Iterator[Algorithm]:
    """The rows to list in a REGISTER reply, in order, of those this machine can use.

    `usable` holds `(kind, number)` pairs, as `pfkey.crypto` finds them by trying.
    """
    for row in ROWS:
        if row.kind == kind and row.is_offered and (row.kind.value, row.number) in usable:
            yield row


def why_not(row: Algorithm) -> str:
    """For people: why a machine does not do what the row says, given that it does not."""
    if row.wall:
        return "it is switched off in this machine's OpenSSL"
    return _REASONS.get(row.name, "no maintained library has it")


def bits_ok(row: Algorithm, bits: int) -> bool:
    """Whether a key may have this many bits (salt included)."""
    if row.key_bits is not None:
        return bits in row.key_bits
    if not row.min_bits <= bits <= row.max_bits:
        return False
    return row.step_bits == 0 or (bits - row.min_bits) % row.step_bits == 0


def lengths_text(row: Algorithm) -> str:
    """The key lengths for people: `192`, `128, 192 or 256`, `40 to 448`; `none` for no key."""
    if row.max_bits == 0:
        return "none"
    if row.key_bits is None and row.step_bits and row.max_bits - row.min_bits > 2 * row.step_bits:
        return f"{row.min_bits} to {row.max_bits}"
    few = [str(bits) for bits in range(row.min_bits, row.max_bits + 1) if bits_ok(row, bits)]
    return few[0] if len(few) == 1 else f"{', '.join(few[:-1])} or {few[-1]}"
