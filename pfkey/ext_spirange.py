"""The SPI Range extension, sadb_spirange (RFC 2367 section 2.3.9).

Byte order: host, the SPIs included, unlike the SPI of sadb_sa.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pfkey.codec import R32, U16, U32, Format
from pfkey.const import ExtType
from pfkey.ext_fixed import FixedExtension

SADB_SPIRANGE = Format(
    "sadb_spirange",
    "len" / U16,
    "exttype" / U16,
    "min" / U32,
    "max" / U32,
    "reserved" / R32,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiRange(FixedExtension):
    """The SPIs a GETSPI may choose from, both ends included. 16 octets."""

    exttype: ClassVar[ExtType] = ExtType.SPIRANGE
    layout: ClassVar[Format] = SADB_SPIRANGE
    values: ClassVar[Mapping[str, str]] = {"min": "min", "max": "max"}
    min: int
    max: int
