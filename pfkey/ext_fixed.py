"""What extensions have in common that are of fixed length, and whose fields are plain values."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pfkey.base import check_extension, words
from pfkey.codec import Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect


class FixedExtension:
    """Reads and builds such an extension; a frozen dataclass says which.

    Attributes:
        exttype: its type, by our number.
        layout: its octets.
        values: the layout's field for each attribute.
    """

    __slots__ = ()
    exttype: ClassVar[ExtType]
    layout: ClassVar[Format]
    values: ClassVar[Mapping[str, str]]

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly the octets of the layout; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        types = frozenset({int(cls.exttype)})
        check_extension(cls.layout, octets, at, types, dialect, is_fixed=True)
        raw = cls.layout.parse(octets, at)
        found: dict[str, Any] = {name: raw[field] for name, field in cls.values.items()}
        return cls(**found)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the octets. A field out of range raises WireError."""
        given = {field: getattr(self, name) for name, field in self.values.items()}
        length, number = words(self.layout.size), dialect.exttype(self.exttype)
        return self.layout.build(len=length, exttype=number, **given)
