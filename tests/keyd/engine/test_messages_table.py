"""The engine against specs/tables/messages.toml: parts, answers, receivers, in both directions."""

import tomllib
from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path
from typing import Any

import pytest

from keyd.engine import HANDLERS
from keyd.engine.unsupported import MESSAGES
from pfkey.const import ExtType, MsgType
from pfkey.message import Message
from tests.keyd.engine.desk import ESP, A, B, C, Desk, add, dst, message, named, policy, src

TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[3] / "specs" / "tables" / "messages.toml").read_text()
)
BUILT = [name for name in TABLE if MsgType[name] in HANDLERS]


def by_id(desk: Desk, type: MsgType) -> Message:
    desk.ask(policy())
    (stored,) = desk.engine.policies()
    (extension,) = [e for e in policy(id=stored.id).extensions if e.exttype == ExtType.X_POLICY]
    return message(type, extension)


def request(desk: Desk, type: MsgType) -> Message:
    """A request that succeeds, with what it needs in place."""
    if type in (MsgType.UPDATE, MsgType.DELETE, MsgType.GET, MsgType.DUMP, MsgType.FLUSH):
        desk.ask(add())
    if type in (MsgType.X_SPDDELETE, MsgType.X_SPDDUMP, MsgType.X_SPDFLUSH, MsgType.X_SPDUPDATE):
        desk.ask(policy())
    match type:
        case MsgType.ADD | MsgType.UPDATE:
            return add(type=type)
        case MsgType.GETSPI:
            return message(type, src(), dst(), satype=ESP)
        case MsgType.DELETE | MsgType.GET:
            return named(type)
        case MsgType.X_SPDADD | MsgType.X_SPDUPDATE | MsgType.X_SPDSETIDX | MsgType.X_SPDDELETE:
            return policy(type)
        case MsgType.X_SPDGET | MsgType.X_SPDDELETE2:
            return by_id(desk, type)
        case MsgType.DUMP | MsgType.FLUSH | MsgType.REGISTER:
            return message(type, satype=ESP)
        case MsgType.X_PROMISC:
            return message(type, satype=0)
        case _:
            return message(type)


def test_the_engine_knows_every_message_of_the_table() -> None:
    known = set(HANDLERS) | set(MESSAGES)
    assert {MsgType[name] for name in TABLE} == known
    assert not set(HANDLERS) & set(MESSAGES)


@pytest.mark.parametrize("name", BUILT)
def test_each_required_extension_is_required(name: str) -> None:
    for missing in TABLE[name]["required"]:
        desk = Desk(A, B)
        whole = request(desk, MsgType[name])
        rest = tuple(e for e in whole.extensions if e.exttype != ExtType[missing])
        assert len(rest) == len(whole.extensions) - 1
        assert desk.errno(replace(whole, extensions=rest)) == EINVAL, missing


@pytest.mark.parametrize("name", BUILT)
def test_nothing_but_the_required_is_needed(name: str) -> None:
    desk = Desk(A, B)
    whole = request(desk, MsgType[name])
    # an SA needs its keys, which the table cannot say: ESP needs KEY_ENCRYPT, AH KEY_AUTH
    keep = {ExtType[part] for part in TABLE[name]["required"]} | {
        ExtType.KEY_AUTH,
        ExtType.KEY_ENCRYPT,
    }
    least = replace(whole, extensions=tuple(e for e in whole.extensions if e.exttype in keep))
    heard = desk.ask(least)
    assert all(not answer.errno for answers in heard.values() for answer in answers)


@pytest.mark.parametrize("name", BUILT)
def test_answers_carry_what_the_table_says_in_its_order(name: str) -> None:
    desk = Desk(A, B)
    heard = desk.ask(request(desk, MsgType[name]))
    if TABLE[name]["to"] == "none":
        assert heard == {}
        return
    certain = [ExtType[e] for e in TABLE[name]["reply"] if not e.endswith("?")]
    possible = [ExtType[e.removesuffix("?")] for e in TABLE[name]["reply"]]
    for answer in heard[A]:
        carried = [e.exttype for e in answer.extensions]
        assert answer.type == MsgType[name]
        assert [e for e in possible if e in carried] == carried
        assert set(certain) <= set(carried)


@pytest.mark.parametrize("name", BUILT)
def test_those_hear_an_answer_whom_the_table_names(name: str) -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=ESP), B)
    heard = set(desk.ask(request(desk, MsgType[name])))
    assert (
        heard
        == {"sender": {A}, "all": {A, B, C}, "registered": {A, B}, "none": set()}[TABLE[name]["to"]]
    )


@pytest.mark.parametrize(
    "name", [name for name, row in TABLE.items() if row.get("from_client") == "refused"]
)
def test_what_only_the_engine_sends_is_refused(name: str) -> None:
    assert Desk().errno(message(MsgType[name], src(), dst())) == EOPNOTSUPP


def test_an_acquire_with_a_body_is_refused() -> None:
    assert TABLE["ACQUIRE"]["exact"]
    assert Desk().errno(message(MsgType.ACQUIRE, src(), dst(), satype=ESP)) == EOPNOTSUPP
