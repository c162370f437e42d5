"""The knobs against specs/tables/sysctls.toml, in both directions; the engine's own effects."""

import tomllib
from dataclasses import replace
from errno import EBUSY, EINVAL, ENOENT, EOPNOTSUPP, EPERM
from logging import DEBUG, INFO
from pathlib import Path
from typing import Any

import pytest

from keyd.engine.effects import Log, PoliciesChanged, SettingsChanged
from keyd.engine.sysctl import DUMPS, OPAQUE, ROWS
from keyd.model import Settings
from pfkey import sysctl as client
from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType
from pfkey.dialect import FREEBSD, NETBSD, Dialect
from pfkey.errors import SadbError
from pfkey.ext_ident import Ident
from pfkey.ext_x_policy import IpsecRequest
from pfkey.selector import Range
from tests.keyd.engine.desk import (
    HERE,
    THERE,
    A,
    B,
    Desk,
    add,
    dst,
    message,
    named,
    policy,
    src,
)  # fmt: skip

ROOT = Path(__file__).parents[3]
TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    (ROOT / "specs" / "tables" / "sysctls.toml").read_text()
)
NUMBERS = {name: row for name, row in TABLE.items() if "kind" not in row}
WRITABLE = [name for name, row in NUMBERS.items() if "choices" in row or "least" in row]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def turn(desk: Desk, name: str, value: int) -> list[Any]:
    return list(desk.engine.tune(name, value))


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


def changes(effects: list[Any]) -> list[PoliciesChanged]:
    return [e for e in effects if isinstance(e, PoliciesChanged)]


@pytest.mark.parametrize(
    ("tree", "octets"), [("net.inet.ipsec", 4), ("net.inet6.ipsec6", 16)], ids=["v4", "v6"]
)
def test_def_policy_stands_behind_all_policies_and_nobody_sees_it(tree: str, octets: int) -> None:
    desk = Desk(A)
    (change,) = changes(turn(desk, f"{tree}.def_policy", 0))
    assert change.removed == ()
    assert change.knob == (f"{tree}.def_policy", 1)
    assert [(s.dir, s.type, s.is_default) for s in change.added] == [
        (Dir.IN, PolicyType.DISCARD, True), (Dir.OUT, PolicyType.DISCARD, True),
    ]  # fmt: skip
    assert all(s.selector.src == s.selector.dst == Range(bytes(octets), 0) for s in change.added)
    assert changes(turn(desk, f"{tree}.def_policy", 0)) == []
    desk.ask(policy(priority=0xFFFFFFFF))
    assert [s.is_default for s in desk.engine.policies()] == [False, True, True]
    assert len(desk.ask(message(MsgType.X_SPDDUMP))[A]) == 1
    anywhere = src(bytes(4), 0), dst(bytes(4), 0)
    assert desk.errno(policy(MsgType.X_SPDDELETE, source=anywhere[0], to=anywhere[1])) == ENOENT
    desk.ask(message(MsgType.X_SPDFLUSH))
    assert [s.is_default for s in desk.engine.policies()] == [True, True]
    (back,) = changes(turn(desk, f"{tree}.def_policy", 1))
    assert (back.added, back.removed) == ((), change.added)
    assert desk.engine.policies() == ()


def test_what_nft_refuses_is_not_turned() -> None:
    desk = Desk(A)
    name = "net.inet.ipsec.def_policy"
    (change,) = changes(turn(desk, name, 0))
    desk.engine.revert(change)
    assert desk.engine.sysctl(name) == 1
    assert desk.engine.policies() == ()
    turn(desk, name, 0)
    before = desk.engine.policies()
    (change,) = changes(turn(desk, name, 1))
    desk.engine.revert(change)
    assert desk.engine.sysctl(name) == 0
    assert desk.engine.policies() == before


def test_a_successor_keeps_def_policy_as_a_crash_left_it() -> None:
    desk, successor = Desk(A), Desk(A)
    turn(desk, "net.inet6.ipsec6.def_policy", 0)
    left = [replace(spec, id=-1 - n) for n, spec in enumerate(desk.engine.policies())]
    successor.engine.adopt(left)
    assert successor.engine.sysctl("net.inet6.ipsec6.def_policy") == 0
    assert successor.engine.sysctl("net.inet.ipsec.def_policy") == 1
    assert successor.engine.policies() == desk.engine.policies()
    assert successor.engine.stats()["holds"] == 0


def steps(*requests: tuple[int, Mode]) -> tuple[IpsecRequest, ...]:
    return tuple(
        IpsecRequest(
            proto=proto, mode=mode, level=Level.DEFAULT,
            src=HERE if mode == Mode.TUNNEL else None, dst=THERE if mode == Mode.TUNNEL else None,
        )
        for proto, mode in requests
    )  # fmt: skip


ESP_TRANS, ESP_NET = (50, Mode.TRANSPORT), (50, Mode.TUNNEL)
AH_TRANS, AH_NET = (51, Mode.TRANSPORT), (51, Mode.TUNNEL)


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD], ids=repr)
@pytest.mark.parametrize(
    ("leaf", "step"),
    [("esp_trans", ESP_TRANS), ("esp_net", ESP_NET), ("ah_trans", AH_TRANS), ("ah_net", AH_NET)],
)
def test_level_default_is_what_the_knob_says_to_a_bsd(
    dialect: Dialect, leaf: str, step: tuple[int, Mode]
) -> None:
    desk = Desk(A)
    desk.join(B, dialect)
    every = steps(ESP_TRANS, AH_TRANS, ESP_NET, AH_NET)
    priority = 0x80000000 if dialect.has_priority else 0
    desk.ask(policy(requests=every, source=src(port=1), priority=priority), B)
    desk.ask(policy(requests=every, source=src(port=2)), A)

    def levels() -> list[list[Level]]:
        return [[r.level for r in spec.requests] for spec in desk.engine.policies()]

    assert levels() == [[Level.USE] * 4, [Level.REQUIRE] * 4], "Linux's default is require"
    name = f"net.inet.ipsec.{leaf}_deflev"
    (change,) = changes(turn(desk, name, 2))
    at = [(r.proto, r.mode) for r in every].index(step)
    expected = [Level.REQUIRE if n == at else Level.USE for n in range(4)]
    assert levels() == [expected, [Level.REQUIRE] * 4]
    assert len(change.added) == len(change.removed) == 1
    assert change.added[0].id == change.removed[0].id
    desk.ask(policy(requests=every, source=src(port=3), priority=priority), B)
    assert levels()[2] == expected
    assert changes(turn(desk, name.replace("net.inet.ipsec", "net.inet6.ipsec6"), 2)) == []
    (change,) = changes(turn(desk, name, 1))
    desk.engine.revert(change)
    assert desk.engine.sysctl(name) == 2
    assert levels() == [expected, [Level.REQUIRE] * 4, expected]


def test_while_ipsec_is_off_nothing_begins() -> None:
    desk = Desk(A)
    name = "net.inet.ipsec.enabled"
    desk.ask(policy())
    assert errno(desk, name, 0) == EBUSY
    assert errno(desk, "net.inet6.ipsec6.enabled", 0) == EBUSY
    desk.ask(message(MsgType.X_SPDFLUSH))
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=3))
    assert errno(desk, name, 0) == EBUSY
    desk.ask(message(MsgType.FLUSH))
    turn(desk, name, 0)
    for request in (
        add(), add(type=MsgType.UPDATE), policy(), policy(MsgType.X_SPDUPDATE),
        policy(MsgType.X_SPDSETIDX), message(MsgType.GETSPI, src(), dst(), satype=3),
    ):  # fmt: skip
        assert desk.errno(request) == EOPNOTSUPP
        assert f"{name} is 0" in desk.logs(request)[0].text
    assert desk.errno(message(MsgType.REGISTER, satype=3)) == 0
    assert desk.errno(message(MsgType.FLUSH)) == 0
    turn(desk, "net.inet6.ipsec6.enabled", 2)
    assert desk.errno(add()) == 0


def test_used_tells_whether_there_are_policies() -> None:
    desk = Desk(A)
    for name in ("net.inet.ipsec.used", "net.inet6.ipsec6.used"):
        assert desk.engine.sysctl(name) == 0
        desk.ask(policy())
        assert desk.engine.sysctl(name) == 1
        desk.ask(message(MsgType.X_SPDFLUSH))
        turn(desk, "net.inet.ipsec.enabled", 2)
        assert desk.engine.sysctl(name) == 1
        turn(desk, "net.inet.ipsec.enabled", 1)
        assert errno(desk, name, 1) == EPERM
