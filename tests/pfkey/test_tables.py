"""specs/tables/ against the code, in both directions."""

import errno
import re
import tomllib
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

from pfkey import algorithms, const
from pfkey.algorithms import Algorithm, Kind
from pfkey.const import ExtType, MsgType
from pfkey.dialect import DIALECTS, LINUX, Numbers
from pfkey.errors import WireError
from pfkey.message import DECODERS
from tests.pfkey.test_codec import FORMATS

TABLES = Path(__file__).parents[2] / "specs" / "tables"
SYSTEMS = {"linux", "netbsd", "freebsd", "openbsd"}


def table(name: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text())


ORDER = ("linux", "netbsd", "freebsd", "openbsd")  # whose number comes first
BASES = {"linux": 0, "netbsd": const.NETBSD, "freebsd": const.FREEBSD, "openbsd": const.OPENBSD}
ENUMS: list[tuple[str, type[IntEnum]]] = [
    ("message", const.MsgType),
    ("extension", const.ExtType),
    ("satype", const.SaType),
    ("sastate", const.SaState),
    ("ident", const.IdentType),
    ("dir", const.Dir),
    ("policy", const.PolicyType),
    ("level", const.Level),
]
# What a dialect calls a registry, and the table's name for it.
REGISTRIES = {
    "messages": "message", "extensions": "extension", "satypes": "satype", "idents": "ident",
    "modes": "mode", "dirs": "dir", "errnos": "errno",
}  # fmt: skip


def our_number(row: dict[str, int]) -> int:
    """Ours for a row of dialects.toml: the first system's, moved up by its base."""
    first = next(system for system in ORDER if system in row)
    return BASES[first] + row[first]


@pytest.mark.parametrize(("name", "enum"), ENUMS)
def test_our_numbers_are_those_of_the_first_system_that_has_one(
    name: str, enum: type[IntEnum]
) -> None:
    rows = {key: our_number(row) for key, row in table("dialects")[name].items()}
    ours = {member.name: member.value for member in enum}
    if name == "message":
        assert ours.pop("RESERVED") == 0
    assert ours == rows


@pytest.mark.parametrize(
    ("name", "enum", "system"),
    [("scope", const.Scope, "freebsd"), ("flow", const.FlowType, "openbsd")],
)
def test_numbers_of_one_system_alone_are_ours(name: str, enum: type[IntEnum], system: str) -> None:
    rows = {key: row[system] for key, row in table("dialects")[name].items()}
    assert {member.name: member.value for member in enum} == rows


def test_modes_are_those_of_the_table() -> None:
    rows = {key: our_number(row) for key, row in table("dialects")["mode"].items()}
    assert rows.pop("X_TCPMD5") == const.MODE_TCPMD5
    assert {member.name: member.value for member in const.Mode} == rows


@pytest.mark.parametrize("system", ORDER)
@pytest.mark.parametrize("registry", REGISTRIES)
def test_dialects_have_the_numbers_of_the_table(registry: str, system: str) -> None:
    found: Numbers = getattr(DIALECTS[system], registry)
    rows = table("dialects")[REGISTRIES[registry]]
    named = {row[system]: our_number(row) for row in rows.values() if system in row}
    if registry in {"messages", "errnos"}:
        named[0] = 0  # no message, no refusal
    if (registry, system) == ("errnos", "linux"):
        assert not found.named  # all of Linux's have a meaning, all are ours
        assert all(getattr(errno, name) == row["linux"] for name, row in rows.items())
    else:
        assert found.named == named
    for row in rows.values():
        ours = our_number(row)
        if system in row:
            assert (found.theirs(ours), found.ours(row[system])) == (row[system], ours)
        else:
            assert ours not in found
            with pytest.raises(WireError, match="is not of this dialect"):
                found.theirs(ours)


@pytest.mark.parametrize("system", ORDER)
@pytest.mark.parametrize("kind", Kind)
def test_dialects_have_the_algorithms_of_the_table(kind: Kind, system: str) -> None:
    found: Numbers = getattr(
        DIALECTS[system], {"auth": "auth", "encrypt": "encrypt"}.get(kind.value, "compress")
    )
    rows = {row.name: row.number for row in algorithms.ROWS if row.kind is kind}
    named = {
        row[system]: rows[name] for name, row in table("algorithms")[kind.value].items()
        if system in row
    }  # fmt: skip
    assert found.named == {0: 0} | named
    if kind is not Kind.AUTH:
        inside = DIALECTS[system].of_satype(const.SaType.X_IPCOMP)
        assert system == "linux" or inside.encrypt is DIALECTS[system].compress


def test_flags_are_those_of_the_table() -> None:
    flags = {f.name: f.value for e in FLAGS for f in e}
    rows = table("dialects")["saflag"]
    assert set(flags) == set(rows)
    for name, row in rows.items():
        for system in ORDER:
            dialect = DIALECTS[system]
            if system in row:
                assert dialect.flags_in(row[system]) == flags[name], name
                assert dialect.flags_out(flags[name]) == row[system], name
    # setkey sets it on Linux too
    assert int(const.SaFlag.CYCSEQ) == int(const.KameFlag.CYCSEQ)


FLAGS: tuple[type[IntFlag], ...] = (const.SaFlag, const.KameFlag, const.OpenbsdFlag)


def test_a_flag_that_means_another_thing_elsewhere_is_not_said_there() -> None:
    for flag in const.OpenbsdFlag:
        for system in ("linux", "netbsd", "freebsd"):
            with pytest.raises(WireError, match="are not of this dialect"):
                DIALECTS[system].flags_out(flag)
            assert DIALECTS[system].flags_sayable(flag | const.SaFlag.ESN) == const.SaFlag.ESN
    for kame in (const.KameFlag.CYCSEQ, const.KameFlag.ZERO_PAD, const.SaFlag.NOECN):
        with pytest.raises(WireError, match="are not of this dialect"):
            DIALECTS["openbsd"].flags_out(kame)


def test_address_families_are_those_of_the_table() -> None:
    rows = table("dialects")["family"]
    for system in ORDER:
        assert DIALECTS[system].families == {
            4: rows["AF_INET"][system],
            16: rows["AF_INET6"][system],
        }
    assert (const.AF_INET, const.AF_INET6) == (2, 10)


def test_dialects_name_known_systems_and_no_number_twice() -> None:
    for family, rows in table("dialects").items():
        for system in SYSTEMS:
            numbers = [row[system] for row in rows.values() if system in row]
            assert len(numbers) == len(set(numbers)), f"{family} of {system}"
        assert all(set(row) <= SYSTEMS for row in rows.values())


def test_extensions_of_our_own_are_numbered_the_same_everywhere() -> None:
    for name, row in table("dialects")["extension"].items():
        if const.OWN_MIN <= our_number(row) <= const.OWN_MAX:
            assert row == dict.fromkeys(SYSTEMS, const.ExtType[name])
        else:
            assert all(number < const.OWN_MIN for number in row.values()), name


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
        assert set(row.get("systems", [])) <= SYSTEMS | {"ours"}


def test_every_extension_has_a_layout_and_a_decoder() -> None:
    rows = table("extensions")
    decoders = {ExtType(number).name for number in DECODERS}
    assert set(rows["extension"]) == {t.name for t in ExtType} == decoders
    assert {row["structure"] for row in rows["extension"].values()} <= set(rows["structure"])


def test_variants_are_forms_of_their_structure_and_each_is_used() -> None:
    rows = table("extensions")
    used = {row["structure"] for row in rows["extension"].values()}
    for system, variants in rows["variant"].items():
        for name, variant in variants.items():
            assert variant.startswith(f"{name}."), variant
            assert system in rows["structure"][variant]["systems"]
            used.add(variant)
    assert {name for name in rows["structure"] if "." in name} <= used
    for system in ORDER:
        dialect, mine = DIALECTS[system], rows["variant"].get(system, {})
        suffix = {name: mine.get(name, name).partition(".")[2] for name in FORMS}
        assert (dialect.sockaddr, dialect.address, dialect.proposal) == (
            suffix["sockaddr_in"], suffix["sadb_address"], suffix["sadb_prop"]
        )  # fmt: skip
        assert (dialect.request, dialect.has_scope) == (
            suffix["sadb_x_ipsecrequest"], suffix["sadb_x_policy"] == "bsd"
        )  # fmt: skip


FORMS = ("sockaddr_in", "sadb_address", "sadb_prop", "sadb_x_ipsecrequest", "sadb_x_policy")


@pytest.mark.parametrize("system", ORDER)
def test_extensions_outside_their_lengths_are_refused(system: str) -> None:
    dialect = DIALECTS[system]
    for exttype in dialect.extensions.named.values():
        least, most = table("extensions")["extension"][ExtType(exttype).name]["words"]
        for words in [*range(1, least), *([most + 1] if most else [])]:
            octets = words.to_bytes(2, "little") + bytes([dialect.exttype(exttype), 0])
            with pytest.raises(WireError):
                DECODERS[exttype](octets + bytes(8 * words - 4), 0, dialect)


def test_messages_have_rows_and_name_known_extensions() -> None:
    rows = table("messages")
    of_linux = {MsgType(number).name for number in LINUX.messages.named if number}
    assert set(rows) == of_linux
    known = {ExtType(number).name for number in LINUX.extensions.named.values()}
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
