"""What workers tell the engine, and what they may not."""

import logging
from collections.abc import Iterable, Sequence

import pytest
import trio

from keyd.engine.effects import Effect, EndWait, Now
from keyd.engine.sad import SaKey
from keyd.model import Need, PolicyUse
from keyd.packet.counters import ROWS
from keyd.shell import reports
from keyd.shell.reports import Reports
from pfkey.const import Mode

NEED = Need(
    policy=9, proto=50, mode=Mode.TRANSPORT, reqid=0, src=b"\x0a\1\1\1", dst=b"\x14\1\1\1"
)  # fmt: skip
REPORT = {"op": "need", "need": NEED.to_json(), "packets": 3}


class World:
    """An engine and an applier that write down what they are told."""

    def __init__(self) -> None:
        self.needs: list[tuple[Need, int]] = []
        self.obeyed = trio.Event()
        self.reports = Reports(self, lambda: Now(1.0, 2.0), self.obey)  # type: ignore[arg-type]  # half an engine will do

    def need(self, wanted: Need, packets: int, now: Now) -> list[Effect]:
        self.needs.append((wanted, packets))
        return [EndWait(wanted)]

    def new_mapping(self, key: SaKey, ports: tuple[int, int], address: bytes) -> list[Effect]:
        self.moves = (key, ports, address)
        return [EndWait(NEED)]

    def used(self, uses: Iterable[PolicyUse], now: Now) -> None:
        self.uses = list(uses)

    async def obey(self, effects: Sequence[Effect]) -> None:
        assert effects == [EndWait(NEED)]
        self.obeyed.set()


async def test_a_need_reaches_the_engine_and_its_effects_are_obeyed(
    nursery: trio.Nursery,
) -> None:
    world = World()
    nursery.start_soon(world.reports.run)
    world.reports.take(REPORT)
    await world.obeyed.wait()
    assert world.needs == [(NEED, 3)]


MOVE = {
    "op": "mapping", "dst": "14010101", "spi": 7, "old_port": 1, "port": 2, "address": "01020304",
}  # fmt: skip


async def test_a_peer_that_moved_reaches_the_engine(nursery: trio.Nursery) -> None:
    world = World()
    nursery.start_soon(world.reports.run)
    world.reports.take(MOVE)
    await world.obeyed.wait()
    assert world.moves == (SaKey(b"\x14\1\1\1", 50, 7), (1, 2), b"\1\2\3\4")


async def test_policies_in_use_reach_the_engine() -> None:
    world = World()
    world.reports.take({"op": "used", "policies": [[9, 0, 0, []], [17, 2, 168, [[2, 5]]]]})
    assert world.uses == [PolicyUse(9), PolicyUse(17, 2, 168, ((ROWS[2], 5),))]


@pytest.mark.parametrize(
    "record",
    [
        {"op": "shutdown"},
        {"op": "need"},
        {"op": "used"},
        {"op": "used", "policies": [9]},
        *(
            {"op": "used", "policies": [[9, 0, 0, []], use]}
            for use in (
                ["x", 0, 0, []], [9, -1, 0, []], [9, 0, 0.5, []], [9, 0, 0], [9, 0, 1 << 60, []],
                [9, 0, 0, [[999, 1]]], [9, 0, 0, [[-1, 1]]], [9, 0, 0, [[1.0, 1]]],
                [9, 0, 0, [[1, -1]]], [9, 0, 0, [1]], [9, 0, 0, None],
            )
        ),
        {**REPORT, "packets": "many"},
        {"op": "mapping"},
        *({**MOVE, **change} for change in ({"dst": "zz"}, {"port": 0}, {"address": "00" * 16})),
        {**REPORT, "need": None},
        *(
            {**REPORT, "need": NEED.to_json() | change}
            for change in (
                {"src": "zz"}, {"src": "0a01"}, {"dst": ""}, {"dst": "00" * 16}, {"mode": 9},
                {"proto": -1}, {"policy": 1 << 32}, {"reqid": 1.5}, {"policy": None},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_a_record_that_is_none_is_logged_and_nothing_else(
    record: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    with caplog.at_level(logging.ERROR, "keyd.shell.reports"):
        world.reports.take(record)
    assert "bad-report" in caplog.text
    assert world.reports._outlet.statistics().current_buffer_used == 0


async def test_too_many_reports_are_dropped() -> None:
    world = World()
    for _ in range(reports.WAITING_MAX + 10):
        world.reports.take(REPORT)
    assert world.reports._outlet.statistics().current_buffer_used == reports.WAITING_MAX
