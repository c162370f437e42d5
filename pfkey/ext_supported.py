"""The Supported Algorithms extensions, sadb_supported (RFC 2367 section 2.3.8).

Byte order: host. `ivlen` is in octets, key lengths are in bits.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension
from pfkey.codec import R16, R32, U8, U16, Format
from pfkey.const import UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect, Numbers

SADB_SUPPORTED = Format("sadb_supported", "len" / U16, "exttype" / U16, "reserved" / R32)
SADB_ALG = Format(
    "sadb_alg",
    "id" / U8,
    "ivlen" / U8,
    "minbits" / U16,
    "maxbits" / U16,
    "reserved" / R16,
)
_TYPES = frozenset(
    {int(ExtType.SUPPORTED_AUTH), int(ExtType.SUPPORTED_ENCRYPT), int(ExtType.X_SUPPORTED_COMP)}
)


def registry(exttype: int, dialect: Dialect) -> Numbers:
    """Which numbers the algorithms of a list are."""
    if exttype == ExtType.SUPPORTED_AUTH:
        return dialect.auth
    return dialect.compress if exttype == ExtType.X_SUPPORTED_COMP else dialect.encrypt


@dataclass(frozen=True, slots=True)
class SupportedAlgorithm:
    """One algorithm that the key engine can do."""

    id: int
    ivlen: int = 0
    minbits: int = 0
    maxbits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """The list of a REGISTER reply."""

    exttype: int
    algorithms: tuple[SupportedAlgorithm, ...] = ()

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the list; `at` is the offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_SUPPORTED, octets, at, _TYPES, dialect)
        ours = registry(exttype, dialect).ours
        rows = []
        for start in range(SADB_SUPPORTED.size, len(octets), SADB_ALG.size):
            raw = SADB_ALG.parse(octets[start : start + SADB_ALG.size], at + start)
            rows.append(
                SupportedAlgorithm(ours(raw["id"]), raw["ivlen"], raw["minbits"], raw["maxbits"])
            )
        return cls(exttype=exttype, algorithms=tuple(rows))

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension. What does not fit or has no number raises WireError."""
        size = SADB_SUPPORTED.size + SADB_ALG.size * len(self.algorithms)
        head = SADB_SUPPORTED.build(len=size // UNIT_OCTETS, exttype=dialect.exttype(self.exttype))
        theirs = registry(self.exttype, dialect).theirs
        return head + b"".join(
            SADB_ALG.build(id=theirs(a.id), ivlen=a.ivlen, minbits=a.minbits, maxbits=a.maxbits)
            for a in self.algorithms
        )
