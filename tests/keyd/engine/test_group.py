"""OpenBSD's GRPSPIS: SAs behind each other, and what becomes of flows."""

from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP, ESRCH

import pytest

from keyd.engine.effects import PoliciesChanged
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, ExtType, Mode, MsgType, SaState, SaType
from pfkey.dialect import NETBSD, OPENBSD
from pfkey.ext_address import Address
from pfkey.ext_sa import Sa
from pfkey.ext_x_bsd import Protocol
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.keyd.engine.desk import HERE, THERE, A, Desk, add, auth_key, message, named
from tests.keyd.engine.test_dialects import desk_of, flow, mature

ESP, AH, IPCOMP = SaType.ESP, SaType.AH, SaType.X_IPCOMP
TUNNEL, ANY = Sa2(mode=Mode.TUNNEL), Sa2(mode=Mode.ANY)


def esp(spi: int = 0x1000, *, mode: Sa2 = TUNNEL) -> Message:
    return mature(add(spi=spi, flags=0, sa2=mode))


def ah(spi: int = 0x2000) -> Message:
    return mature(
        add(spi=spi, flags=0, sa2=ANY, satype=AH, encrypt=0, keys=(auth_key(),))
    )  # fmt: skip


def group(
    first: tuple[SaType, int] = (ESP, 0x1000), second: tuple[SaType, int] = (AH, 0x2000),
    to: bytes = THERE,
) -> Message:  # fmt: skip
    def end(exttype: ExtType) -> Address:
        return Address(exttype=exttype, address=to, prefixlen=32)

    return message(
        MsgType.X_GRPSPIS,
        Sa(spi=first[1]), end(ExtType.ADDRESS_DST),
        Sa(spi=second[1], exttype=ExtType.X_OPENBSD_SA2), end(ExtType.X_DST2),
        Protocol(exttype=ExtType.X_SATYPE2, proto=second[0]), satype=first[0],
    )  # fmt: skip


def steps(desk: Desk) -> list[tuple[int, Mode, bytes | None]]:
    (spec,) = desk.engine.policies()
    return [(one.proto, one.mode, one.dst) for one in spec.requests]


BOTH = [(IPPROTO_ESP, Mode.TUNNEL, THERE), (IPPROTO_AH, Mode.TRANSPORT, None)]


@pytest.mark.parametrize("is_flow_first", [True, False])
def test_a_flow_of_the_first_is_sealed_by_both(*, is_flow_first: bool) -> None:
    desk, (own, other, kame) = desk_of(OPENBSD, OPENBSD, NETBSD)
    for request in (esp(), ah()):
        desk.ask(request, own)
    if is_flow_first:
        desk.ask(flow(), own)
        id_before = desk.engine.policies()[0].id
    heard = desk.ask(group(), own)
    for name in (own, other):  # all hear the request itself
        (echo,) = heard[name]
        assert (echo.type, echo.errno) == (MsgType.X_GRPSPIS, 0)
        assert set(echo.extensions) == set(group().extensions)
    for name in (A, kame):  # the others hear what became of the policy
        assert [m.type for m in heard.get(name, [])] == [MsgType.X_SPDUPDATE] * is_flow_first
    if is_flow_first:
        assert desk.engine.policies()[0].id == id_before
    else:
        desk.ask(flow(), own)
    assert steps(desk) == BOTH
    # a flow shows no steps there, a policy does elsewhere
    (shown,) = desk.ask(message(MsgType.X_SPDDUMP), A)[A]
    assert shown.policy is not None
    assert [one.proto for one in shown.policy.requests] == [IPPROTO_ESP, IPPROTO_AH]
    (shown,) = desk.ask(message(MsgType.X_SPDDUMP), own)[own]
    assert shown.satype == ESP


def test_what_comes_in_is_opened_by_both() -> None:
    """A flow's own end stands first in it; the SAs lead here."""
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah()):
        turned = (
            replace(one, address={HERE: THERE, THERE: HERE}[one.address])
            if isinstance(one, Address)
            else one
            for one in request.extensions
        )
        desk.ask(replace(request, extensions=tuple(turned)), own)
    desk.ask(flow(way=1), own)
    assert desk.ask(group(to=HERE), own)[own][0].errno == 0
    assert steps(desk) == [(IPPROTO_ESP, Mode.TUNNEL, HERE), (IPPROTO_AH, Mode.TRANSPORT, None)]


def test_flows_of_other_sas_and_policies_of_others_stay_as_they_are() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah(), esp(0x1001)):
        desk.ask(request, own)
    elsewhere = (HERE, bytes((203, 0, 113, 9)))
    desk.ask(flow(ends=elsewhere), own)
    effects = desk.effects(group(), own)
    assert not any(isinstance(e, PoliciesChanged) for e in effects)
    assert steps(desk) == [(IPPROTO_ESP, Mode.TUNNEL, elsewhere[1])]


def test_three_stand_behind_each_other_and_flows_outlive_them() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah(), ah(0x2001)):
        desk.ask(request, own)
    desk.ask(group((AH, 0x2000), (AH, 0x2001)), own)
    desk.ask(flow(), own)
    assert len(steps(desk)) == 1
    desk.ask(group(), own)
    assert steps(desk) == [*BOTH, BOTH[1]]
    desk.ask(named(MsgType.DELETE, spi=0x2000, satype=AH), A)
    assert steps(desk) == [*BOTH, BOTH[1]], "what is missing is asked for; nothing goes without"
    # the same name again is another SA: no link leads to it
    desk.ask(ah(), own)
    desk.ask(flow(), own)
    assert len(steps(desk)) == 1


def test_a_new_link_takes_the_place_of_the_old_one() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), esp(0x1001), ah(), ah(0x2001)):
        desk.ask(request, own)
    assert desk.ask(group(), own)[own][0].errno == 0
    assert desk.ask(group((AH, 0x2000), (AH, 0x2001)), own)[own][0].errno == 0
    desk.ask(group(second=(AH, 0x2001)), own)  # the first leads there now, and nobody else
    sad = desk.engine._state.sad
    assert [(one.spi, two.spi) for one, two in sad.links.items()] == [(0x1000, 0x2001)]
    desk.ask(group((ESP, 0x1001), (AH, 0x2001)), own)  # and now another does
    assert [(one.spi, two.spi) for one, two in sad.links.items()] == [(0x1001, 0x2001)]
    desk.ask(flow(), own)
    assert steps(desk) == BOTH


@pytest.mark.parametrize("gone", [(ESP, 0x1000), (AH, 0x2000), (AH, 0x2001)])
def test_a_link_goes_with_either_sa(gone: tuple[SaType, int]) -> None:
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah(), ah(0x2001), group(), group((AH, 0x2000), (AH, 0x2001))):
        assert desk.ask(request, own)[own][0].errno == 0
    desk.ask(named(MsgType.DELETE, spi=gone[1], satype=gone[0]), A)
    left = [(a, b) for a, b in ((0x1000, 0x2000), (0x2000, 0x2001)) if gone[1] not in (a, b)]
    sad = desk.engine._state.sad
    assert [(one.spi, two.spi) for one, two in sad.links.items()] == left
    assert [[sa.spec.spi for sa in sad.chain(two)] for two in sad.links.values()] == [
        [a, b] for a, b in left
    ]
    desk.ask(message(MsgType.FLUSH), A)
    assert not sad.links


def test_a_link_that_nft_refuses_leaves_the_flow_as_it_was() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah(), flow()):
        desk.ask(request, own)
    before = desk.engine.policies()
    (change,) = [e for e in desk.effects(group(), own) if isinstance(e, PoliciesChanged)]
    desk.engine.revert(change)
    assert desk.engine.policies() == before


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (group((ESP, 0x1002)), ESRCH), (group(second=(AH, 0x2002)), ESRCH),
        (group(second=(ESP, 0x2000)), ESRCH), (group(second=(ESP, 0x1000)), ESRCH),
        (group((ESP, 0x1000), (ESP, 0x100)), ESRCH), (group((AH, 0x2000), (ESP, 0x1000)), ESRCH),
        (group(second=(SaType.X_IPIP, 0x2000)), ESRCH),
        *((replace(group(), extensions=group().extensions[:at]), EINVAL) for at in range(5)),
        (replace(group(), extensions=(*group().extensions, auth_key())), EOPNOTSUPP),
    ],
)  # fmt: skip
def test_what_cannot_be_grouped_is_refused(request_: Message, errno: int) -> None:
    """None of that name; a circle; a larval one; parts that are missing, or too many."""
    desk, (own,) = desk_of(OPENBSD)
    for request in (esp(), ah(), group()):
        assert desk.ask(request, own)[own][0].errno == 0
    (larval,) = desk.ask(
        message(MsgType.GETSPI, *esp().extensions[-2:], satype=ESP), A
    )[A]  # fmt: skip
    assert larval.sa is not None
    assert (larval.sa.spi, larval.sa.state) == (0x100, SaState.LARVAL)
    assert [one.errno for one in desk.ask(request_, own)[own]] == [errno]


def test_six_are_the_most() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for spi in range(0x2000, 0x2007):
        desk.ask(ah(spi), own)
    found = [
        desk.ask(group((AH, spi - 1), (AH, spi)), own)[own][0].errno
        for spi in range(0x2006, 0x2000, -1)
    ]
    assert found == [0, 0, 0, 0, 0, EINVAL]
