"""The counters' table against the specification, in both directions."""

import tomllib
from pathlib import Path

from keyd.packet import counters
from keyd.packet.drop import Drop

TABLE = Path(__file__).parents[3] / "specs" / "tables" / "counters.toml"


def test_rows_are_those_of_the_specification_in_its_order() -> None:
    spec = tomllib.loads(TABLE.read_text())["counter"]
    assert tuple((row["group"], row["name"]) for row in spec) == counters.ROWS


def test_index_constants_point_at_their_rows() -> None:
    for index, (group, name) in enumerate(counters.ROWS):
        word = name.upper()
        at = getattr(counters, f"{group}_{name}".upper(), None)
        if at is None:
            at = getattr(counters, word)
        assert at == index, (group, name)


def test_every_drop_has_a_counter_of_its_own() -> None:
    assert set(counters.OF_DROP) == set(Drop)
    assert len(set(counters.OF_DROP.values())) == len(Drop)
    assert set(counters.OF_AH_DROP) == set(Drop)
    assert {counters.ROWS[row][0] for row in counters.OF_AH_DROP.values()} == {"ah"}
    assert set(counters.OF_COMP_DROP) == set(Drop)
    assert {counters.ROWS[row][0] for row in counters.OF_COMP_DROP.values()} == {"ipcomp"}
    assert set(counters.DROPS_OF) == set(counters.INPUTS) == set(counters.OPENED) == {50, 51, 108}


def test_grouped_keeps_values_with_their_names() -> None:
    groups = counters.grouped(list(range(len(counters.ROWS))))
    assert groups["ipsec"]["in_polvio"] == counters.IN_POLVIO
    assert groups["pfkey"]["internal"] == counters.INTERNAL
