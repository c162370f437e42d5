"""The Sensitivity extension, sadb_sens (RFC 2367 section 2.3.6). Byte order: host."""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import R32, U8, U16, U32, Format
from pfkey.const import UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError

SADB_SENS = Format(
    "sadb_sens",
    "len" / U16,
    "exttype" / U16,
    "dpd" / U32,
    "sens_level" / U8,
    "sens_len" / U8,
    "integ_level" / U8,
    "integ_len" / U8,
    "reserved" / R32,
)
_TYPES = frozenset({int(ExtType.SENSITIVITY)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Levels and compartments; the bitmaps are 64-bit words."""

    exttype: ClassVar[ExtType] = ExtType.SENSITIVITY
    dpd: int = 0
    sens_level: int = 0
    integ_level: int = 0
    sens_bitmap: tuple[int, ...] = ()
    integ_bitmap: tuple[int, ...] = ()

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the levels and both bitmaps.

        Raises:
            WireError: the bitmaps do not fill the extension.
        """
        check_extension(SADB_SENS, octets, at, _TYPES, dialect)
        raw = SADB_SENS.parse(octets, at)
        count = raw["sens_len"] + raw["integ_len"]
        if SADB_SENS.size + count * UNIT_OCTETS != len(octets):
            raise WireError(
                "sadb_sens (SENSITIVITY)", f"{count} bitmap words in {len(octets)} octets", at + 9
            )
        bitmap = struct.unpack_from(f"={count}Q", octets, SADB_SENS.size)
        return cls(
            dpd=raw["dpd"], sens_level=raw["sens_level"], integ_level=raw["integ_level"],
            sens_bitmap=bitmap[: raw["sens_len"]], integ_bitmap=bitmap[raw["sens_len"] :],
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension. A field out of range raises WireError."""
        bitmap = self.sens_bitmap + self.integ_bitmap
        head = SADB_SENS.build(
            len=SADB_SENS.size // UNIT_OCTETS + len(bitmap),
            exttype=dialect.exttype(self.exttype), dpd=self.dpd,
            sens_level=self.sens_level, sens_len=len(self.sens_bitmap),
            integ_level=self.integ_level, integ_len=len(self.integ_bitmap),
        )  # fmt: skip
        try:
            return head + struct.pack(f"={len(bitmap)}Q", *bitmap)
        except struct.error as error:
            raise WireError("sadb_sens (SENSITIVITY)", "a bitmap word has 64 bits") from error
