"""A file's keys and policies in one step: what is kept, replaced, taken away, in which order."""

from collections.abc import Iterable
from dataclasses import replace
from errno import EEXIST
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.engine import Limits
from keyd.engine.effects import Effect, InstallSa, Log, PoliciesChanged, RemoveSa, Send
from keyd.engine.load import PORTION, Draft, Sweep
from keyd.model import PolicySpec
from pfkey.const import Dir, Level, Mode, MsgType, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_key import Key
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.message import Message
from pfkey.selector import Range, Selector
from tests.keyd.engine.desk import (
    HERE,
    KEY24,
    KEY32,
    THERE,
    TRANSPORT_REQUIRE,
    A,
    B,
    Desk,
    add,
    auth_key,
    cipher_key,
    dst,
    hard,
    message,
    named,
    policy,
    soft,
    src,
)

OTHER_KEYS = (cipher_key(KEY24[::-1]), auth_key(KEY32[::-1]))
FLUSH, SPDFLUSH = message(MsgType.FLUSH), message(MsgType.X_SPDFLUSH)


def port(number: int, kind: int = PolicyType.IPSEC) -> Message:
    """A policy of its own: towards a port."""
    return policy(to=dst(port=number, proto=6), kind=kind)


def begin(desk: Desk, requests: Iterable[Message]) -> list[Effect]:
    draft = desk.engine.draft(desk.now)
    for request in requests:
        draft.carry_out(request)
    return put_in(desk, draft)


def put_in(desk: Desk, draft: Draft) -> list[Effect]:
    """New SAs, then the policies, as the shell does."""
    loading, wish = desk.engine.loading, draft.wish()
    effects: list[Effect] = []
    try:
        for portion in loading.keys(wish, lambda: desk.now):
            effects += portion
        return [*effects, *loading.begin(wish, desk.now)]
    except SadbError:
        loading.take_back(desk.now)
        raise


def finish(desk: Desk) -> list[Effect]:
    return [*chain.from_iterable(desk.engine.loading.finish(lambda: desk.now))]


def load(desk: Desk, *requests: Message) -> tuple[list[Effect], list[Effect]]:
    """The effects before and after the change of policies is in force."""
    first = begin(desk, requests)
    return first, finish(desk)


def change(effects: Iterable[Effect]) -> PoliciesChanged:
    (only,) = [effect for effect in effects if isinstance(effect, PoliciesChanged)]
    return only


def kinds(effects: Iterable[Effect]) -> list[type[Effect]]:
    return [type(effect) for effect in effects if not isinstance(effect, Log)]


def ports(desk: Desk) -> list[int]:
    return [policy.selector.dst.port for policy in desk.engine.policies()]


def spis(desk: Desk) -> list[int]:
    return [sa.spi for sa in desk.engine.sas()]


def test_everything_is_one_change_with_sas_before_and_notices_after_it() -> None:
    desk = Desk()
    first, then = load(desk, add(spi=1000), port(1), add(spi=1001), port(2))
    told = [InstallSa, Send, Send]
    assert kinds(first) == [*told, *told, PoliciesChanged] + [Send] * 4
    assert [policy.selector.dst.port for policy in change(first).added] == [1, 2]
    assert then == []
    assert set(desk.heard(first)) == {A, B}
    assert (ports(desk), spis(desk)) == ([1, 2], [1000, 1001])


def test_nobody_hears_a_key() -> None:
    desk = Desk()
    first, _ = load(desk, add())
    for heard in desk.heard(first).values():
        assert [m.type for m in heard] == [MsgType.ADD]
        assert heard[0].key_encrypt is None


def test_the_same_file_again_changes_nothing() -> None:
    desk = Desk()
    file = (FLUSH, SPDFLUSH, add(hard(addtime=99), soft()), port(1), port(2))
    load(desk, *file)
    before = desk.engine.policies(), desk.engine.sas()
    desk.mono += 10
    assert load(desk, *file) == ([], [])
    assert (desk.engine.policies(), desk.engine.sas()) == before
    assert desk.engine.next_deadline() == 1099.0, "a lifetime does not begin anew"


@pytest.mark.parametrize(
    ("after", "removed", "added"),
    [
        ((1, 2, 3, 4), [], [4]),
        ((1, 3), [2], []),
        ((1, 9, 2, 3), [2, 3], [9, 2, 3]),
        ((3, 2, 1), [1, 2], [2, 1]),
        ((2, 3, 1), [1], [1]),
        ((), [1, 2, 3], []),
    ],
)
def test_policies_stand_in_the_files_order_and_no_more_is_touched_than_needed(
    after: tuple[int, ...], removed: list[int], added: list[int]
) -> None:
    desk = Desk()
    load(desk, port(1), port(2), port(3))
    ids = {policy.selector.dst.port: policy.id for policy in desk.engine.policies()}
    first, _ = load(desk, *map(port, after))
    did = change(first)
    assert [policy.selector.dst.port for policy in did.removed] == removed
    assert [policy.selector.dst.port for policy in did.added] == added
    assert ports(desk) == list(after)
    for kept in set(after) - set(added):
        assert ids[kept] in {policy.id for policy in desk.engine.policies()}


def test_a_policy_of_other_words_takes_the_place_of_the_old_one() -> None:
    desk = Desk()
    load(desk, port(1), port(2))
    first, _ = load(desk, policy(to=dst(port=1, proto=6), requests=(TRANSPORT_REQUIRE,)), port(2))
    assert ports(desk) == [1, 2]
    assert desk.engine.policies()[0].is_required
    assert len(change(first).removed) == 2


def test_a_new_key_is_there_before_the_old_one_goes() -> None:
    desk = Desk()
    load(desk, add(spi=1000), add(spi=1001))
    slots = {sa.spi: sa.slot for sa in desk.engine.sas()}
    first, then = load(desk, add(spi=1000, keys=OTHER_KEYS), add(spi=1001))
    assert first == []
    assert kinds(then)[0] is InstallSa
    (install,) = [effect for effect in then if isinstance(effect, InstallSa)]
    assert (install.sa.spi, install.sa.slot) == (1000, slots[1000])
    assert install.sa.encrypt_key == KEY24[::-1]
    assert RemoveSa not in kinds(then), "one SA goes into the other's slot"


def test_what_the_file_names_no_more_goes_after_the_policies() -> None:
    desk = Desk()
    load(desk, add(spi=1000), add(spi=1001), port(1))
    first, then = load(desk, add(spi=1001))
    assert RemoveSa not in kinds(first)
    assert [e.sa.spi for e in then if isinstance(e, RemoveSa)] == [1000]
    assert (ports(desk), spis(desk)) == ([], [1001])


def test_what_others_made_stays_unless_the_file_sweeps_it_away() -> None:
    desk = Desk()
    load(desk, add(spi=1000), port(1))
    desk.ask(add(spi=2000))
    desk.ask(port(7))
    load(desk, add(spi=1001), port(2))
    assert (ports(desk), spis(desk)) == ([7, 2], [2000, 1001])
    load(desk, FLUSH, SPDFLUSH, add(spi=1001), port(2))
    assert (ports(desk), spis(desk)) == ([2], [1001])


@pytest.mark.parametrize(
    "sweep",
    [message(MsgType.FLUSH, satype=3), named(MsgType.DELETE, 2000)],
    ids=["flush esp", "delete"],
)
def test_a_part_of_what_others_made_can_be_swept(sweep: Message) -> None:
    desk = Desk()
    desk.ask(add(spi=2000))
    desk.ask(add(spi=3000, to=HERE, satype=2, encrypt=0, keys=(auth_key(),)))
    draft = desk.engine.draft(desk.now)
    if sweep.type == MsgType.DELETE:  # of what is not in the file
        with pytest.raises(SadbError):
            draft.carry_out(sweep)
    else:
        draft.carry_out(sweep)
    put_in(desk, draft)
    finish(desk)
    assert spis(desk) == [3000]


def test_deleteall_reaches_the_files_own_sas_and_others() -> None:
    desk = Desk()
    desk.ask(add(spi=2000))
    desk.ask(add(spi=2001, to=HERE))
    draft = desk.engine.draft(desk.now)
    draft.carry_out(add(spi=1000))
    draft.end_all(Sweep(50, None, HERE, THERE))
    draft.carry_out(add(spi=1001))
    put_in(desk, draft)
    finish(desk)
    assert spis(desk) == [2001, 1001]


def test_spddelete_reaches_others_policies() -> None:
    desk = Desk()
    for number in (7, 8):
        desk.ask(port(number))
    draft = desk.engine.draft(desk.now)
    with pytest.raises(SadbError):
        draft.carry_out(policy(MsgType.X_SPDDELETE, to=dst(port=7, proto=6)))
    put_in(desk, draft)
    assert ports(desk) == [8]


def test_the_file_takes_over_what_others_made_alike() -> None:
    desk = Desk()
    desk.ask(add(spi=1000))
    desk.ask(port(1))
    load(desk, add(spi=1000, keys=OTHER_KEYS), port(1))
    (sa,) = desk.engine.sas()
    assert sa.encrypt_key == KEY24[::-1]
    load(desk)
    assert (ports(desk), spis(desk)) == ([], [])


def reserve(spi: int) -> Message:
    return message(MsgType.GETSPI, src(), dst(), SpiRange(min=spi, max=spi), satype=3)


def test_what_is_reserved_stays_unless_the_file_names_it_or_sweeps_it_away() -> None:
    desk = Desk()
    for spi in (1000, 2000):
        assert desk.errno(reserve(spi)) == 0
    first, then = load(desk, add(spi=1000), add(spi=1001))
    assert [e.sa.spi for e in (*first, *then) if isinstance(e, InstallSa)] == [1001, 1000]
    assert RemoveSa not in kinds(then), "the data path never knew it"
    assert (spis(desk), desk.engine.stats()["larvals"]) == ([1001, 1000], 1)
    assert load(desk, add(spi=1000), add(spi=1001)) == ([], [])
    load(desk, FLUSH, add(spi=1000))
    assert (spis(desk), desk.engine.stats()["larvals"]) == ([1000], 0)


def test_when_nft_refuses_what_was_reserved_still_is() -> None:
    desk = Desk()
    desk.ask(reserve(1000))
    first = begin(desk, (FLUSH, add(spi=1000), port(1)))
    desk.engine.revert(change(first))
    assert finish(desk) == []
    assert (spis(desk), desk.engine.stats()["larvals"]) == ([], 1)


def test_a_policy_that_moved_meanwhile_is_the_files_again() -> None:
    desk = Desk()
    near = IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.REQUIRE, src=HERE, dst=THERE)
    load(desk, policy(requests=(near,)))
    steps = (near, replace(near, src=bytes((30, 1, 1, 1))))
    moving = Policy(type=PolicyType.IPSEC, dir=Dir.OUT, requests=steps)
    assert desk.errno(message(MsgType.X_MIGRATE, moving, src(), dst())) == 0
    load(desk, policy(requests=(near,)))
    (only,) = desk.engine.policies()
    assert only.requests[0].src == HERE


def test_a_file_is_tried_with_the_knobs_as_they_are() -> None:
    desk = Desk()
    desk.engine.tune("net.inet.ipsec.enabled", 0)
    with pytest.raises(SadbError, match=r"net\.inet\.ipsec\.enabled is 0"):
        desk.engine.draft(desk.now).carry_out(add())


def test_a_file_that_names_one_thing_twice_is_refused() -> None:
    draft = Desk().engine.draft(Desk().now)
    draft.carry_out(add())
    with pytest.raises(SadbError, match=r"EEXIST: SA esp spi 0x2694 to 20.1.1.1 exists") as refused:
        draft.carry_out(add())
    assert refused.value.errno == EEXIST


ANY4 = Range(bytes(4), 0)
HOLD = PolicySpec(
    id=-1, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(ANY4, ANY4, 17), is_hold=True
)


def held(desk: Desk) -> list[PolicySpec]:
    return [policy for policy in desk.engine.policies() if policy.is_hold]


def test_holds_are_lifted_by_an_equal_policy_and_all_by_spdflush() -> None:
    desk = Desk()
    like = port(1)
    key = Desk().engine.draft(desk.now)
    key.carry_out(like)
    (spec,) = (p.spec for p in key._state.spd)
    desk.engine.adopt([HOLD, replace(spec, id=-2, is_hold=True)])
    first, _ = load(desk, like)
    assert [p.id for p in change(first).removed] == [-2]
    assert held(desk) == [HOLD]
    first, _ = load(desk, SPDFLUSH, like)
    assert HOLD in change(first).removed
    assert (held(desk), ports(desk)) == ([], [1])


def test_when_nft_refuses_everything_is_as_before() -> None:
    desk = Desk()
    load(desk, add(spi=1000), port(1), port(2))
    desk.ask(port(7))
    before = desk.engine.policies(), desk.engine.sas()
    first = begin(desk, (SPDFLUSH, add(spi=1001), add(spi=1000, keys=OTHER_KEYS), port(2), port(3)))
    desk.engine.revert(change(first))
    assert desk.engine.loading.is_refused
    then = finish(desk)
    assert [e.sa.spi for e in then if isinstance(e, RemoveSa)] == [1001]
    assert (desk.engine.policies(), desk.engine.sas()) == before
    first, _ = load(desk, add(spi=1000), port(1), port(2))
    assert first == [], "and the next load knows what is there"


def test_a_database_that_is_full_refuses_the_whole_file() -> None:
    desk = Desk(limits=Limits(policies=3))
    desk.ask(port(7))
    load(desk, add(spi=1000), port(1))
    before = desk.engine.policies(), desk.engine.sas()
    with pytest.raises(SadbError, match="ENOBUFS"):
        load(desk, add(spi=1001), port(2), port(3), port(4))
    assert (desk.engine.policies(), desk.engine.sas()) == before


def test_what_ends_while_nft_works_is_not_ended_again() -> None:
    desk = Desk()
    load(desk, add(spi=1000), add(spi=1001), port(1))
    begin(desk, (add(spi=1000, keys=OTHER_KEYS), port(2)))
    desk.ask(named(MsgType.DELETE, 1000))
    desk.ask(named(MsgType.DELETE, 1001))
    finish(desk)
    (sa,) = desk.engine.sas()
    assert (sa.spi, sa.encrypt_key) == (1000, KEY24[::-1])


def many(count: int, keys: tuple[Key, ...] | None = None) -> list[Message]:
    return [add(spi=1000 + n, keys=keys) for n in range(count)]


def test_others_are_served_between_portions_and_what_they_did_stands() -> None:
    desk = Desk()
    count = 3 * PORTION
    draft = desk.engine.draft(desk.now)
    for request in many(count):
        draft.carry_out(request)
    wish, loading = draft.wish(), desk.engine.loading
    keys = loading.keys(wish, lambda: desk.now)
    assert len([e for e in next(keys) if isinstance(e, InstallSa)]) == PORTION
    desk.ask(named(MsgType.DELETE, 1000))
    assert desk.errno(add(spi=1000 + count - 1, keys=OTHER_KEYS)) == 0
    assert len([*keys]) == 2
    assert loading.begin(wish, desk.now) == []
    assert kinds(finish(desk)).count(InstallSa) == 1, "that of another got new keys"
    assert len(desk.engine.sas()) == count - 1
    assert all(sa.encrypt_key == KEY24 for sa in desk.engine.sas())
    load(desk, *many(count, OTHER_KEYS))
    assert all(sa.encrypt_key == KEY24[::-1] for sa in desk.engine.sas())


def test_a_full_sad_refuses_the_file_and_each_sa_that_was_made_is_ended() -> None:
    desk = Desk(limits=Limits(sas=PORTION + 50))
    draft = desk.engine.draft(desk.now)
    for request in many(PORTION + 50):
        draft.carry_out(request)
    desk.ask(add(spi=1))
    portions = desk.engine.loading.keys(draft.wish(), lambda: desk.now)
    done = [*next(portions), *next(portions)]
    with pytest.raises(SadbError, match="ENOBUFS"):
        next(portions)
    done += desk.engine.loading.take_back(desk.now)
    made, ended = ([e.sa.slot for e in done if isinstance(e, k)] for k in (InstallSa, RemoveSa))
    assert sorted(made) == sorted(ended)
    assert len(made) == PORTION + 49
    assert spis(desk) == [1]


files = st.lists(
    st.one_of(
        st.integers(1, 6).map(port),
        st.tuples(st.integers(1, 6), st.sampled_from([1, 2])).map(
            lambda a: port(a[0], kind=a[1] - 1)
        ),
        st.tuples(st.integers(1000, 1003), st.booleans()).map(
            lambda a: add(spi=a[0], keys=OTHER_KEYS if a[1] else None)
        ),
        st.sampled_from([FLUSH, SPDFLUSH]),
        st.integers(1000, 1003).map(lambda spi: named(MsgType.DELETE, spi)),
    ),
    max_size=8,
)


def shown(desk: Desk) -> tuple[object, ...]:
    policies = [(p.selector, p.type) for p in desk.engine.policies()]
    sas = {(sa.spi, sa.encrypt_key) for sa in desk.engine.sas()}
    return policies, sas


def loaded(desk: Desk, requests: list[Message]) -> None:
    draft = desk.engine.draft(desk.now)
    for request in requests:
        try:
            draft.carry_out(request)
        except SadbError:
            continue
    put_in(desk, draft)
    finish(desk)


@given(st.lists(files, min_size=1, max_size=4))
def test_the_last_file_alone_decides(history: list[list[Message]]) -> None:
    desk, fresh = Desk(), Desk()
    for requests in history:
        loaded(desk, requests)
    loaded(fresh, history[-1])
    assert shown(desk) == shown(fresh)
