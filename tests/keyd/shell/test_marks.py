"""The numbers in our bits of the packet mark."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.shell.marks import PAIRS_MAX, Marks

masks = st.sampled_from([0xFF000000, 0x0FF00000, 0xFF, 0x7F, 0xFFFF0000])
u32 = st.integers(0, 2**32 - 1)


def test_the_numbers_are_those_of_the_design() -> None:
    m = Marks()
    assert (m.protect, m.bypass, m.others) == (0x4B000000, 0x4C000000, 0x00FFFFFF)
    assert (m.socket(0), m.socket(87), m.steered(0), m.steered(87)) == (
        0x50000000, 0xA7000000, 0xA8000000, 0xFF000000
    )  # fmt: skip


@given(masks, st.data())
def test_each_pair_has_marks_of_its_own_within_the_mask(mask: int, data: st.DataObject) -> None:
    m = Marks(mask)
    assert 0 < m.pairs <= PAIRS_MAX
    all_marks = [m.protect, m.bypass]
    all_marks += [m.socket(n) for n in range(m.pairs)] + [m.steered(n) for n in range(m.pairs)]
    assert len(set(all_marks)) == 2 + 2 * m.pairs
    assert all(mark & ~mask == 0 for mark in all_marks)
    number = data.draw(st.integers(0, m.pairs - 1))
    assert m.pair(m.socket(number)) == number
    assert m.pair(m.steered(number)) is None


@given(masks, u32, st.data())
def test_a_socket_keeps_its_own_bits(mask: int, has: int, data: st.DataObject) -> None:
    m = Marks(mask)
    number = data.draw(st.integers(0, m.pairs - 1))
    marked = m.with_pair(has, number)
    assert m.pair(marked) == number
    assert marked & m.others == has & m.others
    assert m.with_pair(marked, None) == has & m.others


@given(masks, u32, u32)
def test_no_mark_of_a_program_changes_a_policy_or_makes_one(
    mask: int, has: int, given: int
) -> None:
    m = Marks(mask)
    merged = m.merged(has, given)
    assert merged & m.others == given & m.others
    assert m.pair(merged) == m.pair(has)
    assert merged & mask not in (m.protect, m.bypass)
    if m.pair(has) is None and given & mask < m.protect:
        assert merged == given


@pytest.mark.parametrize("mask", [0, 0x3F, 0xFF00FF, 0x1FFFFFFFF])
def test_a_mask_without_room_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="mark mask"):
        Marks(mask)
