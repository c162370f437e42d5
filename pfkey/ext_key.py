"""The Key extensions, sadb_key (RFC 2367 section 2.3.4). Byte order: host."""

from dataclasses import dataclass, field
from typing import Self

from pfkey.base import check_extension, pad, part, words
from pfkey.codec import R16, U16, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError

SADB_KEY = Format("sadb_key", "len" / U16, "exttype" / U16, "bits" / U16, "reserved" / R16)
_TYPES = frozenset({int(ExtType.KEY_AUTH), int(ExtType.KEY_ENCRYPT)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of `bits` bits, salt included, in as many octets as they take. `repr` masks it."""

    exttype: int
    bits: int
    key: bytes = field(repr=False)

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read a key; more padding than needed is allowed, as on Linux.

        Raises:
            WireError: fewer octets than `bits` take.
        """
        exttype = check_extension(SADB_KEY, octets, at, _TYPES, dialect)
        raw = SADB_KEY.parse(octets, at)
        end = SADB_KEY.size + (raw["bits"] + 7) // 8
        if end > len(octets):
            raise WireError(
                part("sadb_key", exttype),
                f"{raw['bits']} bits take {end - SADB_KEY.size} octets,"
                f" {len(octets) - SADB_KEY.size} are there",
                at + 4,
            )
        return cls(exttype=exttype, bits=raw["bits"], key=octets[SADB_KEY.size : end])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension; `key` must be as long as `bits` say."""
        if len(self.key) != (self.bits + 7) // 8:
            raise WireError(
                part("sadb_key", self.exttype), f"{self.bits} bits in {len(self.key)} octets"
            )
        length = words(SADB_KEY.size + len(self.key))
        number = dialect.exttype(self.exttype)
        return pad(SADB_KEY.build(len=length, exttype=number, bits=self.bits) + self.key)
