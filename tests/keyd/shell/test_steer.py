"""Steer as an object: commits, refusals, take-over without packets. Packets: tests/netns."""

import itertools
import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from keyd.model import PolicySpec, Request
from keyd.shell.nft_rules import COUNTERS, POLICY_CHAINS, Frame
from keyd.shell.steer import Steer
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.errors import ShellError
from pfkey.lab.hosts import Host, Net
from pfkey.selector import Range, Selector
from tests.support.steering import follow
from tests.support.wire import in_host

pytestmark = pytest.mark.root


def policy(id: int, dir: Dir = Dir.OUT, type: PolicyType = PolicyType.IPSEC) -> PolicySpec:
    address = socket.inet_aton(f"10.{id >> 8}.{id & 255}.1")
    sel = Selector(Range(address, 32), Range(bytes(4), 0, id % 3 * 80), 6)
    request = Request(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE)
    return PolicySpec(
        id=id, dir=dir, type=type, selector=sel, order=id,
        requests=(request,) if type == PolicyType.IPSEC else (),
    )  # fmt: skip


def commit(host: Host, steer: Steer, policies: Sequence[PolicySpec]) -> None:
    numbered = [replace(one, order=n) for n, one in enumerate(policies)]
    in_host(host, lambda: follow(steer, numbered))


def rules(host: Host) -> dict[str, list[str]]:
    """What stands in the policies' chains, as nft prints it."""
    return {
        chain: [
            line.strip()
            for line in host.run("nft", "list", "chain", "inet", "pfkey", chain).stdout.splitlines()
            if "addr" in line
        ]
        for chain in POLICY_CHAINS
    }


@pytest.fixture
def host(net: Net) -> Host:
    return net.host("n")


@pytest.fixture
def steer(host: Host) -> Iterator[Steer]:
    made = Steer(bypass_uid=7)
    assert in_host(host, made.open) == []
    yield made
    in_host(host, lambda: made.close(hold=False))


def test_the_table_is_owned_here(steer: Steer) -> None:
    assert steer.owned
    assert len(steer.event_fds()) == 2


def test_all_counters_exist_from_the_start(host: Host, steer: Steer) -> None:
    assert in_host(host, steer.counters) == dict.fromkeys(COUNTERS, 0)


def test_any_sequence_of_commits_equals_one_fresh_write(host: Host, steer: Steer) -> None:
    chance = random.Random(7)
    pool = [
        policy(n, chance.choice((Dir.IN, Dir.OUT, Dir.FWD)), chance.choice(list(PolicyType)[:3]))
        for n in range(1, 40)
    ]
    current: list[PolicySpec] = []
    for _ in range(60):
        match chance.randrange(4):
            case 0 if current:
                current.pop(chance.randrange(len(current)))
            case 1:
                current.insert(chance.randint(0, len(current)), chance.choice(pool))
            case _:
                current.append(chance.choice(pool))
        current = list({p.id: p for p in current}.values())
        commit(host, steer, current)
    stepwise = rules(host)
    commit(host, steer, [])
    assert not any(rules(host).values())
    commit(host, steer, current)
    assert rules(host) == stepwise
    assert sum(map(len, stepwise.values())) > 10


def test_a_policy_that_changes_under_its_id_is_written_anew(host: Host, steer: Steer) -> None:
    commit(host, steer, [policy(3)])
    before = rules(host)
    discard = replace(policy(3), type=PolicyType.DISCARD, requests=())
    commit(host, steer, [discard])
    assert rules(host) != before
    assert "out_discard" in rules(host)["policy_out"][0]


def test_a_refused_commit_changes_nothing(
    host: Host, steer: Steer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(host, steer, [policy(3)])
    before = rules(host)
    broken = {"policy_out": ["ip saddr 10.0.0.1 accept"], "policy_in": ["goto nowhere"]}
    with monkeypatch.context() as patch:
        patch.setattr(Frame, "policy_rules", lambda *_: broken)
        with pytest.raises(ShellError, match="nftables"):
            commit(host, steer, [policy(4)])
    assert rules(host) == before
    commit(host, steer, [policy(3), policy(6)])
    assert len(rules(host)["policy_out"]) == 2


def test_holds_stand_first_wherever_they_are_listed(host: Host, steer: Steer) -> None:
    held = replace(policy(6), id=-1, is_hold=True)
    commit(host, steer, [policy(3), held])
    assert "hold_dropped" in rules(host)["policy_out"][0]


def test_a_second_steer_is_refused_and_harms_nothing(host: Host, steer: Steer) -> None:
    commit(host, steer, [policy(3)])
    before = rules(host)
    with pytest.raises(ShellError, match="stop the other pfkeyd"):
        in_host(host, Steer(bypass_uid=8).open)
    assert rules(host) == before
    assert in_host(host, steer.ensure) == []


def test_a_device_of_others_is_refused_and_left_alone(host: Host) -> None:
    host.ip("tuntap", "add", "pfkey0", "mode", "tun")
    with pytest.raises(ShellError, match="ip link delete pfkey0"):
        in_host(host, Steer(bypass_uid=8).open)
    assert "pfkey0" in host.ip("link")
    assert host.run("nft", "list", "ruleset").stdout == ""
    assert "7575" not in host.ip("rule")


def test_a_plain_leftover_is_adopted_on_a_kernel_that_can_own(host: Host) -> None:
    old = Steer(bypass_uid=7, owned=False)
    in_host(host, old.open)
    in_host(host, lambda: old.commit([policy(3), policy(6, Dir.IN)]))
    in_host(host, lambda: old.close(hold=True))
    new = Steer(bypass_uid=8)
    found = in_host(host, new.open)
    assert [(h.id, h.selector) for h in found] == [
        (-1, policy(3).selector),
        (-2, policy(6).selector),
    ]
    assert not new.owned
    in_host(host, lambda: new.close(hold=False))
    assert host.run("nft", "list", "ruleset").stdout == ""


def test_a_mask_of_ones_own_is_used_everywhere(host: Host) -> None:
    made = Steer(bypass_uid=7, mark_mask=0x0000FF00)
    in_host(host, made.open)
    in_host(host, lambda: made.commit([policy(3)]))
    assert "fwmark 0x4b00/0xff00 lookup 7575" in host.ip("rule")
    table = json.loads(host.run("nft", "-j", "list", "table", "inet", "pfkey").stdout)
    assert str(0x4B000000) not in json.dumps(table)
    in_host(host, lambda: made.close(hold=False))


def test_five_hundred_policies_are_committed_one_by_one_and_at_once(
    host: Host, steer: Steer
) -> None:
    many = [policy(n) for n in range(1, 513)]

    def one_by_one() -> None:
        for n in range(1, len(many) + 1):
            steer.commit(many[n - 1 : n])

    in_host(host, one_by_one)
    stepwise = rules(host)["policy_out"]
    in_host(host, lambda: steer.commit((), many))
    in_host(host, lambda: steer.commit(many))
    assert rules(host)["policy_out"] == stepwise
    kept = [p for p in many if p.id % 5]
    commit(host, steer, kept)
    cut = rules(host)["policy_out"]
    commit(host, steer, [])
    commit(host, steer, kept)
    assert rules(host)["policy_out"] == cut


def test_selectors_of_both_families_and_all_kinds_are_taken_by_nft(
    host: Host, steer: Steer
) -> None:
    ends = [
        [Range(bytes(4), 0), Range(bytes(4), 9)], [Range(bytes(16), 0), Range(bytes(16), 77)],
    ]  # fmt: skip
    many = [
        replace(policy(1), id=n, dir=dir, selector=Selector(
            replace(src, port=sport), replace(dst, port=dport), proto))
        for n, (dir, (src, dst), sport, dport, proto) in enumerate(itertools.product(
            (Dir.IN, Dir.OUT), ends, (0, 8), (0, 3), (0, 1, 6, 17, 47, 58, 132, 135, 255)))
    ]  # fmt: skip
    commit(host, steer, many)
    assert len(rules(host)["policy_in"]) > 50


def test_all_of_it_works_in_a_user_namespace() -> None:
    code = (
        "from keyd.shell.steer import Steer\n"
        "s = Steer(bypass_uid=0); s.open(); print(s.ensure()); s.close(hold=False)"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")
