"""The counters as text and as JSON, held to specs/tables/counters.toml and to the schema."""

import json
import tomllib
from pathlib import Path

import pytest

from pfkey import stat
from pfkey.errors import ShellError
from tests.support.schema import check_schema, schema

SPECS = Path(__file__).parent.parent.parent / "specs"
TABLE = tomllib.loads((SPECS / "tables" / "counters.toml").read_text())
ZEROS = {group: dict.fromkeys(names, 0) for group, names in stat.TEXTS.items()}


def test_groups_and_words_are_those_of_the_table_in_its_order() -> None:
    assert [(g["name"], g["title"]) for g in TABLE["group"]] == list(stat.TITLES.items())
    assert [(c["group"], c["name"], c["text"]) for c in TABLE["counter"]] == [
        (group, name, text) for group, names in stat.TEXTS.items() for name, text in names.items()
    ]


def test_all_counters_are_shown_as_netstat_shows_them() -> None:
    lines = stat.render({**ZEROS, "esp": {**ZEROS["esp"], "badauth": 7}}).splitlines()
    assert lines[0] == "(Fast) IPsec:"
    assert lines[1] == "\t0 policy violations (input)"
    assert "\t7 packets with bad authentication" in lines
    assert len(lines) == len(TABLE["counter"]) + len(TABLE["group"])


def test_zeros_and_empty_groups_are_left_out_on_demand() -> None:
    text = stat.render({**ZEROS, "esp": {**ZEROS["esp"], "input": 2}}, nonzero=True)
    assert text == "IPsec esp:\n\t2 input packets processed"
    assert stat.render(ZEROS, nonzero=True) == ""


def test_counters_of_a_newer_pfkeyd_are_shown_too() -> None:
    text = stat.render({"esp": {"input": 1, "later": 2}, "zz": {"n": 3}})
    assert text == "IPsec esp:\n\t1 input packets processed\n\t2 later\nzz:\n\t3 n"


def test_document_follows_the_schema() -> None:
    document = json.loads(stat.document(ZEROS))
    check_schema(document, schema("counters"))
    assert stat.counters_of(document) == ZEROS


@pytest.mark.parametrize("answer", [{"schema_version": 2, "counters": {}}, {}, None, []])
def test_another_answer_is_refused(answer: object) -> None:
    with pytest.raises(ShellError):
        stat.counters_of(answer)
