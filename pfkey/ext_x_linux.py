"""The extensions of Linux: security context, addresses of the key manager, dump filter.

And KAME's private extension of the key manager. Byte order: host, network in addresses.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension, pad, part, words
from pfkey.codec import OCTETS16, R32, U8, U16, Format
from pfkey.const import AF_INET, UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.sockaddr import decode_pair, encode_pair

SADB_X_SEC_CTX = Format(
    "sadb_x_sec_ctx",
    "len" / U16,
    "exttype" / U16,
    "alg" / U8,
    "doi" / U8,
    "ctx_len" / U16,
)
SADB_X_KMADDRESS = Format("sadb_x_kmaddress", "len" / U16, "exttype" / U16, "reserved" / R32)
SADB_X_KMPRIVATE = Format("sadb_x_kmprivate", "len" / U16, "exttype" / U16, "reserved" / R32)
SADB_X_FILTER = Format(
    "sadb_x_filter",
    "len" / U16,
    "exttype" / U16,
    "saddr" / OCTETS16,
    "daddr" / OCTETS16,
    "family" / U16,
    "splen" / U8,
    "dplen" / U8,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecCtx:
    """A security module's label; `context` keeps its NUL, if it has one."""

    exttype: ClassVar[ExtType] = ExtType.X_SEC_CTX
    doi: int
    alg: int
    context: bytes = b""

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the label.

        Raises:
            WireError: the extension is not exactly as long as the label takes.
        """
        check_extension(SADB_X_SEC_CTX, octets, at, frozenset({cls.exttype}), dialect)
        raw = SADB_X_SEC_CTX.parse(octets, at)
        if words(SADB_X_SEC_CTX.size + raw["ctx_len"]) != raw["len"]:
            raise WireError(
                part(SADB_X_SEC_CTX.name, cls.exttype),
                f"a label of {raw['ctx_len']} octets in {raw['len']} words",
                at + 6,
            )
        end = SADB_X_SEC_CTX.size + raw["ctx_len"]
        return cls(doi=raw["doi"], alg=raw["alg"], context=octets[SADB_X_SEC_CTX.size : end])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension. A field out of range raises WireError."""
        head = SADB_X_SEC_CTX.build(
            len=words(SADB_X_SEC_CTX.size + len(self.context)),
            exttype=dialect.exttype(self.exttype), alg=self.alg, doi=self.doi,
            ctx_len=len(self.context),
        )  # fmt: skip
        return pad(head + self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class KmAddress:
    """Where the key manager talks from and to after a MIGRATE; packed addresses."""

    exttype: ClassVar[ExtType] = ExtType.X_KMADDRESS
    local: bytes
    remote: bytes
    local_port: int = 0
    remote_port: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the pair of sockaddrs.

        Raises:
            WireError: an unknown family, two families, or too few octets.
        """
        check_extension(SADB_X_KMADDRESS, octets, at, frozenset({cls.exttype}), dialect)
        size = SADB_X_KMADDRESS.size
        local, remote, local_port, remote_port = decode_pair(
            octets[size:], part(SADB_X_KMADDRESS.name, cls.exttype), at + size, dialect
        )
        return cls(local=local, remote=remote, local_port=local_port, remote_port=remote_port)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension. A field out of range raises WireError."""
        pair = encode_pair(self.local, self.remote, self.local_port, self.remote_port, dialect)
        length = words(SADB_X_KMADDRESS.size + len(pair))
        number = dialect.exttype(self.exttype)
        return SADB_X_KMADDRESS.build(len=length, exttype=number) + pair


@dataclass(frozen=True, slots=True, kw_only=True)
class KmPrivate:
    """What a key manager stores for itself: whole 64-bit words that mean nothing to us."""

    exttype: ClassVar[ExtType] = ExtType.X_KMPRIVATE
    data: bytes = b""

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Keep the data; `at` is the offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_X_KMPRIVATE, octets, at, frozenset({cls.exttype}), dialect)
        return cls(data=octets[SADB_X_KMPRIVATE.size :])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension; `data` must be whole 64-bit words."""
        if len(self.data) % UNIT_OCTETS:
            raise WireError(SADB_X_KMPRIVATE.name, f"{len(self.data)} octets are no whole words")
        length = words(SADB_X_KMPRIVATE.size + len(self.data))
        number = dialect.exttype(self.exttype)
        return SADB_X_KMPRIVATE.build(len=length, exttype=number) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which SAs a DUMP shows: prefixes of `splen` and `dplen` bits; 16 octets each, as sent."""

    exttype: ClassVar[ExtType] = ExtType.X_FILTER
    family: int
    saddr: bytes = bytes(16)
    daddr: bytes = bytes(16)
    splen: int = 0
    dplen: int = 0

    @property
    def src(self) -> bytes:
        """The source prefix, packed as its family has it."""
        return self.saddr[:4] if self.family == AF_INET else self.saddr

    @property
    def dst(self) -> bytes:
        """The destination prefix, packed as its family has it."""
        return self.daddr[:4] if self.family == AF_INET else self.daddr

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 40 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_X_FILTER, octets, at, frozenset({cls.exttype}), dialect, is_fixed=True)
        raw = SADB_X_FILTER.parse(octets, at)
        return cls(
            family=raw["family"],
            saddr=raw["saddr"],
            daddr=raw["daddr"],
            splen=raw["splen"],
            dplen=raw["dplen"],
        )

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 40 octets. A field out of range raises WireError."""
        return SADB_X_FILTER.build(
            len=5, exttype=dialect.exttype(self.exttype), saddr=self.saddr, daddr=self.daddr,
            family=self.family, splen=self.splen, dplen=self.dplen,
        )  # fmt: skip
