"""Thousands of policies in nft: the first match decides, wherever it stands, and survives all."""

import json
from collections.abc import Iterator

import pytest

from keyd.model import PolicySpec
from keyd.shell import blocks
from keyd.shell.steer import Steer
from pfkey.const import Dir, PolicyType
from pfkey.lab.hosts import Net
from tests.netns.test_steer import PORT, UDP, Rig, policy
from tests.support.wire import ipv4, udp

pytestmark = [pytest.mark.root, pytest.mark.slow]

A, B = "10.1.1.1", "20.1.1.1"
OUT, IN = policy(Dir.OUT, id=6001), policy(Dir.IN, id=6002)


def others(numbers: range, dir: Dir) -> list[PolicySpec]:
    """Policies about others, both ends in networks where nobody lives."""
    return [
        policy(dir, src=f"172.16.{n >> 8}.{n & 255}", dst=f"172.20.{n >> 8}.{n & 255}", id=n)
        for n in numbers
    ]


HEAD = others(range(10, 700), Dir.OUT) + others(range(1000, 1700), Dir.IN)
TAIL = others(range(2000, 2700), Dir.OUT) + others(range(3000, 3700), Dir.IN)


@pytest.fixture
def rig(net: Net) -> Iterator[Rig]:
    made = Rig(net)
    yield made
    made.call(made.steer.close, False)


def test_the_first_match_decides_across_blocks(rig: Rig) -> None:
    exempt = policy(Dir.OUT, PolicyType.NONE, proto=UDP, dport=PORT, id=5001)
    wide = policy(Dir.OUT, dst="0.0.0.0", id=5002)  # noqa: S104
    for before, after, steered in (
        ([], [], True), ([exempt], [], False), ([], [exempt], True), ([], [wide], True),
    ):  # fmt: skip
        rig.commit(*before, *HEAD, OUT, *TAIL, *after)
        rig.send()
        assert len(rig.tun()) == steered
    chains = rig.a.run("nft", "list", "chains").stdout
    assert chains.count("policy_out_") > 10
    assert chains.count("policy_in_") > 10
    rig.commit(*HEAD, *TAIL)
    rig.send()
    assert rig.tun() == [], "no policy of the thousands is about these hosts"
    rig.commit(*HEAD, *TAIL, wide)
    rig.send()
    assert len(rig.tun()) == 1
    rig.commit(OUT, IN)
    assert "policy_out_" not in rig.a.run("nft", "list", "chains").stdout, "few are one chain again"
    rig.send()
    assert len(rig.tun()) == 1


def test_clear_packets_are_refused_behind_thousands(rig: Rig) -> None:
    clear = ipv4(B, A, UDP, udp(B, A, 1, PORT, b"clear!"))
    rig.commit(*HEAD, IN, *TAIL)
    for refused in (1, 2):
        rig.inject(clear)
        rig.ping()
        assert rig.count("in_polvio") >= refused
    before = rig.count("in_polvio")
    rig.commit(*HEAD, *TAIL)
    assert rig.ping()
    assert rig.count("in_polvio") == before


def test_a_successor_holds_them_all_in_their_order(rig: Rig) -> None:
    every = [*HEAD, OUT, IN, *TAIL]
    rig.commit(*every)
    rig.call(rig.steer.close, True)
    with rig.quiet_wire():
        rig.send()
    rig.steer = Steer(bypass_uid=54321)
    found = rig.call(rig.steer.open)

    def selectors(policies: list[PolicySpec], dir: Dir) -> list[object]:
        return [p.selector for p in policies if p.dir == dir]

    for dir in (Dir.OUT, Dir.IN):
        assert selectors(found, dir) == selectors(every, dir)
    with rig.quiet_wire():
        rig.send()
    assert rig.tun() == []
    assert rig.count("hold_dropped") >= 1
    rig.call(rig.steer.commit, (), found)
    assert rig.ping()


@pytest.mark.parametrize("hand", ["flush", "delete"])
def test_a_plain_tables_blocks_are_put_back(net: Net, hand: str) -> None:
    rig = Rig(net, owned=False)
    rig.commit(*HEAD, OUT, *TAIL)
    assert rig.call(rig.steer.ensure) == []
    listed = json.loads(rig.a.run("nft", "-j", "list", "table", "inet", "pfkey").stdout)["nftables"]
    names = [o["chain"]["name"] for o in listed if "chain" in o]
    block = next(name for name in names if name.startswith("policy_out_"))
    if hand == "delete":
        rig.a.run("nft", "flush", "chain", "inet", "pfkey", "policy_out")
        rig.a.run("nft", "flush", "chain", "inet", "pfkey", block)
    rig.a.run("nft", hand, "chain", "inet", "pfkey", block)
    assert rig.call(rig.steer.ensure) == ["nft table inet pfkey"]
    assert rig.call(rig.steer.ensure) == []
    rig.send()
    assert len(rig.tun()) == 1
    rig.call(rig.steer.close, False)


def test_a_change_among_thousands_writes_one_block(rig: Rig) -> None:
    every = [*HEAD, *TAIL]
    rig.commit(*every)
    written: list[str] = []
    run = rig.steer._context.run

    def spy(commands: str) -> str:
        written.extend(commands.splitlines())
        return run(commands)

    rig.steer._context.run = spy  # type: ignore[method-assign]
    rig.commit(*every, OUT)
    assert len(written) < 8
    written.clear()
    rig.commit(*every[:100], *every[101:], OUT)
    rules = [line for line in written if "jump" not in line]
    assert len(rules) < 3 * blocks.BLOCK_MAX
