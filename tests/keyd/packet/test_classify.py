"""The first policy by (priority, order) decides: RFC 4301 section 4.4.1."""

from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec
from keyd.packet.classify import Classifier, rank
from pfkey.const import UNSPEC_PROTO, Dir, PolicyType
from pfkey.selector import Range, Selector

PROTOS = (1, 6, 17, UNSPEC_PROTO)
PORTS = (0, 0, 80, 110)
addresses = st.integers(0, 15).map(lambda n: bytes((10, n >> 2, 0, n & 3)))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    return Range(
        draw(addresses), draw(st.sampled_from((0, 8, 14, 16, 31, 32))), draw(st.sampled_from(PORTS))
    )


def policies() -> st.SearchStrategy[PolicySpec]:
    return st.builds(
        PolicySpec,
        id=st.integers(0, 50),
        dir=st.just(Dir.OUT),
        type=st.sampled_from((PolicyType.NONE, PolicyType.DISCARD)),
        selector=st.builds(Selector, ranges(), ranges(), st.sampled_from(PROTOS)),
        priority=st.integers(0, 2),
        order=st.integers(0, 9),
    )


packets = st.tuples(
    addresses,
    addresses,
    st.sampled_from((1, 6, 17)),
    st.sampled_from(PORTS),
    st.sampled_from(PORTS),
)


@given(
    st.lists(policies(), max_size=12),
    st.lists(st.integers(0, 50), max_size=6),
    st.lists(policies(), max_size=6),
    packets,
)
def test_it_finds_what_a_linear_scan_finds(
    first: list[PolicySpec],
    gone: list[int],
    later: list[PolicySpec],
    packet: tuple[bytes, bytes, int, int, int],
) -> None:
    classifier = Classifier(first)
    held = {policy.id: policy for policy in first}
    classifier.update(later, gone)
    for number in gone:
        held.pop(number, None)
    held |= {policy.id: policy for policy in later}
    matching = [p for p in held.values() if p.selector.matches(*packet)]
    assert classifier.match(*packet) == min(matching, key=rank, default=None)
    assert len(classifier) == len(held)
    assert classifier.protocols(*packet[:2]) == {
        p.selector.proto
        for p in held.values()
        if p.selector.src.covers(packet[0]) and p.selector.dst.covers(packet[1])
    }


def test_none_before_a_wide_require_wins_by_order_alone() -> None:
    def policy(number: int, order: int, port: int, type_: PolicyType) -> PolicySpec:
        selector = Selector(
            Range(bytes(4), 0, port), Range(bytes((10, 1, 1, 1)), 32), 6 if port else UNSPEC_PROTO
        )
        return PolicySpec(
            id=number, dir=Dir.OUT, type=type_, selector=selector, order=order
        )  # fmt: skip

    exempt, wide = policy(1, 0, 110, PolicyType.NONE), policy(2, 1, 0, PolicyType.DISCARD)
    packet = (bytes((20, 0, 0, 1)), bytes((10, 1, 1, 1)), 6, 110, 5000)
    assert Classifier((exempt, wide)).match(*packet) == exempt
    late = policy(1, 2, 110, PolicyType.NONE)
    assert Classifier((late, wide)).match(*packet) == wide


def test_each_change_is_a_new_generation() -> None:
    classifier = Classifier()
    before = classifier.generation
    classifier.update((), (7,))
    assert classifier.generation > before
    assert classifier.match(bytes(4), bytes(4), 6, 1, 2) is None
    assert classifier.match(bytes(16), bytes(16), 6, 1, 2) is None
