"""The knobs against specs/tables/sysctls.toml, in both directions; the engine's own effects."""

import tomllib
from errno import EINVAL, ENOENT, EPERM
from logging import DEBUG, INFO
from pathlib import Path
from typing import Any

import pytest

from keyd.engine.effects import Log, SettingsChanged
from keyd.engine.sysctl import DUMPS, OPAQUE, ROWS
from keyd.model import Settings
from pfkey import sysctl as client
from pfkey.const import ExtType, MsgType
from pfkey.errors import SadbError
from pfkey.ext_ident import Ident
from tests.keyd.engine.desk import A, B, Desk, add, message, named

ROOT = Path(__file__).parents[3]
TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    (ROOT / "specs" / "tables" / "sysctls.toml").read_text()
)
NUMBERS = {name: row for name, row in TABLE.items() if "kind" not in row}
WRITABLE = [name for name, row in NUMBERS.items() if "choices" in row or "least" in row]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def turn(desk: Desk, name: str, value: int) -> list[Any]:
    return list(desk.engine.tune(name, value, desk.now))


def errno(desk: Desk, name: str, value: int) -> int:
    with pytest.raises(SadbError) as caught:
        turn(desk, name, value)
    assert name in str(caught.value)
    return caught.value.errno


def test_the_rows_are_those_of_the_table_in_its_order() -> None:
    assert [row.name for row in ROWS] == list(NUMBERS)
    by_kind = {kind: [n for n, r in TABLE.items() if r.get("kind") == kind]
               for kind in ("counters", "dump")}  # fmt: skip
    assert list(OPAQUE) == by_kind["counters"]
    assert list(DUMPS) == list(client.DUMPS) == by_kind["dump"]
    for row in ROWS:
        said = TABLE[row.name]
        assert row.default == said["default"], row.name
        if "choices" in said:
            assert list(row.values) == said["choices"]
        elif "least" in said:
            assert row.values == range(said["least"], said["most"] + 1)
        else:
            assert not row.values
        assert row.shares == said.get("shares", "")
        assert 0 <= (said["default"] - said.get("netbsd", said["default"])) <= 1


@pytest.mark.parametrize("name", TABLE)
def test_each_knob_names_the_test_of_its_effect(name: str) -> None:
    assert f"def {TABLE[name]['test']}(" in TESTS
    assert TABLE[name]["effect"]


@pytest.mark.parametrize("name", NUMBERS)
def test_each_knob_reads_and_writes_and_refuses_what_is_out_of_range(name: str) -> None:
    desk, row = Desk(A), TABLE[name]
    if name not in WRITABLE:
        assert errno(desk, name, 1) == EPERM
        return
    assert desk.engine.sysctl(name) == row["default"]
    good = row.get("choices") or [row["least"], row["most"]]
    for value in good:
        turn(desk, name, value)
        assert desk.engine.sysctl(name) == value
        assert desk.engine.sysctl(row.get("shares", name)) == value
    for value in (min(good) - 1, max(good) + 1):
        before = desk.engine.sysctl(name)
        assert errno(desk, name, value) == EINVAL
        assert desk.engine.sysctl(name) == before


@pytest.mark.parametrize("name", ["net.key.larval", "net.key", "", "net.key.stats"])
def test_an_unknown_name_is_refused(name: str) -> None:
    desk = Desk(A)
    assert errno(desk, name, 1) == ENOENT
    with pytest.raises(SadbError):
        desk.engine.sysctl(name)


def test_a_change_is_logged_and_told_to_the_data_path_if_it_concerns_it() -> None:
    desk = Desk(A)
    log, told = turn(desk, "net.key.blockacq_lifetime", 7)
    assert log == Log(INFO, "sysctl name=net.key.blockacq_lifetime before=20 value=7")
    assert told == SettingsChanged(Settings(wait_seconds=7))
    assert desk.engine.settings() == Settings(wait_seconds=7)
    assert len(turn(desk, "net.key.spi_try", 7)) == 1


def test_hardware_alone_is_refused() -> None:
    desk = Desk(A)
    with pytest.raises(SadbError, match="takes -1 or 0, not 1: there is no cryptographic hardware"):
        turn(desk, "net.inet.ipsec.crypto_support", 1)
    turn(desk, "net.inet.ipsec.crypto_support", -1)


def test_what_nothing_would_come_of_is_refused() -> None:
    desk = Desk(A)
    with pytest.raises(SadbError, match="takes 60, not 61: chance comes from the system"):
        turn(desk, "net.key.random_int", 61)
    turn(desk, "net.key.random_int", 60)


# ---------------------------------------------------------------- effects


def test_debug_logs_each_request() -> None:
    desk = Desk(A)
    assert desk.logs(named(MsgType.GET))[0].level == DEBUG
    assert not [log for log in desk.logs(message(MsgType.FLUSH)) if "request" in log.text]
    turn(desk, "net.key.debug", 1)
    assert desk.logs(named(MsgType.GET))[0].level == INFO
    (log,) = desk.logs(message(MsgType.FLUSH, seq=5))
    assert (log.level, log.text) == (
        INFO, "request type=FLUSH client=1 satype=0 seq=5 pid=4711",
    )  # fmt: skip


def ident(exttype: ExtType, kind: int = 2) -> Ident:
    return Ident(exttype=exttype, kind=kind, id=0, text=b"host.example")


SRC, DST = ident(ExtType.IDENTITY_SRC), ident(ExtType.IDENTITY_DST)


def test_identities_are_told_to_all() -> None:
    desk = Desk(A, B)
    for request in (add(SRC, DST), add(SRC, DST, type=MsgType.UPDATE)):
        heard = desk.ask(request)
        for client_ in (A, B):
            (echo,) = heard[client_]
            assert echo.errno == 0
            assert echo.extensions[-2:] == (SRC, DST)
        (private,), (public,) = heard[A], heard[B]
        assert private.key_encrypt is not None
        assert public.key_encrypt is None


def test_identities_of_two_types_are_refused_unless_the_knob_allows_them() -> None:
    desk = Desk(A)
    mixed = add(SRC, ident(ExtType.IDENTITY_DST, kind=3))
    assert desk.errno(mixed) == EINVAL
    assert desk.errno(add(SRC)) == EINVAL
    turn(desk, "net.key.allow_different_idtype", 1)
    assert desk.errno(add(SRC)) == EINVAL
    assert desk.errno(mixed) == 0
