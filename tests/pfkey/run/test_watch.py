"""What is waited for, and what is not lost with one handler that fails or goes."""

import os
import select
from collections.abc import Callable, Iterator

import pytest

from pfkey.run.watch import Watch


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(2)]
    yield made
    for ends in made:
        for end in ends:
            os.close(end)


def test_a_handler_that_fails_takes_no_other_with_it(pipes: list[tuple[int, int]]) -> None:
    watch, called = Watch(), list[str]()

    def fails(events: int) -> None:
        called.append("fails")
        raise KeyError("a record without its word")

    for (end, _), handle in zip(pipes, (fails, lambda events: called.append("works")), strict=True):
        watch.add(end, select.EPOLLIN, handle)
    for _, end in pipes:
        os.write(end, b"x")
    watch.wait(1)
    assert sorted(called) == ["fails", "works"]


def test_who_has_gone_in_the_same_turn_is_not_called(pipes: list[tuple[int, int]]) -> None:
    """Nor is another that got its descriptor's number meanwhile."""
    watch, called = Watch(), list[int]()

    def replacing(mine: int, other: int) -> Callable[[int], None]:
        def handle(events: int) -> None:
            called.append(mine)
            watch.remove(other)
            watch.add(other, select.EPOLLIN, lambda events: called.append(-1))

        return handle

    (one, _), (two, _) = pipes
    watch.add(one, select.EPOLLIN, replacing(one, two))
    watch.add(two, select.EPOLLIN, replacing(two, one))
    for _, end in pipes:
        os.write(end, b"x")
    watch.wait(1)
    assert called in ([one], [two])
