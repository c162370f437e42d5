"""The struct path for frequent records, held to the Construct path."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfkey.const import ExtType, Mode, MsgType, OpenbsdFlag
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import WireError
from pfkey.ext_prop import Comb, Proposal
from pfkey.ext_x_policy import IpsecRequest
from pfkey.hot import PolicyRecord, SaRecord
from pfkey.hot_events import Acquire, Expire
from pfkey.hot_parts import NO_LIMITS, Limits, Place
from pfkey.message import Message
from tests.pfkey import strategies, vectors
from tests.pfkey.strategies import numbers, u8, u16, u32, u64, windows

TABLE = tomllib.loads((Path(__file__).parents[2] / "specs" / "tables" / "records.toml").read_text())

Record = SaRecord | PolicyRecord | Acquire | Expire
KINDS: tuple[type[SaRecord] | type[PolicyRecord] | type[Acquire] | type[Expire], ...] = (
    SaRecord, PolicyRecord, Acquire, Expire,
)  # fmt: skip
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
OTHERS = pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
limits: st.SearchStrategy[Limits] = st.just(NO_LIMITS) | st.tuples(u32, u64, u64, u64)


@st.composite
def places(draw: st.DrawFn) -> tuple[Place, Place]:
    pair = draw(strategies.pairs)
    most = st.integers(0, 8 * len(pair[0]))
    return (
        Place(pair[0], draw(most), draw(u8), draw(u16)),
        Place(pair[1], draw(most), draw(u8), draw(u16)),
    )


@st.composite
def sa_records(draw: st.DrawFn, dialect: Dialect = LINUX) -> SaRecord:
    src, dst = draw(places())
    auth = draw(st.none() | strategies.keys(ExtType.KEY_AUTH))
    encrypt = draw(st.none() | strategies.keys(ExtType.KEY_ENCRYPT))
    satype = draw(numbers(dialect.satypes))
    return SaRecord(
        satype=satype, spi=draw(u32), src=src, dst=dst,
        type=draw(st.sampled_from([MsgType.DUMP, MsgType.GET, MsgType.ADD, MsgType.UPDATE])),
        seq=draw(u32), pid=draw(u32), replay=draw(windows(dialect)), state=draw(u8),
        auth=draw(numbers(dialect.auth)),
        encrypt=draw(numbers(dialect.of_satype(satype).encrypt)),
        flags=draw(u32.map(dialect.flags_in)), hard=draw(limits), soft=draw(limits),
        current=draw(limits), auth_bits=auth.bits if auth else 0,
        auth_key=auth.key if auth else None, encrypt_bits=encrypt.bits if encrypt else 0,
        encrypt_key=encrypt.key if encrypt else None, mode=draw(numbers(dialect.modes)),
        reqid=draw(u32), sequence=draw(u32),
    )  # fmt: skip


@st.composite
def policy_records(draw: st.DrawFn, dialect: Dialect = LINUX) -> PolicyRecord:
    src, dst = draw(places())
    policy = draw(strategies.policies(dialect))
    return PolicyRecord(
        src=src, dst=dst, policy_type=policy.type, dir=policy.dir, id=policy.id,
        priority=policy.priority, requests=policy.requests, seq=draw(u32), pid=draw(u32),
        type=draw(st.sampled_from([MsgType.X_SPDDUMP, MsgType.X_SPDGET])), refcount=draw(u16),
        hard=draw(limits), soft=draw(limits), current=draw(limits),
    )  # fmt: skip


@st.composite
def acquires(draw: st.DrawFn, dialect: Dialect = LINUX) -> Acquire:
    src, dst = draw(places())
    proposal = draw(st.just(b"") | strategies.proposals().map(lambda p: p.encode()))
    return Acquire(
        satype=draw(numbers(dialect.satypes)), seq=draw(u32), src=src, dst=dst,
        policy_id=draw(u32), priority=draw(u32), dir=draw(numbers(dialect.dirs)),
        policy_type=draw(u16), pid=draw(u32), proposal=proposal,
    )  # fmt: skip


@st.composite
def expires(draw: st.DrawFn, dialect: Dialect = LINUX) -> Expire:
    src, dst = draw(places())
    satype = draw(numbers(dialect.satypes))
    return Expire(
        satype=satype, spi=draw(u32), src=src, dst=dst,
        fired=draw(st.sampled_from([ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT])),
        limits=draw(limits), current=draw(limits), seq=draw(u32), pid=draw(u32),
        replay=draw(windows(dialect)), state=draw(u8), auth=draw(numbers(dialect.auth)),
        encrypt=draw(numbers(dialect.of_satype(satype).encrypt)),
        flags=draw(u32.map(dialect.flags_in)), mode=draw(numbers(dialect.modes)),
        reqid=draw(u32), sequence=draw(u32),
    )  # fmt: skip


def records(dialect: Dialect) -> st.SearchStrategy[Record]:
    """Records with numbers that this dialect has, some of Linux's, in that dialect or another."""
    of_dialect = sa_records(dialect) | policy_records(dialect) | acquires(dialect)
    return of_dialect | expires(dialect)


MADE: dict[str, Callable[[Dialect], st.SearchStrategy[Record]]] = {
    "sa": sa_records, "policy": policy_records, "acquire": acquires, "expire": expires,
}  # fmt: skip


def outcome(build: Callable[[], bytes]) -> bytes | None:
    try:
        return build()
    except WireError:
        return None


@given(records(LINUX))
def test_both_paths_build_and_read_the_same(record: Record) -> None:
    octets = record.encode()
    assert octets == record.message().encode()
    assert type(record).decode(octets) == record == record.said(LINUX)


@OTHERS
@given(st.data())
def test_both_paths_build_and_read_the_same_elsewhere(
    dialect: Dialect, data: st.DataObject
) -> None:
    record: Record = data.draw(records(dialect) | records(LINUX))
    octets = outcome(lambda: record.encode(dialect))
    assert octets == outcome(lambda: record.message(dialect).encode(dialect))
    if octets is None:
        return
    said = record.said(dialect)
    assert said.said(dialect) == said
    read = type(record).decode(octets, dialect)
    has_word = isinstance(said, SaRecord | Expire) and said.replay > dialect.window_max
    assert read == (None if has_word else said)


@EACH
@settings(max_examples=30)
@given(st.data())
def test_records_of_the_dialect_itself_can_be_said(dialect: Dialect, data: st.DataObject) -> None:
    record: Record = data.draw(
        records(dialect).filter(lambda r: dialect.has_policies or not isinstance(r, PolicyRecord))
    )
    assert len(record.encode(dialect)) % 8 == 0


@EACH
@given(st.data())
def test_what_the_struct_path_reads_the_construct_path_reads_alike(
    dialect: Dialect, data: st.DataObject
) -> None:
    record = data.draw(records(dialect))
    built = outcome(lambda: record.encode(dialect)) or b""
    octets = data.draw(strategies.mutations(st.just(built)))
    for kind in KINDS:
        found = kind.decode(octets, dialect)
        if found is not None:
            assert found.message(dialect) == Message.decode(octets, dialect)


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.TUNNEL])
def test_flags_without_a_name_survive_on_openbsd(mode: Mode) -> None:
    here, there = Place(bytes(4), 32), Place(b"\1" * 4, 32)
    flags = OPENBSD.flags_in(0xFFFF_FFFB)  # all but the one that says the mode
    record = SaRecord(satype=3, spi=1, src=here, dst=there, flags=flags, mode=mode)
    octets = record.encode(OPENBSD)
    read = SaRecord.decode(octets, OPENBSD)
    assert read is not None
    assert (read.flags, read.mode) == (flags, mode)
    whole = Message.decode(octets, OPENBSD)
    assert whole.sa is not None
    assert whole.sa.flags & ~int(OpenbsdFlag.TUNNEL) == flags


@EACH
@given(octets=st.binary(max_size=300))
def test_any_octets_are_read_or_declined(dialect: Dialect, octets: bytes) -> None:
    for kind in KINDS:
        record = kind.decode(octets, dialect)
        assert record is None or record.encode(dialect) == octets


@EACH
@pytest.mark.parametrize("kind", ["sa", "policy", "acquire", "expire"])
@settings(max_examples=20)
@given(st.data())
def test_records_have_the_extensions_of_the_table_in_its_order(
    dialect: Dialect, kind: str, data: st.DataObject
) -> None:
    row = TABLE[kind].get(dialect.name)
    record: Record = data.draw(MADE[kind](dialect))
    if row is None:
        assert outcome(lambda: record.encode(dialect)) is None
        return
    told = [ExtType(e.exttype).name for e in record.message(dialect).extensions]
    assert told == [n for n in (name.removesuffix("?") for name in row) if n in told]
    assert {name for name in row if not name.endswith("?")} <= set(told)


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


@EACH
@pytest.mark.parametrize("octets", [vectors.REGISTER, vectors.ADD_FIRST_EXAMPLE, b""])
def test_other_forms_are_declined(octets: bytes, dialect: Dialect) -> None:
    assert not any(kind.decode(octets, dialect) for kind in KINDS)


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


def test_what_a_system_cannot_tell_is_told_as_near_as_it_can() -> None:
    sa = SaRecord(
        satype=3, spi=1, src=HERE, dst=HERE._replace(prefixlen=24, proto=6), replay=100,
        flags=0xE0000440, mode=Mode.BEET, reqid=7,
    )  # fmt: skip
    netbsd = sa._replace(replay=104, flags=0x440)
    assert sa.said(NETBSD) == netbsd
    with pytest.raises(WireError, match="mode 3 is not of this dialect"):
        netbsd.encode(NETBSD)  # no mode is taken for another
    assert sa._replace(mode=Mode.TUNNEL).said(OPENBSD) == sa._replace(
        replay=100, flags=0x400, mode=Mode.TUNNEL, reqid=0, dst=HERE
    )
    wide = sa._replace(replay=4096, mode=Mode.TRANSPORT, flags=0)
    assert wide.said(NETBSD).replay == 2040  # all that an octet can say there
    assert wide.said(FREEBSD).replay == 4096  # SA_REPLAY says it
    assert wide.said(OPENBSD).replay == 255


def test_a_request_id_too_large_for_a_policy_of_the_bsds_is_left_out() -> None:
    requests = tuple(IpsecRequest(proto=50, mode=1, level=3, reqid=r) for r in (16385, 65536))
    policy = PolicyRecord(HERE, HERE, 2, 2, 1, 9, requests=requests, hard=(0, 0, 5, 0))
    assert [r.reqid for r in policy.said(FREEBSD).requests] == [16385, 0]
    assert (policy.said(NETBSD).priority, policy.said(FREEBSD).priority) == (0, 9)
    assert (policy.said(NETBSD).hard, policy.said(FREEBSD).hard) == (NO_LIMITS, (0, 0, 5, 0))
    with pytest.raises(WireError, match="flows, no policies"):
        policy.encode(OPENBSD)


def test_combinations_that_a_system_cannot_name_are_not_offered_there() -> None:
    combs = (Comb(encrypt=25), Comb(encrypt=12, auth=9), Comb(encrypt=12, auth=5))
    acquire = Acquire(3, 1, HERE, HERE, 8, proposal=Proposal(combs=combs).encode())
    octets = acquire.encode(OPENBSD)
    found = Message.decode(octets, OPENBSD).proposal
    assert found is not None
    assert found.combs == (combs[0], combs[2])
    assert octets[-2 * 72 - 8 + 4] == 2  # sadb_prop_num
    none = acquire._replace(proposal=Proposal(combs=combs[:1]).encode())
    assert Message.decode(none.encode(NETBSD), NETBSD).proposal is None
