"""How the systems behave: the engine's table against specs/tables/manners.toml, both ways."""

import errno
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from keyd.engine.manners import MANNERS, Manners
from pfkey.const import MsgType

TABLE: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(
    (Path(__file__).parents[3] / "specs" / "tables" / "manners.toml").read_text()
)
NOT_IN_THE_TABLE = {"knows_own", "dialect", "refusals", "takes"}


def number(name: str) -> int:
    found: int = getattr(errno, name)
    return found


@pytest.mark.parametrize(("what", "row"), TABLE["refusal"].items(), ids=list(TABLE["refusal"]))
def test_errnos_are_those_of_the_table(what: str, row: dict[str, str]) -> None:
    message, _, raised = what.partition(".")
    types = [MsgType.FLUSH, MsgType.ADD] if message == "*" else [MsgType[message]]
    for name, manners in MANNERS.items():
        for type in types:
            assert (name in row) == (type in manners.dialect.messages)
            if name in row:
                assert manners.errno(type, number(raised)) == number(row[name])


def test_every_errno_that_is_changed_is_in_the_table() -> None:
    told = set()
    for what in TABLE["refusal"]:
        message, _, raised = what.partition(".")
        told.add((None if message == "*" else MsgType[message], number(raised)))
    for manners in MANNERS.values():
        assert set(manners.refusals) <= told


@pytest.mark.parametrize("what", TABLE["behaviour"])
def test_behaviour_is_that_of_the_table(what: str) -> None:
    for name, manners in MANNERS.items():
        assert getattr(manners, what) == TABLE["behaviour"][what][name]


def test_everything_is_in_the_table() -> None:
    assert {one.name for one in fields(Manners)} - NOT_IN_THE_TABLE == set(TABLE["behaviour"])
