"""Policies of sockets as nft rules: who decides before and behind the SPD, and who needs what."""

import pytest

from keyd import doors
from keyd.model import PolicySpec, Request
from keyd.shell import nft_sockets
from keyd.shell.marks import Marks
from keyd.shell.nft_rules import Frame
from keyd.socket_group import SocketGroup
from keyd.socket_pair import ANYTHING, SocketPair
from pfkey.const import Dir, Level, Mode, PolicyType

MARKS = Marks()
SOCKET0, STEERED0 = "0x50000000", "0xa8000000"


def policy(
    direction: Dir, kind: PolicyType = PolicyType.IPSEC, level: Level = Level.REQUIRE
) -> PolicySpec:
    request = Request(proto=50, mode=Mode.TRANSPORT, level=level)
    requests = (request,) if kind == PolicyType.IPSEC else ()
    return PolicySpec(id=4, dir=direction, type=kind, selector=ANYTHING, requests=requests)


def pair(
    kind: PolicyType = PolicyType.IPSEC, level: Level = Level.REQUIRE, *, is_privileged: bool = True
) -> SocketPair:
    return SocketPair(
        number=0, out=policy(Dir.OUT, kind, level), inward=policy(Dir.IN, kind, level),
        is_privileged=is_privileged,
    )  # fmt: skip


def rules(*pairs: SocketPair, groups: tuple[SocketGroup, ...] = ()) -> dict[str, list[str]]:
    return nft_sockets.rules(pairs, groups, MARKS, "pfkey0")


def test_without_a_pair_nothing_takes_a_kernel_that_looks_up_sockets() -> None:
    skeleton = Frame(bypass_uid=77, fragment_key=1).skeleton()
    assert not [line for line in skeleton if "socket mark" in line or "cgroupv2" in line]
    assert all(not found for found in rules().values())


def test_a_number_that_no_pair_has_is_refused_in_both_directions() -> None:
    found = rules(pair())
    assert found["socket_out"][-1] == "goto socket_unknown"
    assert f"{MARKS.socket(1):#010x} : goto socket_unknown" in found["socket_in"][-1]
    assert f"{SOCKET0} : goto socket_unknown" not in found["socket_in"][-1]


def test_esp_in_udp_is_taken_from_sockets_that_set_udp_encap() -> None:
    both = SocketPair(number=3, inward=policy(Dir.IN, PolicyType.BYPASS), is_encap=True)
    found = nft_sockets.rules((pair(), both), (), MARKS, "pfkey0", 4711)
    whose = "socket mark & 0xff000000 { 0x53000000 }"
    assert all(whose in rule for rule in found["socket_natt"])
    assert all("udp dport set 4711 udp checksum set 0 accept" in r for r in found["socket_natt"])
    lets_in = found["socket_natt_in"][2:]
    assert len(lets_in) == len(found["socket_natt"]) == 2
    # the kernel would find a wildcard's socket for what is forwarded, too
    assert all("fib daddr type local" in rule and rule.endswith("accept") for rule in lets_in)
    assert not rules(pair())["socket_natt"]


def test_what_is_on_its_way_to_others_is_no_sockets_affair() -> None:
    found = rules(pair())
    assert found["socket_in"][-4] == "fib daddr type unicast return"
    at_own = [rule for rule in found["sealed_sockets"] if "pfkey1" in rule]
    assert "fib daddr type unicast counter name in_polvio drop" in at_own[0]
    by_socket = [rule for rule in found["sealed_sockets"] if "vmap" in rule]
    assert by_socket
    assert all("fib daddr type != unicast" in rule for rule in by_socket)


@pytest.mark.parametrize("is_privileged", [True, False])
def test_a_group_is_heard_before_marks_that_are_weaker(is_privileged: bool) -> None:
    groups = pair(is_privileged=is_privileged)
    encap = SocketPair(number=1, is_privileged=False, is_encap=True)
    users = SocketPair(
        number=2, out=policy(Dir.OUT), inward=policy(Dir.IN, level=Level.USE), is_privileged=False
    )
    found = rules(groups, encap, users, groups=(SocketGroup(0, 1, "g"),))
    weak = "0x51000000, 0x52000000" if is_privileged else "0x51000000"
    (rule,) = found["socket_group"]
    assert f"meta mark & 0xff000000 {{ 0x00000000-0x4fffffff, {weak} }} meta mark set" in rule
    by_group, by_socket = found["socket_in" if is_privileged else "socket_in_after"][-2:]
    assert f"{{ 0x00000000-0x4fffffff, {weak} }} goto socket_polvio" in by_group
    assert "vmap" in by_socket


@pytest.mark.parametrize("is_privileged", [True, False])
def test_the_privileged_are_asked_before_the_spd_and_others_behind_it(is_privileged: bool) -> None:
    found = rules(pair(is_privileged=is_privileged))
    after = "" if is_privileged else "_after"
    other = "_after" if is_privileged else ""
    assert any(f"| {STEERED0} accept" in rule for rule in found[f"socket_out{after}"])
    assert not any(STEERED0 in rule for rule in found[f"socket_out{other}"])
    assert f"{SOCKET0} : goto socket_polvio" in found[f"socket_in{after}"][-1]


@pytest.mark.parametrize(
    ("kind", "level", "out", "inward"),
    [
        (PolicyType.BYPASS, Level.USE, "accept", "accept"),
        (PolicyType.NONE, Level.USE, "accept", "accept"),
        (PolicyType.DISCARD, Level.USE, "counter name out_discard drop", "goto socket_discard"),
        (PolicyType.IPSEC, Level.USE, f"| {STEERED0} accept", "accept"),
        (PolicyType.IPSEC, Level.REQUIRE, f"| {STEERED0} accept", "goto socket_polvio"),
    ],
)
def test_each_kind_has_its_verdicts(kind: PolicyType, level: Level, out: str, inward: str) -> None:
    found = rules(pair(kind, level))
    wears = f"meta mark & 0xff000000 == {SOCKET0} "
    said = [
        rule for rule in found["socket_out"] if rule.startswith(wears) and "tcp flags" not in rule
    ]
    assert said[-2].endswith(out)
    assert said[-1] == f"{wears}return"
    assert f"{SOCKET0} : {inward}" in found["socket_in"][-1]


def test_what_is_steered_leaves_by_its_own_device_and_nothing_else_does() -> None:
    own = doors.device("pfkey0", doors.of_pair(0))
    first, *others = rules(pair())["guard_sockets"]
    assert first == f'oifname "{own}" meta mark & 0xff000000 == {STEERED0} accept'
    assert others[0] == f'oifname "{own}" counter name out_guard drop'
    assert others[1] == f"meta mark & 0xff000000 == {STEERED0} counter name out_guard drop"


def test_a_group_marks_what_has_no_policy_of_its_own() -> None:
    found = rules(pair(), groups=(SocketGroup(0, 2, "a/b"),))
    (rule,) = found["socket_group"]
    assert rule.startswith('socket cgroupv2 level 2 "a/b" meta mark & 0xff000000 < 0x50000000 ')
    assert found["socket_in"][-2].endswith("< 0x50000000 goto socket_polvio")
