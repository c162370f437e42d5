"""The wall around Construct: one struct does what Construct declares, and lets no more through."""

import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfkey
from pfkey.codec import BE32, OCTETS4, R16, U8, U16, Format, Layout
from pfkey.errors import WireError


def formats() -> dict[str, Format]:
    """Every layout by the name of its C structure; a system's own form after a dot."""
    found = {}
    for module in pkgutil.iter_modules(pfkey.__path__, "pfkey."):
        if module.name.startswith(("pfkey.base", "pfkey.ext_", "pfkey.sockaddr")):
            named = vars(importlib.import_module(module.name))
            inside = [v for row in named.get("SOCKADDRS", {}).values() for v in row.values()]
            for value in (*named.values(), *inside):
                if isinstance(value, Format):
                    found[f"{value.name}.{value.variant}".removesuffix(".")] = value
    return found


FORMATS = formats()


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(st.data())
def test_the_struct_reads_and_writes_what_construct_does(name: str, data: st.DataObject) -> None:
    fmt = FORMATS[name]
    octets = data.draw(st.binary(min_size=fmt.size, max_size=fmt.size))
    declared, parsed = fmt.interpret(octets), fmt.parse(octets)
    assert all(declared[field.name] == parsed[field.name] for field in fmt.fields)
    values = {f.name: parsed[f.name] for f in fmt.fields}
    assert fmt.build(**values) == octets == fmt.construct(values)
    if name != "sadb_msg":  # its reserved field is a value: in replies it counts references
        said = {n: v for n, v in values.items() if not n.startswith(("reserved", "zero", "pad"))}
        assert fmt.build(**said) == fmt.construct(said)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_too_few_octets_are_a_wire_error_that_says_where(name: str) -> None:
    with pytest.raises(WireError, match=f"{FORMATS[name].name} at offset 40") as caught:
        FORMATS[name].parse(bytes(FORMATS[name].size - 1), 40)
    assert caught.value.offset == 40


SMALL = Format("small", "kind" / U8, "flag" / U8, "reserved" / R16, "number" / BE32)


def test_reserved_fields_are_zero_on_write_and_ignored_on_read() -> None:
    assert SMALL.build(kind=1, flag=2, number=3) == bytes([1, 2, 0, 0, 0, 0, 0, 3])
    assert SMALL.parse(bytes([1, 2, 9, 9, 0, 0, 0, 3]))["number"] == 3


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": 256, "flag": 0, "number": 0}, "kind does not fit"),
        ({"kind": 0, "flag": 0, "number": 2**32}, "number does not fit"),
        ({"kind": 0, "flag": -1, "number": 0}, "flag does not fit"),
        ({"kind": 0, "flag": "x", "number": 0}, "flag does not fit"),
        ({"kind": 0, "flag": 0}, "a field does not fit"),
    ],
)
def test_values_that_do_not_fit_are_wire_errors(fields: dict[str, object], why: str) -> None:
    with pytest.raises(WireError, match=why):
        SMALL.build(**fields)


def test_octets_of_another_length_are_refused_though_construct_takes_them() -> None:
    two = Format("two", "here" / OCTETS4, "there" / OCTETS4)
    with pytest.raises(WireError, match="here does not fit"):
        two.build(here=bytes(3), there=bytes(5))


def test_a_layout_knows_its_fields() -> None:
    rows = [(f.name, f.offset, f.octets, f.order) for f in SMALL.fields]
    assert rows == [
        ("kind", 0, 1, "host"),
        ("flag", 1, 1, "host"),
        ("reserved", 2, 2, "host"),
        ("number", 4, 4, "network"),
    ]
    assert SMALL.size == 8
    two = Format("two", "word" / U16, "number" / BE32)
    assert two.fields[1].order == "network"


def test_a_record_layout_tells_constants_from_values() -> None:
    layout = Layout(("BB", (7, None)), ("2s", (None,)))
    assert layout.pack(1, b"ab") == b"\x07\x01ab"
    assert layout.unpack(b"\x07\x01abrest") == (1, b"ab")
    assert layout.unpack(b"\x08\x01ab") is None
    assert layout.unpack(b"\x07\x01a") is None
    with pytest.raises(WireError, match="does not fit"):
        layout.pack(256, b"ab")
    with pytest.raises(TypeError, match="1 values for 2 places"):
        layout.pack(1)
    fixed = Layout(("BB", (7, 8)))
    assert (fixed.pack(), fixed.unpack(b"\x07\x08"), fixed.unpack(b"\x07\x09")) == (
        b"\x07\x08", (), None,
    )  # fmt: skip
