"""The Identity extensions, sadb_ident (RFC 2367 section 2.3.5). Byte order: host.

KAME's type ADDR has a sockaddr where others have a string; there ports and addresses are in network
order.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension, pad, part, words
from pfkey.codec import R16, U16, U64, Format
from pfkey.const import ExtType, IdentType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.sockaddr import decode_sockaddr, encode_sockaddr

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
    """An identity: `kind` is an IdentType, `text` the string without its NUL, maybe empty.

    `address`, packed, and `port` are those of the kind X_ADDR, which has no text.
    """

    exttype: int
    kind: int
    id: int = 0
    text: bytes = b""
    address: bytes = b""
    port: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read an identity.

        Raises:
            WireError: the string has no NUL at its end, or the sockaddr is none.
        """
        exttype = check_extension(SADB_IDENT, octets, at, _TYPES, dialect)
        raw = SADB_IDENT.parse(octets, at)
        kind, tail = dialect.idents.ours(raw["type"]), octets[SADB_IDENT.size :]
        if kind == IdentType.X_ADDR:
            where = part("sadb_ident", exttype)
            address, port = decode_sockaddr(tail, where, at + SADB_IDENT.size, dialect)
            return cls(exttype=exttype, kind=kind, id=raw["id"], address=address, port=port)
        text, nul, _ = tail.partition(b"\0")
        if text and not nul:
            raise WireError(
                part("sadb_ident", exttype), "the string does not end with NUL", at + 16
            )
        return cls(exttype=exttype, kind=kind, id=raw["id"], text=text)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension; an empty text takes no octets.

        Raises:
            WireError: NUL inside the text, a text with an address or without X_ADDR an address,
                a field out of range, or a kind that the dialect has no number for.
        """
        if b"\0" in self.text:
            raise WireError(part("sadb_ident", self.exttype), "NUL inside the string")
        if bool(self.address) != (self.kind == IdentType.X_ADDR) or (self.address and self.text):
            raise WireError(
                part("sadb_ident", self.exttype), "an address, and no text, is for kind ADDR alone"
            )
        tail = self.text + b"\0" if self.text else b""
        if self.address:
            tail = encode_sockaddr(self.address, self.port, dialect)
        head = SADB_IDENT.build(
            len=words(SADB_IDENT.size + len(tail)), exttype=dialect.exttype(self.exttype),
            type=dialect.idents.theirs(self.kind), id=self.id,
        )  # fmt: skip
        return pad(head + tail)
