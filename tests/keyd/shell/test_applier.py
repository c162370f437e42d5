"""Effects become deeds in the engine's order, and nobody waits for a commit of another."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from keyd.engine.effects import (
    ClientId,
    Dump,
    Effect,
    EndWait,
    InstallSa,
    MoveSa,
    PoliciesChanged,
    RemoveSa,
    Send,
    SettingsChanged,
)
from keyd.model import Need, PolicySpec, SaSpec, Settings
from keyd.shell.applier import Applier
from keyd.shell.committed import Committed, Step
from pfkey.const import Dir, Mode, PolicyType
from pfkey.errors import ShellError
from pfkey.selector import Range, Selector

A, B = ClientId(1), ClientId(2)


def policy(number: int, *, priority: int = 0, is_hold: bool = False) -> PolicySpec:
    any4 = Range(bytes(4), 0, 0)
    return PolicySpec(
        id=number, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(any4, any4, number),
        priority=priority, order=number, is_hold=is_hold,
    )  # fmt: skip


SA = SaSpec(slot=0, proto=50, spi=256, src=bytes(4), dst=bytes(4), mode=Mode.ANY)


def add(number: int, client: ClientId = A) -> list[Effect]:
    """What an engine asks for when a policy is added."""
    change = PoliciesChanged(
        added=(policy(number),), on_failure=(Send(client, b"failed %d" % number),)
    )
    return [change, Send(client, b"added %d" % number)]


class World:
    """An engine, a data path and an nft that write down what they are told."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.commits: list[Step] = []
        self.gate = trio.Event()
        self.gate.set()
        self.refuse: set[int] = set()
        self.is_behind = False
        self.flushed = trio.Event()
        self.applier = Applier(self, self, send=self.send, dump=self.dump, commit=self.commit)  # type: ignore[arg-type]  # half an engine will do

    def policies(self) -> tuple[PolicySpec, ...]:
        return ()

    def revert(self, change: PoliciesChanged) -> None:
        self.did.append(f"revert {change.added[0].id}")

    def send(self, effect: Send) -> None:
        self.did.append(f"{effect.client}<{effect.record.decode()}")

    def dump(self, effect: Dump) -> None:
        self.did.append("dump")

    async def flush(self) -> None:
        await self.flushed.wait()
        self.is_behind = False

    def install(self, sa: SaSpec) -> None:
        self.did.append("sa+")

    def remove(self, sa: SaSpec) -> None:
        self.did.append("sa-")

    def change(self, added: Sequence[PolicySpec], removed: Sequence[int]) -> None:
        self.did.append(f"workers +{[p.id for p in added]} -{list(removed)}")

    def move(self, old: SaSpec, new: SaSpec) -> None:
        self.did.append(f"move {new.dst.hex()}")

    def tune(self, settings: Settings) -> None:
        self.did.append(f"settings asking={settings.is_asking}")

    def end_wait(self, need: Need) -> None:
        self.did.append(f"wait- {need.policy}")

    async def commit(self, step: Step) -> None:
        await self.gate.wait()
        if self.refuse & {p.id for p in step.added}:
            raise ShellError("nft says no")
        self.commits.append(step)
        self.did.append(f"nft +{[p.id for p in step.added]} -{[p.id for p in step.removed]}")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_reply_comes_after_its_commit_and_the_workers(
    nursery: trio.Nursery, world: World
) -> None:
    nursery.start_soon(world.applier.run)
    await world.applier.obey([InstallSa(SA), *add(7)])
    assert world.did == ["sa+", "nft +[7] -[]", "workers +[7] -[]", "1<added 7"]


async def test_what_needs_no_commit_is_done_without_a_checkpoint(world: World) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()  # any checkpoint would end it here
        await world.applier.obey([InstallSa(SA), RemoveSa(SA), Send(B, b"got")])
    assert world.did == ["sa+", "sa-", "2<got"]


async def test_a_slow_commit_delays_nobody_else(nursery: trio.Nursery, world: World) -> None:
    world.gate = trio.Event()
    nursery.start_soon(world.applier.run)
    nursery.start_soon(world.applier.obey, add(1))
    await trio.testing.wait_all_tasks_blocked()
    await world.applier.obey([Send(B, b"got")])
    assert world.did == ["2<got"]
    world.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert world.did[-1] == "1<added 1"


async def test_a_full_channel_delays_replies_to_changes_and_no_others(
    nursery: trio.Nursery, world: World
) -> None:
    nursery.start_soon(world.applier.run)
    world.is_behind = True
    effects: list[Effect] = [InstallSa(SA), Send(A, b"added")]
    nursery.start_soon(world.applier.obey, effects)
    nursery.start_soon(world.applier.obey, add(1))
    await trio.testing.wait_all_tasks_blocked()
    await world.applier.obey([Send(B, b"got")])
    assert sorted(world.did) == ["2<got", "nft +[1] -[]", "sa+", "workers +[1] -[]"]
    world.flushed.set()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(world.did[-2:]) == ["1<added", "1<added 1"]


async def test_workers_know_of_settings_before_a_reply_and_of_the_end_of_a_wait(
    nursery: trio.Nursery, world: World
) -> None:
    nursery.start_soon(world.applier.run)
    need = Need(policy=9, proto=50, mode=Mode.ANY, reqid=0, src=bytes(4), dst=bytes(4))
    told = SettingsChanged(Settings(is_asking=True))
    effects: list[Effect] = [told, EndWait(need), MoveSa(SA, SA), Send(A, b"registered")]
    world.is_behind = True
    nursery.start_soon(world.applier.obey, effects)
    await trio.testing.wait_all_tasks_blocked()
    assert world.did == ["settings asking=True", "wait- 9", "move 00000000"]
    world.flushed.set()
    await trio.testing.wait_all_tasks_blocked()
    assert world.did[-1] == "1<registered"


async def test_changes_that_wait_go_into_one_transaction(
    nursery: trio.Nursery, world: World
) -> None:
    world.gate = trio.Event()
    nursery.start_soon(world.applier.run)
    async with trio.open_nursery() as clients:
        for number in (1, 2, 3, 4):
            clients.start_soon(world.applier.obey, add(number))
            await trio.testing.wait_all_tasks_blocked()
        world.gate.set()
    assert [[p.id for p in step.added] for step in world.commits] == [[1], [2, 3, 4]]
    assert [d for d in world.did if "<" in d] == [f"1<added {n}" for n in (1, 2, 3, 4)]


async def test_only_the_refused_change_of_a_batch_fails(
    nursery: trio.Nursery, world: World
) -> None:
    world.gate = trio.Event()
    world.refuse = {3}
    nursery.start_soon(world.applier.run)
    async with trio.open_nursery() as clients:
        for number in (1, 2, 3, 4):
            clients.start_soon(world.applier.obey, add(number))
            await trio.testing.wait_all_tasks_blocked()
        world.gate.set()
    assert [p.id for p in world.applier.committed.policies] == [1, 2, 4]
    assert "revert 3" in world.did
    assert "1<failed 3" in world.did
    assert "1<added 3" not in world.did
    assert world.did.index("revert 3") < world.did.index("1<failed 3")


async def test_one_list_may_hold_several_changes(nursery: trio.Nursery, world: World) -> None:
    nursery.start_soon(world.applier.run)
    await world.applier.obey([*add(1), *add(2)])
    assert [d for d in world.did if "<" in d or "nft" in d] == [
        "nft +[1] -[]", "1<added 1", "nft +[2] -[]", "1<added 2",
    ]  # fmt: skip


async def test_what_cancels_out_asks_nothing_of_nft(nursery: trio.Nursery, world: World) -> None:
    nursery.start_soon(world.applier.run)
    spec = policy(1)
    await world.applier.obey([PoliciesChanged(removed=(spec,)), Send(A, b"nothing there")])
    assert world.did == ["1<nothing there"]


async def test_without_nft_every_change_holds_at_once(world: World) -> None:
    applier = Applier(world, world, send=world.send, dump=world.dump, commit=None)  # type: ignore[arg-type]  # half an engine will do
    await applier.obey(add(5))
    assert world.did == ["workers +[5] -[]", "1<added 5"]


def test_committed_keeps_match_order_with_holds_first() -> None:
    committed = Committed([policy(3), policy(9, is_hold=True)])
    step = committed.step(
        [
            PoliciesChanged(added=(policy(4, priority=-5), policy(5))),
            PoliciesChanged(removed=(policy(3),)),
            PoliciesChanged(added=(policy(6),)),
            PoliciesChanged(removed=(policy(6),)),
        ]
    )
    assert [p.id for p in step.added] == [4, 5]
    assert [p.id for p in step.removed] == [3]
    assert [p.id for p in committed.policies] == [9, 3]
    committed.take(step)
    assert [p.id for p in committed.policies] == [9, 4, 5]


def test_committed_replaces_a_policy_of_the_same_id() -> None:
    old, new = policy(1), policy(1, priority=3)
    committed = Committed([old])
    step = committed.step([PoliciesChanged(added=(new,), removed=(old,))])
    assert (step.added, step.removed) == ((new,), (old,))
    committed.take(step)
    assert committed.policies == (new,)


async def test_what_is_behind_a_change_is_told_after_it(
    nursery: trio.Nursery, world: World
) -> None:
    """Of one client: a refusal, which needs no commit, does not overtake."""
    world.gate = trio.Event()
    nursery.start_soon(world.applier.run)
    first = world.applier.begin(add(1))
    second = world.applier.begin([Send(A, b"refused")], is_behind=True)
    third = world.applier.begin(add(2), is_behind=True)
    await trio.testing.wait_all_tasks_blocked()
    assert world.did == []
    world.gate.set()
    assert first is not None
    assert second is not None
    assert third is not None
    await third.wait()
    assert [did for did in world.did if "<" in did] == ["1<added 1", "1<refused", "1<added 2"]
    assert first.is_set()
    assert second.is_set()
    assert len(world.commits) <= 2


async def test_a_change_that_is_not_the_last_waits_for_the_others(
    nursery: trio.Nursery, world: World
) -> None:
    nursery.start_soon(world.applier.run)
    for number in (1, 2):
        assert world.applier.begin(add(number), is_behind=number > 1, more=True) is not None
        await trio.testing.wait_all_tasks_blocked()
    assert world.commits == []
    await world.applier.obey(add(3))
    assert [[p.id for p in step.added] for step in world.commits] == [[1, 2, 3]]
    last = world.applier.begin(add(4), more=True)
    assert last is not None
    world.applier.commit_now()
    await last.wait()
    assert len(world.commits) == 2


async def test_replies_keep_their_order_while_a_full_channel_empties(
    nursery: trio.Nursery, world: World
) -> None:
    world.is_behind = True
    nursery.start_soon(world.applier.run)
    first = world.applier.begin([InstallSa(SA), Send(A, b"one")])
    await trio.testing.wait_all_tasks_blocked()
    world.is_behind = False  # there is room again, but who waits has not been told yet
    second = world.applier.begin([InstallSa(SA), Send(A, b"two")])
    world.flushed.set()
    assert first is not None
    assert second is not None
    await second.wait()
    assert world.did == ["sa+", "sa+", "1<one", "1<two"]
