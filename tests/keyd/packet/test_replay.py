"""RFC 4303 section 3.4.3 and appendix A: the window against a plain model, a set of numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.packet.replay import Window

sizes = st.one_of(st.integers(1, 255), st.sampled_from([1, 32, 63, 64, 65, 1024, 4096]))
edges = st.one_of(st.just(0), st.integers(0, 10_000), st.integers(2**32 - 5000, 2**32 - 1))
# Steps relative to the edge: mostly near it, sometimes across the whole number space.
steps = st.one_of(st.integers(-40, 40), st.integers(-5000, 5000), st.integers(-(2**32), 2**32 - 1))
SEQ_MAX = 2**32 - 1


class Model:
    """The section in sets: seen numbers, and those too old to be told apart."""

    def __init__(self, size: int, edge: int) -> None:
        self.size = size
        self.start = self.edge = edge
        self.seen: set[int] = set()

    def check(self, seq: int) -> bool:
        if seq == 0 or seq in self.seen or seq <= self.start:
            return False
        return seq > self.edge - self.size

    def mark(self, seq: int) -> None:
        self.seen.add(seq)
        self.edge = max(self.edge, seq)


@given(sizes, edges, st.lists(steps, max_size=60), st.booleans())
def test_window_accepts_what_the_model_accepts(
    size: int, edge: int, moves: list[int], all_marked: bool
) -> None:
    window, model = Window(size, edge), Model(size, edge)
    for move in moves:
        seq = min(max(model.edge + move, 0), SEQ_MAX)
        accepted = window.check(seq)
        assert accepted == model.check(seq), (seq, window)
        # an ICV that does not hold is a check without a mark
        if accepted and (all_marked or seq % 3):
            window.mark(seq)
            model.mark(seq)
        assert window.edge == model.edge


@given(sizes, edges, st.lists(st.integers(1, SEQ_MAX), max_size=20))
def test_no_number_is_accepted_twice(size: int, edge: int, seqs: list[int]) -> None:
    window = Window(size, edge)
    accepted = []
    for seq in seqs * 2:
        if window.check(seq):
            window.mark(seq)
            accepted.append(seq)
    assert len(accepted) == len(set(accepted))


@given(sizes, edges)
def test_after_a_restart_all_up_to_the_edge_is_seen(size: int, edge: int) -> None:
    window = Window(size, edge=edge)
    assert not any(window.check(seq) for seq in range(max(edge - size - 2, 0), edge + 1))
    assert window.check(edge + 1)
    assert window.edge == edge


@given(sizes)
def test_the_whole_window_may_arrive_backwards(size: int) -> None:
    window = Window(size)
    window.mark(size)
    for seq in range(size - 1, 0, -1):
        assert window.check(seq)
        window.mark(seq)
        assert not window.check(seq)
    assert not window.check(0)


@given(st.integers(1, 4096), st.integers(1, SEQ_MAX))
def test_the_oldest_acceptable_number_is_size_less_one_behind(size: int, edge: int) -> None:
    window = Window(size)
    window.mark(edge)
    assert window.check(edge - size + 1) == (edge - size + 1 > 0 and size > 1)
    assert not window.check(edge - size)


@given(st.lists(st.integers(0, SEQ_MAX), min_size=1), edges)
def test_size_zero_checks_nothing_and_follows_the_edge(seqs: list[int], edge: int) -> None:
    window = Window(0, edge)
    for seq in seqs:
        assert window.check(seq)
        window.mark(seq)
        assert window.check(seq)
    assert window.edge == max(edge, *seqs)


def test_number_zero_is_never_accepted_while_checking() -> None:
    assert not Window(32).check(0)


@pytest.mark.parametrize("size", [1, 32, 4096])
def test_a_jump_over_the_number_space_costs_no_memory(size: int) -> None:
    window = Window(size)
    for seq in (1, SEQ_MAX):
        assert window.check(seq)
        window.mark(seq)
    assert not window.check(SEQ_MAX)
    assert repr(window) == f"Window(size={size}, edge={SEQ_MAX})"


# Extended numbers: appendix A2

ESN_MAX = 2**64 - 1
far_edges = st.one_of(
    st.integers(0, 10_000),
    st.integers(1, 2**32).map(lambda n: n << 32),
    st.tuples(st.integers(0, 2**32 - 2), st.integers(-5000, 5000)).map(
        lambda pair: max((pair[0] << 32) + pair[1], 0)
    ),
    st.integers(2**64 - 10_000, ESN_MAX),
)


def appendix_a22(edge: int, size: int, low: int) -> int:
    """The upper half of a number by the cases of A2.2, word for word."""
    th, tl = edge >> 32, edge & SEQ_MAX
    if tl >= size - 1:  # the window lies in one subspace
        return th if low >= tl - size + 1 else th + 1
    return th - 1 if low >= (tl - size + 1) & SEQ_MAX else th


@given(st.integers(1, 4096), far_edges, st.integers(0, SEQ_MAX))
def test_the_upper_half_is_inferred_as_appendix_a_says(size: int, edge: int, low: int) -> None:
    seq = appendix_a22(edge, size, low) << 32 | low if edge <= ESN_MAX else -1
    found = Window(size, edge).infer(low)
    assert found == (seq if 0 < seq <= ESN_MAX else -1)


@given(st.integers(1, 4096), far_edges, st.data())
def test_any_number_from_the_windows_lower_end_on_is_found(
    size: int, edge: int, data: st.DataObject
) -> None:
    bottom = edge - size + 1
    seq = data.draw(st.integers(max(bottom, 1), max(bottom, 1) + 2**32 - 1 - max(1 - bottom, 0)))
    window = Window(size, edge)
    assert window.infer(seq & SEQ_MAX) == (seq if seq <= ESN_MAX else -1)


@given(st.integers(1, 4096), far_edges, st.lists(steps, max_size=60), st.booleans())
def test_an_extended_window_accepts_what_the_model_accepts(
    size: int, edge: int, moves: list[int], all_marked: bool
) -> None:
    edge = min(edge, ESN_MAX)
    window, model = Window(size, edge), Model(size, edge)
    for move in moves:
        seq = min(max(model.edge + move, 0), ESN_MAX)
        found = window.infer(seq & SEQ_MAX)
        if found != seq:  # another number has this lower half: the ICV will not hold
            assert seq == 0 or not 0 < seq - (model.edge - size) <= 2**32
            continue
        accepted = window.check(seq)
        assert accepted == model.check(seq)
        if accepted and (all_marked or seq % 3):
            window.mark(seq)
            model.mark(seq)
        assert window.edge == model.edge
