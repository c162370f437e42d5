"""The SPI Range extension, sadb_spirange (RFC 2367 section 2.3.9).

Byte order: host, the SPIs included, unlike the SPI of sadb_sa.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import R32, U16, U32, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect

SADB_SPIRANGE = Format(
    "sadb_spirange",
    "len" / U16,
    "exttype" / U16,
    "min" / U32,
    "max" / U32,
    "reserved" / R32,
)
_TYPES = frozenset({int(ExtType.SPIRANGE)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiRange:
    """The SPIs a GETSPI may choose from, both ends included."""

    exttype: ClassVar[ExtType] = ExtType.SPIRANGE
    min: int
    max: int

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 16 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_SPIRANGE, octets, at, _TYPES, dialect, is_fixed=True)
        raw = SADB_SPIRANGE.parse(octets, at)
        return cls(min=raw["min"], max=raw["max"])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 16 octets. A field out of range raises WireError."""
        return SADB_SPIRANGE.build(
            len=2, exttype=dialect.exttype(self.exttype), min=self.min, max=self.max
        )
