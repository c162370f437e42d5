"""The one place that calls Construct, so that its exceptions never travel further.

Construct declares every layout and is what the tests hold it to. What runs is one `struct` made
from the declaration: a compiled Construct takes three times as long to read an extension, and
compiling as many as there are would be half of a program's start. Fields without a mark are in
host order; `BE16` and `BE32` are in network order.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias

from construct import (
    Bytes,
    Construct,
    ConstructError,
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
R56 = Default(Bytes(7), bytes(7))
R64 = Default(Bytes(8), bytes(8))
OCTETS4 = Bytes(4)
OCTETS16 = Bytes(16)
OCTETS32 = Bytes(32)

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FAULTS = (
    ConstructError, struct.error, AttributeError, KeyError, OverflowError, TypeError, ValueError,
)  # fmt: skip


Fields: TypeAlias = "tuple[Construct[Any, Any], ...]"


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies: offset and size in octets; `order` is host, network or octets."""

    name: str
    offset: int
    octets: int
    order: str


class Format:
    """A fixed layout. `name` is the C structure's and stands in every error.

    `variant` names another system's structure of that name, such as `openbsd`.
    """

    __slots__ = (
        "_construct", "_names", "_network", "_octets", "_reserved", "_struct", "_values", "fields",
        "name", "size", "variant",
    )  # fmt: skip

    def __init__(self, name: str, *fields: "Construct[Any, Any]", variant: str = "") -> None:
        self.name = name
        self.variant = variant
        self._construct: Construct[Any, Any] = Struct(*fields)
        # The layout as data, for the tables in specs/.
        self.fields = tuple(self._declared())
        self._struct = struct.Struct(
            "=" + "".join(_CODES[f.octets] if f.order == "host" else f"{f.octets}s"
                          for f in self.fields)
        )  # fmt: skip
        self.size: int = self._struct.size
        self._names = tuple(f.name for f in self.fields)
        self._values = itemgetter(*self._names)
        self._network = tuple((f.name, f.octets) for f in self.fields if f.order == "network")
        self._octets = tuple((f.name, f.octets) for f in self.fields if f.order == "octets")
        self._reserved = {
            str(sub.name): sub.subcon.value
            for sub in self._subcons()
            if isinstance(sub.subcon, Default)
        }

    def parse(self, octets: bytes, at: int = 0) -> Mapping[str, Any]:
        """Read the fields from the first `size` octets, by name.

        Raises:
            WireError: fewer octets than the layout has; `at` is their offset in the message.
        """
        if len(octets) < self.size:
            raise WireError(self.name, f"{len(octets)} octets, the least is {self.size}", at)
        found = dict(zip(self._names, self._struct.unpack_from(octets), strict=True))
        for name, _ in self._network:
            found[name] = int.from_bytes(found[name], "big")
        return found

    def build(self, **fields: Any) -> bytes:
        """Build the octets; reserved fields are zero.

        Raises:
            WireError: a value does not fit its field. The value is not shown: it may be a key.
        """
        try:
            values: dict[str, Any] = self._reserved | fields
            for name, size in self._network:
                values[name] = values[name].to_bytes(size, "big")
            for name, size in self._octets:
                if len(values[name]) != size:  # struct would cut it or fill it up
                    raise ValueError(name)
            return self._struct.pack(*self._values(values))
        except _FAULTS as error:
            bad = next((f for f in fields if not self._fits(f, fields[f])), "a field")
            raise WireError(self.name, f"{bad} does not fit") from error

    def interpret(self, octets: bytes) -> Any:
        """Read as Construct does: what `parse` is held to."""
        return self._construct.parse(octets)

    def construct(self, fields: Mapping[str, object]) -> bytes:
        """Build as Construct does: what `build` is held to."""
        return self._construct.build(fields)

    def _fits(self, name: str, value: object) -> bool:
        for sub in self._subcons():
            if sub.name == name:
                try:
                    sub.build(value)
                except _FAULTS:
                    return False
                return not isinstance(value, bytes) or len(value) == sub.sizeof()
        return True

    def _subcons(self) -> Iterator[Any]:
        yield from getattr(self._construct, "subcons", ())

    def _declared(self) -> Iterator[Field]:
        offset = 0
        for sub in self._subcons():
            octets = sub.sizeof()
            inner = sub
            while not hasattr(inner, "fmtstr") and hasattr(inner, "subcon"):
                inner = inner.subcon
            code = getattr(inner, "fmtstr", "")
            order = "octets" if not code else "network" if code.startswith(">") else "host"
            yield Field(str(sub.name), offset, octets, order)
            offset += octets


class Layout:
    """Whole records by one struct: segments in a row, some slots constant, the rest values.

    A segment is a struct format and its slots; a slot is a constant, or None for a value.
    """

    __slots__ = ("_constants", "_count", "_expected", "_order", "_values", "size", "struct")

    def __init__(self, *segments: tuple[str, tuple[int | bytes | None, ...]]) -> None:
        self.struct = struct.Struct("=" + "".join(fmt for fmt, _ in segments))
        self.size = self.struct.size
        slots = [slot for _, part in segments for slot in part]
        constants = [i for i, slot in enumerate(slots) if slot is not None]
        places = [i for i, slot in enumerate(slots) if slot is None]
        self._constants = _picker(constants)
        self._expected = tuple(slots[i] for i in constants)
        self._values = _picker(places)
        self._count = len(places)
        # Where each slot stands in the constants with the values behind them.
        found = {slot: at for at, slot in enumerate((*constants, *places))}
        self._order = _picker([found[slot] for slot in range(len(slots))])

    def pack(self, *values: object) -> bytes:
        """Build the record from its values, in their order.

        Raises:
            WireError: a value does not fit its field.
        """
        if len(values) != self._count:
            raise TypeError(f"{len(values)} values for {self._count} places")
        try:
            return self.struct.pack(*self._order((*self._expected, *values)))
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
    """An itemgetter that answers with a tuple also for one place or none."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda slots: tuple(slots[place] for place in places)
