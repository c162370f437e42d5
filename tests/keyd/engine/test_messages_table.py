"""The engine against specs/tables/messages.toml, cell by cell, in both directions."""

import errno as numbers
import tomllib
from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path
from typing import Any

import pytest

from keyd.engine import HANDLERS, Limits
from keyd.engine.effects import Send
from keyd.engine.sad import SaKey
from keyd.engine.unsupported import EXTENSIONS, MESSAGES
from keyd.model import Need
from pfkey.const import ExtType, Level, Mode, MsgType, PolicyType, SaType
from pfkey.dialect import DIALECTS, LINUX
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    THERE,
    TRANSPORT_REQUIRE,
    TRANSPORT_USE,
    A,
    B,
    C,
    Desk,
    add,
    address,
    cipher_key,
    dst,
    hard,
    message,
    named,
    policy,
    soft,
    src,
)  # fmt: skip

TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[3] / "specs" / "tables" / "messages.toml").read_text()
)
BUILT = [name for name in TABLE if MsgType[name] in HANDLERS]
OTHER = bytes((30, 1, 1, 1))
LINK_LOCAL = b"\xfe\x80" + bytes(13) + b"\1"
OLD = IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.REQUIRE, src=HERE, dst=THERE)
NEW = replace(OLD, src=OTHER)


def moving(*requests: IpsecRequest, way: int = 2) -> Message:
    steps = requests or (OLD, NEW)
    return message(
        MsgType.X_MIGRATE, Policy(type=PolicyType.IPSEC, dir=way, requests=steps), src(), dst()
    )


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
    if type == MsgType.X_MIGRATE:
        desk.ask(policy(requests=(OLD,)))
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
        case MsgType.X_MIGRATE:
            return moving()
        case _:
            return message(type)


# One extension of each type.
SAMPLES: dict[ExtType, Extension] = {
    ExtType.SA: Sa(spi=0x2694),
    ExtType.LIFETIME_CURRENT: Lifetime(exttype=ExtType.LIFETIME_CURRENT),
    ExtType.LIFETIME_HARD: hard(),
    ExtType.LIFETIME_SOFT: soft(),
    ExtType.ADDRESS_SRC: src(),
    ExtType.ADDRESS_DST: dst(),
    ExtType.ADDRESS_PROXY: address(ExtType.ADDRESS_PROXY, HERE),
    ExtType.KEY_AUTH: Key(exttype=ExtType.KEY_AUTH, bits=0, key=b""),
    ExtType.KEY_ENCRYPT: cipher_key(),
    ExtType.IDENTITY_SRC: Ident(exttype=ExtType.IDENTITY_SRC, kind=2, id=0, text=b"a.example"),
    ExtType.IDENTITY_DST: Ident(exttype=ExtType.IDENTITY_DST, kind=2, id=0, text=b"b.example"),
    ExtType.SENSITIVITY: Sensitivity(dpd=1, sens_level=1, integ_level=1),
    ExtType.PROPOSAL: Proposal(),
    ExtType.SUPPORTED_AUTH: Supported(exttype=ExtType.SUPPORTED_AUTH, algorithms=()),
    ExtType.SUPPORTED_ENCRYPT: Supported(exttype=ExtType.SUPPORTED_ENCRYPT, algorithms=()),
    ExtType.SPIRANGE: SpiRange(min=0x2694, max=0x2694),
    ExtType.X_KMPRIVATE: KmPrivate(),
    ExtType.X_POLICY: Policy(type=PolicyType.NONE, dir=2),
    ExtType.X_SA2: Sa2(),
    ExtType.X_NAT_T_TYPE: NatTType(type=2),
    ExtType.X_NAT_T_SPORT: NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500),
    ExtType.X_NAT_T_DPORT: NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=4500),
    ExtType.X_NAT_T_OA: address(ExtType.X_NAT_T_OA, HERE),
    ExtType.X_SEC_CTX: SecCtx(doi=1, alg=1, context=b"a:b:c\0\0\0"),
    ExtType.X_KMADDRESS: KmAddress(local=HERE, remote=THERE),
    ExtType.X_FILTER: Filter(family=2),
    ExtType.X_REPLAY_WINDOW: Word(exttype=ExtType.X_REPLAY_WINDOW, value=4096),
}
# Those of ESP in UDP come together.
UDP = (ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA)
# Two that come together or not at all.
PAIRS = {
    ExtType.LIFETIME_HARD: ExtType.LIFETIME_SOFT, ExtType.LIFETIME_SOFT: ExtType.LIFETIME_HARD,
    ExtType.IDENTITY_SRC: ExtType.IDENTITY_DST, ExtType.IDENTITY_DST: ExtType.IDENTITY_SRC,
}  # fmt: skip


def having(whole: Message, exttype: ExtType) -> Message:
    """The request with an extension of this type, if it has none yet."""
    if whole.ext(exttype) is not None:
        return whole
    more = [SAMPLES[exttype]]
    if exttype in UDP:
        more = [SAMPLES[one] for one in UDP]
    if exttype in PAIRS and whole.type in (MsgType.ADD, MsgType.UPDATE):
        more.append(SAMPLES[PAIRS[exttype]])
    return replace(whole, extensions=(*whole.extensions, *more))


def cells(column: str) -> list[Any]:
    """(message, extension) for each extension that a column of the table names."""
    return [
        pytest.param(MsgType[name], ExtType[one], id=f"{name}-{one}")
        for name in BUILT
        for one in TABLE[name][column]
    ]


def test_the_engine_knows_every_message_of_the_table() -> None:
    known = set(HANDLERS) | set(MESSAGES)
    linux = set(LINUX.messages.named.values()) - {MsgType.RESERVED}
    assert {MsgType[name] for name in TABLE} == linux
    named = {number for one in DIALECTS.values() for number in one.messages.named.values()}
    assert known == named - {MsgType.RESERVED}
    assert not set(HANDLERS) & set(MESSAGES)
    assert set(SAMPLES) == set(LINUX.extensions.named.values())


@pytest.mark.parametrize(("type_", "exttype"), cells("required"))
def test_each_required_extension_is_required(type_: MsgType, exttype: ExtType) -> None:
    desk = Desk(A, B)
    whole = request(desk, type_)
    rest = tuple(e for e in whole.extensions if e.exttype != exttype)
    assert len(rest) == len(whole.extensions) - 1
    assert desk.errno(replace(whole, extensions=rest)) == EINVAL


@pytest.mark.parametrize(("type_", "exttype"), [*cells("required"), *cells("optional")])
def test_no_extension_may_stand_twice(type_: MsgType, exttype: ExtType) -> None:
    desk = Desk(A, B)
    whole = having(request(desk, type_), exttype)
    (once,) = [e for e in whole.extensions if e.exttype == exttype]
    assert desk.errno(replace(whole, extensions=(*whole.extensions, once))) == EINVAL


@pytest.mark.parametrize(("type_", "exttype"), cells("optional"))
def test_each_optional_extension_is_taken_or_refused_with_the_reason(
    type_: MsgType, exttype: ExtType
) -> None:
    desk = Desk(A, B)
    if type_ == MsgType.UPDATE and exttype in (*UDP, ExtType.X_REPLAY_WINDOW):
        desk.ask(having(add(), exttype))  # of a mature SA these cannot become others
    effects = desk.effects(having(request(desk, type_), exttype))
    answer = desk.heard(effects)[A][-1]
    assert answer.errno == (0 if exttype in EXTENSIONS[type_] else EOPNOTSUPP)


@pytest.mark.parametrize("name", [n for n in BUILT if MsgType[n] in EXTENSIONS])
def test_no_other_extension_is_taken(name: str) -> None:
    type_ = MsgType[name]
    row = TABLE[name]
    silent = {ExtType[one] for one in row.get("silent", ())}
    listed = silent | {ExtType[one] for one in (*row["required"], *row["optional"])}
    assert silent <= EXTENSIONS[type_] <= listed
    for exttype in set(SAMPLES) - listed - EXTENSIONS[type_]:
        desk = Desk(A, B)
        whole = request(desk, type_)
        other = replace(whole, extensions=(*whole.extensions, SAMPLES[exttype]))
        assert desk.errno(other) == EOPNOTSUPP, exttype.name


@pytest.mark.parametrize("name", [n for n in BUILT if "silent" in TABLE[n]])
def test_a_silent_extension_changes_nothing(name: str) -> None:
    desk, other = Desk(A, B), Desk(A, B)
    whole = request(desk, MsgType[name])
    more = [SAMPLES[ExtType[s]] for s in TABLE[name]["silent"] if not whole.ext(ExtType[s])]
    request(other, MsgType[name])
    with_more = replace(whole, extensions=(*whole.extensions, *more))
    assert desk.ask(whole) == other.ask(with_more)
    assert desk.engine.policies() == other.engine.policies()


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


def in_order(carried: Message, cell: list[str]) -> None:
    """The message carries what a cell says, in its order; a trailing ? may be missing."""
    certain = {ExtType[e] for e in cell if not e.endswith("?")}
    possible = [ExtType[e.removesuffix("?")] for e in cell]
    types = [e.exttype for e in carried.extensions]
    assert [e for e in possible if e in types] == types
    assert certain <= set(types)


@pytest.mark.parametrize("name", BUILT)
def test_answers_carry_what_the_table_says_in_its_order(name: str) -> None:
    desk = Desk(A, B)
    heard = desk.ask(request(desk, MsgType[name]))
    if TABLE[name]["to"] == "none":
        assert heard == {}
        return
    for answer in heard[A]:
        assert answer.type == MsgType[name]
        in_order(answer, TABLE[name]["reply"])


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


# ---------------------------------------------------------------- what the engine itself sends


def noticed(desk: Desk, name: str) -> list[Send]:
    """What makes the engine send its own message."""
    match name:
        case "ACQUIRE":
            desk.ask(policy(requests=(TRANSPORT_REQUIRE,)))
            wanted = Need(
                policy=9, proto=50, mode=Mode.TRANSPORT, reqid=0, src=HERE, dst=THERE
            )  # fmt: skip
            effects = desk.need(wanted)
        case "EXPIRE":
            desk.ask(add(hard(addtime=9), soft(addtime=5)))
            effects = [*desk.tick(5), *desk.tick(5)]
        case "X_SPDEXPIRE":
            whole = policy()
            desk.ask(replace(whole, extensions=(*whole.extensions, hard(addtime=5))))
            effects = desk.tick(5)
        case _:
            desk.ask(having(add(), ExtType.X_NAT_T_TYPE))
            effects = desk.engine.new_mapping(SaKey(THERE, 50, 0x2694), (4500, 9), OTHER)
    return [effect for effect in effects if isinstance(effect, Send)]


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if "notice" in row])
def test_notices_go_to_the_registered_with_what_the_table_says(name: str) -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=SaType.AH), B)
    sends = noticed(desk, name)
    assert sends
    for send in sends:
        assert send.client == B
        notice = Message.decode(send.record)
        assert (notice.type, notice.pid, notice.errno) == (MsgType[name], 0, 0)
        in_order(notice, TABLE[name]["notice"])


# ---------------------------------------------------------------- refusals

Case = Callable[[], tuple[Desk, Message]]


def _case(*before: Message, then: Message, limits: Limits | None = None) -> Case:
    def make() -> tuple[Desk, Message]:
        desk = Desk(A, B, limits=limits)
        for one in before:
            desk.ask(one)
        return desk, then

    return make


def _busy(then: Message) -> Case:
    def make() -> tuple[Desk, Message]:
        desk = Desk(A, B)
        for one in (add(), policy(), message(MsgType.DUMP)):
            desk.effects(one)
        return desk, then

    return make


def _getspi(*more: Extension) -> Message:
    return message(MsgType.GETSPI, src(), dst(), *more, satype=ESP)


def _spd(type: MsgType) -> dict[tuple[str, str], Case]:
    name = type.name
    return {
        (name, "ELOOP"): _case(then=policy(type, requests=(TRANSPORT_USE,) * 7)),
        (name, "EINVAL"): _case(then=policy(type, way=0)),
        (name, "EOPNOTSUPP"): _case(then=having(policy(type), ExtType.X_SEC_CTX)),
        (name, "ENOBUFS"): _case(
            policy(way=1), then=policy(type), limits=Limits(policies=1)
        ),
    }  # fmt: skip


_NO_ID = Policy(type=0, dir=0, id=9)
_NO_WAY = Policy(type=0, dir=0, id=11)
REFUSALS: dict[tuple[str, str], Case] = {
    ("GETSPI", "EINVAL"): _case(then=_getspi(SpiRange(min=9, max=8))),
    ("GETSPI", "ENOENT"): _case(
        _getspi(SpiRange(min=500, max=500)), then=_getspi(SpiRange(min=500, max=500))
    ),
    ("GETSPI", "ENOBUFS"): _case(_getspi(), then=_getspi(), limits=Limits(larvals=1)),
    ("GETSPI", "EOPNOTSUPP"): _case(then=_getspi(SAMPLES[ExtType.ADDRESS_PROXY])),
    ("UPDATE", "ESRCH"): _case(then=add(type=MsgType.UPDATE)),
    ("UPDATE", "ENOSYS"): _case(add(), then=add(type=MsgType.UPDATE, encrypt=99)),
    ("UPDATE", "EINVAL"): _case(
        replace(_getspi(), pid=99), then=add(type=MsgType.UPDATE, spi=0x100)
    ),
    ("UPDATE", "EOPNOTSUPP"): _case(add(), then=add(type=MsgType.UPDATE, replay=9)),
    ("ADD", "EEXIST"): _case(add(), then=add()),
    ("ADD", "ENOSYS"): _case(then=add(encrypt=99)),
    ("ADD", "EINVAL"): _case(then=add(spi=0)),
    ("ADD", "EOPNOTSUPP"): _case(then=add(flags=0x01000000)),
    ("ADD", "ENOBUFS"): _case(add(), then=add(spi=1), limits=Limits(sas=1)),
    ("DELETE", "ESRCH"): _case(then=named(MsgType.DELETE)),
    ("GET", "ESRCH"): _case(then=named(MsgType.GET)),
    ("ACQUIRE", "EOPNOTSUPP"): _case(then=message(MsgType.ACQUIRE, src(), dst(), satype=ESP)),
    ("REGISTER", "EEXIST"): _case(
        message(MsgType.REGISTER, satype=ESP), then=message(MsgType.REGISTER, satype=ESP)
    ),
    ("REGISTER", "EINVAL"): _case(then=message(MsgType.REGISTER, satype=10)),
    ("FLUSH", "EINVAL"): _case(then=message(MsgType.FLUSH, satype=8)),
    ("DUMP", "ENOENT"): _case(then=message(MsgType.DUMP)),
    ("DUMP", "EBUSY"): _busy(message(MsgType.DUMP)),
    ("DUMP", "EINVAL"): _case(add(), then=message(MsgType.DUMP, satype=8)),
    ("X_PROMISC", "EINVAL"): _case(then=message(MsgType.X_PROMISC, satype=2)),
    **_spd(MsgType.X_SPDUPDATE),
    **_spd(MsgType.X_SPDADD),
    **_spd(MsgType.X_SPDSETIDX),
    ("X_SPDADD", "EEXIST"): _case(policy(), then=policy()),
    ("X_SPDSETIDX", "EEXIST"): _case(policy(), then=policy(MsgType.X_SPDSETIDX)),
    ("X_SPDDELETE", "ENOENT"): _case(then=policy(MsgType.X_SPDDELETE)),
    ("X_SPDDELETE", "EINVAL"): _case(then=policy(MsgType.X_SPDDELETE, way=0)),
    ("X_SPDGET", "ENOENT"): _case(then=message(MsgType.X_SPDGET, _NO_ID)),
    ("X_SPDGET", "EINVAL"): _case(then=message(MsgType.X_SPDGET, _NO_WAY)),
    ("X_SPDDUMP", "ENOENT"): _case(then=message(MsgType.X_SPDDUMP)),
    ("X_SPDDUMP", "EBUSY"): _busy(message(MsgType.X_SPDDUMP)),
    ("X_SPDDELETE2", "ENOENT"): _case(then=message(MsgType.X_SPDDELETE2, _NO_ID)),
    ("X_SPDDELETE2", "EINVAL"): _case(then=message(MsgType.X_SPDDELETE2, _NO_WAY)),
    ("X_MIGRATE", "ENOENT"): _case(then=moving()),
    ("X_MIGRATE", "ENODATA"): _case(policy(requests=(OLD,)), then=moving(NEW, OLD)),
    ("X_MIGRATE", "ELOOP"): _case(policy(requests=(OLD,)), then=moving(*(OLD, NEW) * 7)),
    ("X_MIGRATE", "EINVAL"): _case(policy(requests=(OLD,)), then=moving(OLD)),
    ("X_MIGRATE", "EEXIST"): _case(
        policy(requests=(OLD,)), add(sa2=Sa2(mode=Mode.TUNNEL)), add(to=OTHER),
        then=moving(OLD, replace(OLD, dst=OTHER)),
    ),
    ("X_MIGRATE", "EOPNOTSUPP"): _case(
        policy(requests=(OLD,)), then=moving(OLD, replace(OLD, src=LINK_LOCAL, dst=LINK_LOCAL))
    ),
}  # fmt: skip


def test_every_refusal_of_the_table_is_tried_and_no_other() -> None:
    assert set(REFUSALS) == {
        (name, one) for name in BUILT for one in TABLE[name].get("errno", {})
    }  # fmt: skip


@pytest.mark.parametrize(("name", "errno"), REFUSALS, ids="-".join)
def test_each_refusal_has_its_errno_and_changes_nothing(name: str, errno: str) -> None:
    desk, last = REFUSALS[name, errno]()
    assert last.type == MsgType[name]
    before = desk.engine.sas(), desk.engine.policies()
    assert desk.errno(last) == getattr(numbers, errno)
    assert (desk.engine.sas(), desk.engine.policies()) == before
