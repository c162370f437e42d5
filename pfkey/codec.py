"""The one place that calls Construct, so that its exceptions never travel further.

A compiled Struct raises `struct.error` where an interpreted one raises `StreamError`, neither
refuses trailing octets, and neither knows where in a message it is. All of that is hidden here.
Fields without a mark are in host order; `BE16` and `BE32` are in network order.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from operator import itemgetter
from typing import Any

from construct import (
    Bytes,
    Construct,
    ConstructError,
    Container,
    Default,
    Int8un,
    Int16ub,
    Int16un,
    Int32ub,
    Int32un,
    Int64un,
    Struct,
)

from pfkey.errors import WireError

U8 = Int8un
U16 = Int16un
U32 = Int32un
U64 = Int64un
BE16 = Int16ub
BE32 = Int32ub
# Reserved fields: whatever was read is dropped by the dataclasses, and zero is written.
R8 = Default(Int8un, 0)
R16 = Default(Int16un, 0)
R32 = Default(Int32un, 0)
R24 = Default(Bytes(3), bytes(3))
R64 = Default(Bytes(8), bytes(8))
OCTETS4 = Bytes(4)
OCTETS16 = Bytes(16)

_CONTEXT: Any = Container(_params=None)
_FAULTS = (ConstructError, struct.error, KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies: offset and size in octets; `order` is host, network or octets."""

    name: str
    offset: int
    octets: int
    order: str


class Format:
    """A fixed layout, compiled. `name` is the C structure's and stands in every error."""

    __slots__ = ("_compiled", "_octets", "_struct", "name", "size")

    def __init__(self, name: str, *fields: "Construct[Any, Any]") -> None:
        self.name = name
        self._struct: Construct[Any, Any] = Struct(*fields)
        self._compiled: Any = self._struct.compile()
        self.size: int = self._struct.sizeof()
        self._octets = [(f.name, f.octets) for f in self.fields if f.order == "octets"]

    def parse(self, octets: bytes, at: int = 0) -> Mapping[str, Any]:
        """Read the fields from the first `size` octets, by name.

        Raises:
            WireError: fewer octets than the layout has; `at` is their offset in the message.
        """
        if len(octets) < self.size:
            raise WireError(self.name, f"{len(octets)} octets, the least is {self.size}", at)
        # Compiled.parse would spend as long on contexts and reports as on the fields.
        fields: Mapping[str, Any] = self._compiled.parsefunc(BytesIO(octets), _CONTEXT)
        return fields

    def build(self, **fields: object) -> bytes:
        """Build the octets; reserved fields are zero.

        Raises:
            WireError: a value does not fit its field. The value is not shown: it may be a key.
        """
        for name, size in self._octets:  # which the compiled layout does not check
            value = fields.get(name)
            if isinstance(value, bytes) and len(value) != size:
                raise WireError(self.name, f"{name} does not fit")
        try:
            return bytes(self._compiled.build(fields))
        except _FAULTS as error:
            bad = next((f for f in fields if not self._fits(f, fields[f])), "a field")
            raise WireError(self.name, f"{bad} does not fit") from error

    def interpret(self, octets: bytes) -> Any:
        """Read by the interpreted layout: what the compiled one is held to."""
        return self._struct.parse(octets)

    def _fits(self, name: str, value: object) -> bool:
        for sub in self._subcons():
            if sub.name == name:
                try:
                    sub.build(value)
                except _FAULTS:
                    return False
        return True

    def _subcons(self) -> Iterator[Any]:
        yield from getattr(self._struct, "subcons", ())

    @property
    def fields(self) -> tuple[Field, ...]:
        """The layout as data, for the tables in specs/."""
        rows, offset = [], 0
        for sub in self._subcons():
            octets = sub.sizeof()
            inner = sub
            while not hasattr(inner, "fmtstr") and hasattr(inner, "subcon"):
                inner = inner.subcon
            code = getattr(inner, "fmtstr", "")
            order = "octets" if not code else "network" if code.startswith(">") else "host"
            rows.append(Field(str(sub.name), offset, octets, order))
            offset += octets
        return tuple(rows)


class Layout:
    """Whole records by one struct: segments in a row, some slots constant, the rest values.

    A segment is a struct format and its slots; a slot is a constant, or None for a value.
    """

    __slots__ = ("_constants", "_expected", "_places", "_slots", "_values", "size", "struct")

    def __init__(self, *segments: tuple[str, tuple[int | bytes | None, ...]]) -> None:
        self.struct = struct.Struct("=" + "".join(fmt for fmt, _ in segments))
        self.size = self.struct.size
        self._slots = [slot for _, part in segments for slot in part]
        constants = [i for i, slot in enumerate(self._slots) if slot is not None]
        self._places = [i for i, slot in enumerate(self._slots) if slot is None]
        self._constants = _picker(constants)
        self._expected = tuple(self._slots[i] for i in constants)
        self._values = _picker(self._places)

    def pack(self, *values: object) -> bytes:
        """Build the record from its values, in their order.

        Raises:
            WireError: a value does not fit its field.
        """
        slots: list[object] = list(self._slots)
        for place, value in zip(self._places, values, strict=True):
            slots[place] = value
        try:
            return self.struct.pack(*slots)
        except struct.error as error:
            raise WireError("sadb_msg", f"a value does not fit: {error}") from error

    def unpack(self, octets: bytes) -> tuple[Any, ...] | None:
        """The values, or None when a constant differs or octets are missing."""
        if len(octets) < self.size:
            return None
        slots = self.struct.unpack_from(octets)
        if self._constants(slots) != self._expected:
            return None
        return self._values(slots)


def _picker(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """An itemgetter that answers with a tuple also for one place."""
    if len(places) == 1:
        return lambda slots: (slots[places[0]],)
    return itemgetter(*places)
