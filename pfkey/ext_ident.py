"""The Identity extensions, sadb_ident (RFC 2367 section 2.3.5). Byte order: host."""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension, pad, part, words
from pfkey.codec import R16, U16, U64, Format
from pfkey.const import ExtType
from pfkey.errors import WireError

SADB_IDENT = Format(
    "sadb_ident",
    "len" / U16,
    "exttype" / U16,
    "type" / U16,
    "reserved" / R16,
    "id" / U64,
)
_TYPES = frozenset({int(ExtType.IDENTITY_SRC), int(ExtType.IDENTITY_DST)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ident:
    """An identity: `kind` is an IdentType, `text` the string without its NUL, maybe empty."""

    exttype: int
    kind: int
    id: int = 0
    text: bytes = b""

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read an identity.

        Raises:
            WireError: the string has no NUL at its end.
        """
        exttype = check_extension(SADB_IDENT, octets, at, _TYPES)
        raw = SADB_IDENT.parse(octets, at)
        text, nul, _ = octets[SADB_IDENT.size :].partition(b"\0")
        if text and not nul:
            raise WireError(
                part("sadb_ident", exttype), "the string does not end with NUL", at + 16
            )
        return cls(exttype=exttype, kind=raw["type"], id=raw["id"], text=text)

    def encode(self) -> bytes:
        """Build the extension; an empty text takes no octets."""
        if b"\0" in self.text:
            raise WireError(part("sadb_ident", self.exttype), "NUL inside the string")
        tail = self.text + b"\0" if self.text else b""
        head = SADB_IDENT.build(
            len=words(SADB_IDENT.size + len(tail)), exttype=self.exttype, type=self.kind,
            id=self.id,
        )  # fmt: skip
        return pad(head + tail)
