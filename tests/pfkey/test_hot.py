"""The struct path for frequent records, held to the Construct path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.const import ExtType, MsgType
from pfkey.errors import WireError
from pfkey.hot import Limits, Place, PolicyRecord, SaRecord
from pfkey.hot_events import Acquire, Expire
from pfkey.message import Message
from tests.pfkey import strategies, vectors
from tests.pfkey.strategies import u8, u16, u32, u64

limits: st.SearchStrategy[Limits] = st.tuples(u32, u64, u64, u64)


@st.composite
def places(draw: st.DrawFn) -> tuple[Place, Place]:
    pair = draw(strategies.pairs)
    most = st.integers(0, 8 * len(pair[0]))
    return (
        Place(pair[0], draw(most), draw(u8), draw(u16)),
        Place(pair[1], draw(most), draw(u8), draw(u16)),
    )


@st.composite
def sa_records(draw: st.DrawFn) -> SaRecord:
    src, dst = draw(places())
    auth = draw(st.none() | strategies.keys(ExtType.KEY_AUTH))
    encrypt = draw(st.none() | strategies.keys(ExtType.KEY_ENCRYPT))
    return SaRecord(
        satype=draw(u8), spi=draw(u32), src=src, dst=dst,
        type=draw(st.sampled_from([MsgType.DUMP, MsgType.GET, MsgType.ADD, MsgType.UPDATE])),
        seq=draw(u32), pid=draw(u32), replay=draw(u8), state=draw(u8), auth=draw(u8),
        encrypt=draw(u8), flags=draw(u32), hard=draw(limits), soft=draw(limits),
        current=draw(limits), auth_bits=auth.bits if auth else 0,
        auth_key=auth.key if auth else None, encrypt_bits=encrypt.bits if encrypt else 0,
        encrypt_key=encrypt.key if encrypt else None, mode=draw(u8), reqid=draw(u32),
        sequence=draw(u32),
    )  # fmt: skip


@st.composite
def policy_records(draw: st.DrawFn) -> PolicyRecord:
    src, dst = draw(places())
    policy = draw(strategies.policies())
    return PolicyRecord(
        src=src, dst=dst, policy_type=policy.type, dir=policy.dir, id=policy.id,
        priority=policy.priority, requests=policy.requests, seq=draw(u32), pid=draw(u32),
        type=draw(st.sampled_from([MsgType.X_SPDDUMP, MsgType.X_SPDGET])), refcount=draw(u16),
        hard=draw(limits), soft=draw(limits), current=draw(limits),
    )  # fmt: skip


@st.composite
def acquires(draw: st.DrawFn) -> Acquire:
    src, dst = draw(places())
    proposal = draw(st.just(b"") | strategies.proposals().map(lambda p: p.encode()))
    return Acquire(
        satype=draw(u8), seq=draw(u32), src=src, dst=dst, policy_id=draw(u32),
        priority=draw(u32), dir=draw(u8), policy_type=draw(u16), pid=draw(u32),
        proposal=proposal,
    )  # fmt: skip


@st.composite
def expires(draw: st.DrawFn) -> Expire:
    src, dst = draw(places())
    return Expire(
        satype=draw(u8), spi=draw(u32), src=src, dst=dst,
        fired=draw(st.sampled_from([ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT])),
        limits=draw(limits), current=draw(limits), seq=draw(u32), pid=draw(u32),
        replay=draw(u8), state=draw(u8), auth=draw(u8), encrypt=draw(u8), flags=draw(u32),
        mode=draw(u8), reqid=draw(u32), sequence=draw(u32),
    )  # fmt: skip


@given(sa_records() | policy_records() | acquires() | expires())
def test_both_paths_build_and_read_the_same(
    record: SaRecord | PolicyRecord | Acquire | Expire,
) -> None:
    octets = record.encode()
    assert octets == record.message().encode()
    assert type(record).decode(octets) == record


@given(
    strategies.mutations(
        (sa_records() | policy_records() | acquires() | expires()).map(lambda r: r.encode())
    )
)
def test_what_the_struct_path_reads_the_construct_path_reads_alike(octets: bytes) -> None:
    for kind in (SaRecord, PolicyRecord, Acquire, Expire):
        record = kind.decode(octets)
        if record is not None:
            assert record.message() == Message.decode(octets)


@given(st.binary(max_size=300))
def test_any_octets_are_read_or_declined(octets: bytes) -> None:
    for kind in (SaRecord, PolicyRecord, Acquire, Expire):
        record = kind.decode(octets)
        assert record is None or record.encode() == octets


def test_records_of_linux_are_read() -> None:
    sa = SaRecord.decode(vectors.DUMP_RECORD)
    assert sa is not None
    assert (sa.spi, sa.encrypt_key, sa.auth_key) == (0x2694, b"hoge" * 6, None)
    assert (sa.current, sa.mode) == ((5, 500, 1700000000, 1700000010), 1)
    assert sa.encode() == vectors.DUMP_RECORD
    policy = PolicyRecord.decode(vectors.SPD_DUMP_RECORD)
    assert policy is not None
    assert (policy.src.prefixlen, policy.src.proto, policy.id) == (24, 255, 1)
    assert policy.encode() == vectors.SPD_DUMP_RECORD


@pytest.mark.parametrize("octets", [vectors.REGISTER, vectors.ADD_FIRST_EXAMPLE, b""])
def test_other_forms_are_declined(octets: bytes) -> None:
    assert SaRecord.decode(octets) is None
    assert PolicyRecord.decode(octets) is None
    assert Acquire.decode(octets) is None
    assert Expire.decode(octets) is None


def test_a_key_never_shows_in_a_repr() -> None:
    assert "hoge" not in repr(SaRecord.decode(vectors.DUMP_RECORD))


HERE = Place(bytes([192, 0, 2, 1]), 32)
THERE = Place(bytes(16), 128)


@pytest.mark.parametrize(
    "record",
    [
        SaRecord(satype=3, spi=2**32, src=HERE, dst=HERE),
        SaRecord(satype=256, spi=1, src=HERE, dst=HERE),
        SaRecord(satype=3, spi=1, src=HERE, dst=THERE),
        SaRecord(satype=3, spi=1, src=HERE, dst=HERE, auth_bits=16, auth_key=b"x"),
        SaRecord(satype=3, spi=1, src=HERE._replace(port=65536), dst=HERE),
        PolicyRecord(src=HERE, dst=HERE, policy_type=2, dir=256, id=1),
        Acquire(satype=3, seq=-1, src=HERE, dst=HERE, policy_id=1),
        Expire(satype=3, spi=1, src=HERE, dst=HERE, fired=ExtType.LIFETIME_CURRENT),
    ],
)
def test_values_out_of_range_are_wire_errors(
    record: SaRecord | PolicyRecord | Acquire | Expire,
) -> None:
    with pytest.raises(WireError):
        record.encode()
