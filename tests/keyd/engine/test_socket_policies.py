"""Policies of single sockets: who may set which, what is shared, what SPDDUMP shows."""

from errno import EINVAL, ELOOP, ENOBUFS, ENOENT, EPERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.engine.effects import Now
from keyd.engine.reqids import Reqids
from keyd.engine.socket_policies import USER_PAIRS, SocketPolicies, decode
from keyd.model import Need
from keyd.socket_pair import SocketPair
from pfkey import policy as language
from pfkey import text
from pfkey.const import Dir, Mode, MsgType, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_x_policy import Policy
from tests.keyd.engine.desk import ESP, TRANSPORT_USE, A, Desk, message, policy

NOW = Now(0.0, 1_700_000_000.0)


def octets(spoken: str) -> bytes:
    return language.parse(spoken).encode()


@pytest.fixture
def policies() -> SocketPolicies:
    return SocketPolicies(Reqids(), 88)


def put(
    policies: SocketPolicies, *texts: str, uid: int | None = None, current: int | None = None
) -> SocketPair | None:
    """What a socket has after these policies."""
    pair = None
    for spoken in texts:
        pair = policies.set(current, [octets(spoken)], uid=uid, now=NOW)
        current = None if pair is None else pair.number
    return pair


def test_both_directions_make_one_pair(policies: SocketPolicies) -> None:
    pair = put(policies, "in bypass", "out ipsec esp/transport//require")
    assert pair is not None
    assert pair.inward is not None
    assert pair.out is not None
    assert (pair.inward.type, pair.out.type) == (PolicyType.BYPASS, PolicyType.IPSEC)
    assert (pair.seals, pair.opens, pair.has_device) == (True, False, True)
    assert pair.is_privileged


def test_sockets_with_equal_policies_share_a_pair(policies: SocketPolicies) -> None:
    texts = ("out ipsec esp/transport//unique ah/transport//require", "in bypass")
    first, second = put(policies, *texts), put(policies, *texts)
    assert first is not None
    assert first is second
    assert first.out is not None
    assert first.out.requests[0].reqid > 0x3FFF
    assert len(list(policies)) == 2  # and the one on the way


def test_a_users_pair_is_not_the_privileged_one(policies: SocketPolicies) -> None:
    text = "out ipsec esp/transport//require"
    mine, roots = put(policies, text, uid=1000), put(policies, text)
    assert mine is not None
    assert roots is not None
    assert mine.number != roots.number
    assert (mine.is_privileged, roots.is_privileged) == (False, True)


def test_entrust_gives_a_direction_back_to_the_spd(policies: SocketPolicies) -> None:
    pair = put(policies, "in bypass", "out bypass", "in entrust")
    assert pair is not None
    assert pair.inward is None
    assert put(policies, "out entrust", current=pair.number) is None
    assert put(policies, "in entrust") is None


def test_no_octets_give_both_back(policies: SocketPolicies) -> None:
    pair = put(policies, "in bypass")
    assert pair is not None
    assert policies.set(pair.number, [], uid=None, now=NOW) is None
    assert policies.set(None, [], uid=1000, now=NOW) is None
    with pytest.raises(SadbError, match="EPERM"):
        policies.set(pair.number, [], uid=1000, now=NOW)


@pytest.mark.parametrize("kind", ["bypass", "none", "discard"])
def test_what_takes_privileges_is_refused_without(policies: SocketPolicies, kind: str) -> None:
    assert put(policies, f"out {kind}") is not None
    with pytest.raises(SadbError) as refused:
        put(policies, f"out {kind}", uid=1000)
    assert refused.value.errno == EPERM


def test_a_user_does_not_change_what_a_privileged_caller_has_set(policies: SocketPolicies) -> None:
    pair = put(policies, "out ipsec esp/transport//require")
    assert pair is not None
    for spoken in ("out entrust", "in ipsec esp/transport//use"):
        with pytest.raises(SadbError) as refused:
            put(policies, spoken, uid=1000, current=pair.number)
        assert refused.value.errno == EPERM
    mine = put(policies, "out ipsec esp/transport//require", uid=1000)
    assert mine is not None
    assert put(policies, "out entrust", uid=1000, current=mine.number) is None


@pytest.mark.parametrize(
    ("octets", "errno"),
    [
        (b"\2", EINVAL),
        (octets("in bypass")[:15], EINVAL),
        (octets("in bypass") + bytes(8), EINVAL),
        (octets("in bypass")[:6] + b"\0" + octets("in bypass")[7:], EINVAL),
        (octets("in bypass")[:6] + b"\3" + octets("in bypass")[7:], EINVAL),
        (octets("in bypass")[:4] + b"\5\0" + octets("in bypass")[6:], EINVAL),
        (Policy(type=2, dir=2, requests=7 * (TRANSPORT_USE,)).encode(), ELOOP),
        (octets("out bypass")[:4] + b"\2\0" + octets("out bypass")[6:], EINVAL),
    ],
)
def test_what_is_no_policy_is_refused(policies: SocketPolicies, octets: bytes, errno: int) -> None:
    with pytest.raises(SadbError) as refused:
        policies.set(None, [octets], uid=None, now=NOW)
    assert refused.value.errno == errno
    assert list(policies) == []


def test_the_type_that_the_extension_claims_is_nobodys_business(policies: SocketPolicies) -> None:
    """iked says 12 for 18, and kernels do not look."""
    given = octets("in bypass")
    iked = given[:2] + (12).to_bytes(2, "little") + given[4:]
    assert policies.set(None, [iked], uid=None, now=NOW) is put(policies, "in bypass")


@given(st.binary(max_size=200))
def test_any_octets_are_a_policy_or_refused(octets: bytes) -> None:
    policies = SocketPolicies(Reqids(), 88)
    try:
        pair = policies.set(None, [octets], uid=None, now=NOW)
    except SadbError:
        assert list(policies) == []
    else:
        assert (pair is None) == (list(policies) == [])


def test_a_policy_is_told_as_it_was_given(policies: SocketPolicies) -> None:
    text = "out ipsec esp/tunnel/10.1.1.1-20.1.1.1/unique:7 ah/transport//use"
    pair = put(policies, text)
    assert pair is not None
    assert policies.get(pair.number, Dir.OUT)[16:] == octets(text)[16:]
    for number, direction in ((pair.number, Dir.IN), (None, Dir.OUT), (77, Dir.OUT)):
        told = decode(policies.get(number, direction))
        assert (told.type, told.dir) == (PolicyType.ENTRUST, direction)
    with pytest.raises(SadbError, match="EINVAL"):
        policies.get(pair.number, Dir.FWD)


def test_pairs_run_out_for_users_first_and_then_for_all(policies: SocketPolicies) -> None:
    def text(number: int) -> str:
        return f"out ipsec esp/transport//unique:{number}"

    for number in range(1, USER_PAIRS + 1):
        put(policies, text(number), uid=1000)
    with pytest.raises(SadbError) as refused:
        put(policies, text(99), uid=1000)
    assert refused.value.errno == ENOBUFS
    assert put(policies, text(1), uid=1000) is not None  # one that is there costs nothing
    assert put(policies, text(99), uid=1001) is not None
    for number in range(100, 100 + 88 - USER_PAIRS - 1):
        put(policies, text(number))
    with pytest.raises(SadbError) as refused:
        put(policies, text(999))
    assert refused.value.errno == ENOBUFS


def test_a_removed_pair_gives_back_its_number_and_request_ids() -> None:
    reqids = Reqids()
    policies = SocketPolicies(reqids, 88)
    pair = put(policies, "out ipsec esp/transport//unique")
    both = put(policies, "out ipsec esp/transport//unique", "in bypass")
    assert pair is not None
    assert both is not None
    assert both.out is pair.out
    policies.remove(pair.number)
    left = policies.get_id(pair.out.id if pair.out else 0)
    assert left is not None
    assert left.spec is pair.out
    policies.remove(both.number)
    policies.remove(both.number)  # once more changes nothing
    assert list(policies) == []
    assert policies.get_id(left.spec.id) is None
    assert reqids.new() == 0x4000 + 1
    again = put(policies, "in bypass")
    assert again is not None
    assert again.number == 2  # those given up come last


def test_a_successor_makes_the_same_pairs_of_what_is_left(policies: SocketPolicies) -> None:
    put(policies, "in bypass", "out bypass")
    put(policies, "out ipsec esp/tunnel/10.1.1.1-20.1.1.1/require", uid=1000)
    policies.remove(0)
    successor = SocketPolicies(Reqids(), 88)
    successor.adopt(policies.to_json(), NOW)

    def shape(one: SocketPolicies) -> list[tuple[object, ...]]:
        return [
            (pair.number, pair.is_privileged, *((p.dir, p.type, p.requests) for p in pair.policies))
            for pair in one
        ]

    assert shape(successor) == shape(policies)
    assert successor.to_json() == policies.to_json()


@pytest.mark.parametrize(
    "left",
    [
        [{"number": 88, "uid": None, "given": [octets("in bypass").hex()]}],
        [{"number": 0, "uid": None, "given": []}],
        [{"number": 0, "uid": "x", "given": [octets("in bypass").hex()]}],
        [{"number": 0, "uid": None, "given": ["00"]}],
        [{"uid": None, "given": [octets("in bypass").hex()]}],
        [{"number": 0, "uid": None, "given": [octets("in bypass").hex()]}] * 2,
        [7],
    ],
)
def test_what_nobody_can_have_left_is_refused(
    policies: SocketPolicies, left: list[dict[str, object]]
) -> None:
    with pytest.raises((SadbError, ValueError, KeyError, TypeError)):
        policies.adopt(left, NOW)


def encapsulate(
    policies: SocketPolicies, current: SocketPair | None, is_encap: bool, uid: int | None = None
) -> SocketPair | None:
    number = None if current is None else current.number
    return policies.encapsulate(number, is_encap, uid=uid, now=NOW)


def test_udp_encap_stands_beside_the_policies(policies: SocketPolicies) -> None:
    bypass = put(policies, "in bypass", "out bypass")
    both = encapsulate(policies, bypass, True)
    assert bypass is not None
    assert both is not None
    assert (both.inward, both.out, both.is_encap) == (bypass.inward, bypass.out, True)
    assert encapsulate(policies, both, True) is both
    assert encapsulate(policies, both, False) is bypass
    entrusted = policies.set(both.number, [], uid=None, now=NOW)
    assert entrusted is not None
    assert (entrusted.policies, entrusted.is_encap) == ((), True)
    assert encapsulate(policies, entrusted, False) is None


def test_udp_encap_alone_is_everybodys(policies: SocketPolicies) -> None:
    """It takes no privilege, and gives none: a user may go on to set policies, and root too."""
    alone = encapsulate(policies, None, True)
    assert alone is not None
    assert encapsulate(policies, None, True, uid=1000) is alone
    assert encapsulate(policies, None, False, uid=1000) is None
    assert not alone.is_privileged
    assert not policies.keeps(alone.number, 1000)
    users = put(policies, "out ipsec esp/transport//use", uid=1000, current=alone.number)
    roots = put(policies, "out bypass", current=alone.number)
    assert users is not None
    assert roots is not None
    assert (users.is_encap, users.is_privileged) == (True, False)
    assert (roots.is_encap, roots.is_privileged) == (True, True)


def test_a_user_sets_udp_encap_where_policies_are_not_its_own(policies: SocketPolicies) -> None:
    """iked's child has lost its rights when it sets the option once more."""
    bypass = put(policies, "in bypass", "out bypass")
    both = encapsulate(policies, bypass, True, uid=1000)
    assert both is not None
    assert both.is_privileged
    assert both.inward is not None
    with pytest.raises(SadbError) as refused:
        put(policies, "in entrust", uid=1000, current=both.number)
    assert refused.value.errno == EPERM


def test_what_somebody_keeps_is_not_weaker_than_what_is_given(policies: SocketPolicies) -> None:
    users = put(policies, "out ipsec esp/transport//use", uid=1000)
    roots = put(policies, "out ipsec esp/transport//require")
    assert users is not None
    assert roots is not None
    assert [policies.keeps(users.number, uid) for uid in (None, 1000)] == [False, True]
    assert [policies.keeps(roots.number, uid) for uid in (None, 1000)] == [True, True]
    assert not policies.keeps(None, 1000)
    assert not policies.keeps(87, None)


def test_a_successor_knows_of_udp_encap(policies: SocketPolicies) -> None:
    encapsulate(policies, None, True, uid=1000)
    encapsulate(policies, put(policies, "in bypass", "out bypass"), True, uid=1000)
    successor = SocketPolicies(Reqids(), 88)
    successor.adopt(policies.to_json(), NOW)
    kept = [(p.number, p.is_encap, p.is_privileged, len(p.policies)) for p in policies]
    assert [(p.number, p.is_encap, p.is_privileged, len(p.policies)) for p in successor] == kept
    assert successor.is_encap(0)
    assert not successor.is_encap(None)


def test_pairs_survive_a_workers_channel(policies: SocketPolicies) -> None:
    put(policies, "in discard", "out ipsec esp/tunnel/10.1.1.1-20.1.1.1/unique:7", uid=None)
    for pair in policies:
        assert SocketPair.from_json(pair.to_json()) == pair


def test_the_dump_shows_each_policy_of_sockets_once_and_last() -> None:
    """Linux's numbers: direction and id tell that they are a socket's; setkey says so."""
    desk = Desk(A)
    assert desk.errno(message(MsgType.X_SPDDUMP)) == ENOENT
    put(desk.engine.sockets, "in bypass", "out bypass")
    put(desk.engine.sockets, "in bypass", "out ipsec esp/transport//require")
    desk.ask(policy())
    shown = desk.ask(message(MsgType.X_SPDDUMP))[A]
    found = [record.policy for record in shown]
    assert [(p.dir, p.type, p.id % 8) for p in found if p] == [
        (Dir.OUT, PolicyType.IPSEC, 1),
        (4, PolicyType.BYPASS, 3),
        (5, PolicyType.BYPASS, 4),
        (5, PolicyType.IPSEC, 4),
    ]
    assert [record.seq for record in shown] == [1, 2, 3, 0]
    assert text.policy(shown[1]).startswith("(per-socket policy) \n\tin(socket) bypass\n")
    for record in shown[1:]:
        assert record.policy is not None
        asked = message(MsgType.X_SPDGET, Policy(type=0, dir=0, id=record.policy.id))
        assert desk.errno(asked) == EINVAL  # as on Linux: that id names no direction


def test_packets_of_a_socket_can_want_an_sa() -> None:
    desk = Desk(A)
    desk.ask(message(MsgType.REGISTER, satype=ESP))
    pair = put(desk.engine.sockets, "out ipsec esp/transport//unique:9")
    assert pair is not None
    assert pair.out is not None
    need = Need(
        policy=pair.out.id, proto=50, mode=Mode.TRANSPORT, reqid=9,
        src=bytes((10, 1, 1, 1)), dst=bytes((20, 1, 1, 1)),
    )  # fmt: skip
    (asked,) = desk.heard(desk.need(need))[A]
    assert asked.type == MsgType.ACQUIRE
    assert asked.policy is not None
    assert asked.policy.id == pair.out.id
    desk.engine.sockets.remove(pair.number)
    assert desk.heard(desk.need(need)) == {}
