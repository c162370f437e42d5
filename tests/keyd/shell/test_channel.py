"""The channel's records and the worker's half."""

import pytest

from keyd.model import PolicySpec
from keyd.shell import channel
from keyd.shell.channel import WorkerEnd, pair, policy_records
from pfkey.const import Dir, PolicyType
from pfkey.selector import Range, Selector


def policy(number: int) -> PolicySpec:
    anywhere = Range(bytes(4), 0)
    return PolicySpec(
        id=number, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(anywhere, anywhere)
    )


def test_worker_drains_all_records_in_order_and_then_none_more() -> None:
    ours, theirs = pair()
    worker = WorkerEnd(theirs)
    assert worker.drain() == []
    for n in range(2000):
        ours.send(channel.encode({"op": "sa-", "slot": n}))
    assert worker.drain() == [{"op": "sa-", "slot": n} for n in range(2000)]
    ours.close()
    assert worker.drain() is None
    assert not worker.post({"op": "log"})
    theirs.close()


def test_room_for_thousands_of_records_without_a_reader() -> None:
    ours, theirs = pair()
    for n in range(5000):
        ours.send(channel.encode({"op": "sa-", "slot": n, "sa": "x" * 400}))
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("added", "removed"), [(0, 0), (1, 0), (256, 1), (257, 5000), (3, 5000)])
def test_a_large_change_of_policies_is_one_change(added: int, removed: int) -> None:
    records = list(policy_records(map(policy, range(added)), list(range(removed))))
    assert [record["more"] for record in records] == [True] * (len(records) - 1) + [False]
    assert [PolicySpec.from_json(o).id for record in records for o in record["added"]] == list(
        range(added)
    )
    assert [n for record in records for n in record["removed"]] == list(range(removed))
    assert max(len(channel.encode(record)) for record in records) < channel.RECORD_MAX


def test_a_record_that_is_no_object_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        channel.decode(b"[]")
    with pytest.raises(ValueError, match="deep"):
        channel.decode(b"[" * 100_000)
