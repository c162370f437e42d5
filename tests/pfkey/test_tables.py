"""specs/tables/ against the code, in both directions."""

import re
import tomllib
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

from pfkey import algorithms, const
from pfkey.algorithms import Algorithm, Kind
from pfkey.const import ExtType, MsgType
from pfkey.errors import WireError
from pfkey.message import DECODERS
from tests.pfkey.test_codec import FORMATS

TABLES = Path(__file__).parents[2] / "specs" / "tables"
SYSTEMS = {"linux", "netbsd", "freebsd", "openbsd"}


def table(name: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text())


ENUMS: list[tuple[str, type[IntEnum] | type[IntFlag]]] = [
    ("message", const.MsgType),
    ("extension", const.ExtType),
    ("satype", const.SaType),
    ("sastate", const.SaState),
    ("ident", const.IdentType),
    ("mode", const.Mode),
    ("dir", const.Dir),
    ("policy", const.PolicyType),
    ("level", const.Level),
]


@pytest.mark.parametrize(("name", "enum"), ENUMS)
def test_numbers_of_linux_are_those_of_the_enums(
    name: str, enum: type[IntEnum] | type[IntFlag]
) -> None:
    rows = {key: row["linux"] for key, row in table("dialects")[name].items() if "linux" in row}
    ours = {member.name: member.value for member in enum}
    if name == "message":
        assert ours.pop("RESERVED") == 0
    assert ours == rows


def test_flags_are_those_of_the_table() -> None:
    rows = table("dialects")["saflag"]
    linux = {key: row["linux"] for key, row in rows.items() if "linux" in row}
    # setkey sets KAME's CYCSEQ on Linux too; ESN is FreeBSD's and OpenBSD's
    more = {"CYCSEQ": rows["CYCSEQ"]["netbsd"], "ESN": rows["ESN"]["freebsd"]}
    assert {f.name: f.value for f in const.SaFlag} == linux | more
    netbsd = {key: row["netbsd"] for key, row in rows.items() if "netbsd" in row}
    assert {f.name: f.value for f in const.KameFlag} == netbsd


def test_address_families_are_those_of_the_table() -> None:
    rows = table("dialects")["family"]
    assert {name: row["linux"] for name, row in rows.items()} == {
        "AF_INET": const.AF_INET,
        "AF_INET6": const.AF_INET6,
    }


def test_dialects_name_known_systems_and_no_number_twice() -> None:
    for family, rows in table("dialects").items():
        for system in SYSTEMS:
            numbers = [row[system] for row in rows.values() if system in row]
            assert len(numbers) == len(set(numbers)), f"{family} of {system}"
        assert all(set(row) <= SYSTEMS for row in rows.values())


def test_layouts_are_those_of_the_formats() -> None:
    structures = table("extensions")["structure"]
    assert set(structures) == set(FORMATS)
    for name, row in structures.items():
        fmt = FORMATS[name]
        assert fmt.size == row["octets"], name
        assert [[f.name, f.offset, f.octets, f.order] for f in fmt.fields] == row["fields"], name
        end = 0
        for _, offset, octets, _ in row["fields"]:
            assert offset == end, name
            end += octets
        assert end == row["octets"], name


def test_every_extension_has_a_layout_and_a_decoder() -> None:
    rows = table("extensions")
    assert set(rows["extension"]) == {t.name for t in ExtType} == {t.name for t in DECODERS_NAMED}
    assert {row["structure"] for row in rows["extension"].values()} <= set(rows["structure"])


DECODERS_NAMED = [ExtType(number) for number in DECODERS]


@pytest.mark.parametrize("exttype", list(ExtType))
def test_extensions_outside_their_lengths_are_refused(exttype: ExtType) -> None:
    least, most = table("extensions")["extension"][exttype.name]["words"]
    for words in [*range(1, least), *([most + 1] if most else [])]:
        octets = words.to_bytes(2, "little") + bytes([exttype, 0]) + bytes(8 * words - 4)
        with pytest.raises(WireError):
            DECODERS[exttype](octets, 0)


def test_messages_have_rows_and_name_known_extensions() -> None:
    rows = table("messages")
    assert set(rows) == {t.name for t in MsgType if t}
    known = {t.name for t in ExtType}
    for name, row in rows.items():
        for column in ("required", "optional", "reply", "notice"):
            listed = [e.removesuffix("?") for e in row.get(column, [])]
            assert set(listed) <= known, name
            assert len(listed) == len(set(listed)), name
        assert not set(row.get("required", [])) & set(row.get("optional", [])), name
        if row.get("from_client") == "refused":
            assert "required" not in row, name
        else:
            assert row["to"] in {"sender", "all", "registered", "none"}, name


def row_of(found: Algorithm) -> dict[str, Any]:
    """What the code says of an algorithm, in the words of the table."""
    said: dict[str, Any] = {"rfc": found.rfc, "standing": found.standing}
    if found.kind is not Kind.COMPRESS:
        said |= {
            "bits": [found.min_bits, found.max_bits, found.step_bits], "block": found.block,
            "ivlen": found.ivlen,
        }  # fmt: skip
    said |= {"aliases": list(found.aliases)} if found.aliases else {}
    said |= {"only": sorted(found.key_bits)} if found.key_bits else {}
    said |= {"salt": found.salt_bits} if found.salt_bits else {}
    said |= {"aead": True} if found.is_aead else {}
    said |= {} if found.is_offered else {"offered": False}
    return said


@pytest.mark.parametrize("found", algorithms.ROWS, ids=lambda r: f"{r.kind}-{r.name}")
def test_algorithms_are_those_of_the_table(found: Algorithm) -> None:
    row = dict(table("algorithms")[found.kind.value][found.name])
    numbers = {system: row.pop(system) for system in SYSTEMS if system in row}
    first = next(s for s in ("linux", "netbsd", "freebsd", "openbsd") if s in numbers)
    assert numbers[first] == found.number
    assert ("linux" in numbers) == found.is_linux
    row.pop("order", None)
    assert (row.pop("iv", 0), row.pop("icv", 0)) == (found.iv, found.icv)
    assert row == row_of(found)


def test_every_algorithm_of_the_table_is_in_the_code() -> None:
    rows = table("algorithms")
    assert set(rows) == {kind.value for kind in Kind}
    for kind, named in rows.items():
        assert set(named) == {r.name for r in algorithms.ROWS if r.kind == kind}
        order = sorted((row["order"], name) for name, row in named.items() if "order" in row)
        ours = [r.name for r in algorithms.ROWS if r.kind == kind]
        assert [name for _, name in order] == ours[: len(order)]


def test_counters_have_a_name_a_text_and_a_meaning() -> None:
    rows = table("counters")
    groups = {group["name"] for group in rows["group"]}
    seen = [(row["group"], row["name"]) for row in rows["counter"]]
    assert len(seen) == len(set(seen))
    for row in rows["counter"]:
        assert row["group"] in groups
        assert re.fullmatch(r"[a-z][a-z0-9_]*", row["name"]), row["name"]
        assert row["text"]
        assert row["meaning"].endswith("."), row["name"]
