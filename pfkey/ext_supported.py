"""The Supported Algorithms extensions, sadb_supported (RFC 2367 section 2.3.8).

Byte order: host. `ivlen` is in octets, key lengths are in bits.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension
from pfkey.codec import R16, R32, U8, U16, Format
from pfkey.const import UNIT_OCTETS, ExtType

SADB_SUPPORTED = Format("sadb_supported", "len" / U16, "exttype" / U16, "reserved" / R32)
SADB_ALG = Format(
    "sadb_alg",
    "id" / U8,
    "ivlen" / U8,
    "minbits" / U16,
    "maxbits" / U16,
    "reserved" / R16,
)
_TYPES = frozenset({int(ExtType.SUPPORTED_AUTH), int(ExtType.SUPPORTED_ENCRYPT)})


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
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read the list; `at` is the offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_SUPPORTED, octets, at, _TYPES)
        rows = []
        for start in range(SADB_SUPPORTED.size, len(octets), SADB_ALG.size):
            raw = SADB_ALG.parse(octets[start : start + SADB_ALG.size], at + start)
            rows.append(SupportedAlgorithm(raw["id"], raw["ivlen"], raw["minbits"], raw["maxbits"]))
        return cls(exttype=exttype, algorithms=tuple(rows))

    def encode(self) -> bytes:
        """Build the extension. A field out of range raises WireError."""
        size = SADB_SUPPORTED.size + SADB_ALG.size * len(self.algorithms)
        head = SADB_SUPPORTED.build(len=size // UNIT_OCTETS, exttype=self.exttype)
        return head + b"".join(
            SADB_ALG.build(id=a.id, ivlen=a.ivlen, minbits=a.minbits, maxbits=a.maxbits)
            for a in self.algorithms
        )
