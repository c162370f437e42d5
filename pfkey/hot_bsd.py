"""The frequent records in the forms of NetBSD, FreeBSD and OpenBSD, by precompiled struct.

What each system's kernel writes, in its order; `specs/tables/records.toml` has the source. NetBSD
and FreeBSD tell limits in pairs and only where there are any; OpenBSD each by itself, and all
extensions in the order of their numbers. Functions take a record that says no more than the
dialect can (`said`, and what `hot` and `hot_events` make of it).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pfkey.codec import Layout
from pfkey.const import PF_KEY_V2, UNIT_OCTETS, ExtType, Mode, MsgType, OpenbsdFlag
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.hot_parts import (
    KEY_AUTH,
    KEY_ENCRYPT,
    LIMITS,
    NO_LIMITS,
    SA,
    SA2,
    Limits,
    Place,
    Segment,
    big_endian,
    encode_key,
    flat,
    is_whole,
    pair_segments,
    place,
    read_keys,
    size,
)
from pfkey.sockaddr import FAMILY_OF_SIZE

if TYPE_CHECKING:
    from pfkey.hot import SaRecord
    from pfkey.hot_events import Expire

Key = TypeVar("Key")
_TUNNEL = int(OpenbsdFlag.TUNNEL)  # a number, for ~ of an IntFlag drops the bits above its own
OTHERS = tuple(dialect for dialect in DIALECTS.values() if dialect is not LINUX)
POLICY_BASED = tuple(dialect for dialect in OTHERS if dialect.has_policies)
HARD, SOFT, CURRENT = LIMITS
# Values: number of the type, errno, satype, length in words, reserved, seq, pid
BASE: Segment = ("BBBBHHII", (PF_KEY_V2, None, None, None, None, None, None, None))
_NO_NAT_T: Segment = ("HHBxxx", (1, ExtType.X_NAT_T_TYPE, 0))
_REPLAY: Segment = ("HHxxxxQ", (2, 39, None))  # OpenBSD's X_REPLAY; value: the count
_TAILS = {"netbsd": Layout(_NO_NAT_T), "freebsd": None, "openbsd": Layout(_REPLAY)}


def _heads(dialect: Dialect) -> dict[tuple[int, bool, bool], Layout]:
    """The layouts up to the keys: by octets of an address, and which limits there are."""
    heads = {}
    for octets in FAMILY_OF_SIZE:
        for has_hard in (False, True):
            for has_soft in (False, True):
                limits = [HARD] * has_hard + [SOFT] * has_soft
                pair = pair_segments(octets, dialect)
                if dialect.has_policies:
                    segments = (BASE, SA, SA2, *limits, CURRENT, *pair)
                else:
                    segments = (BASE, SA, CURRENT, *limits, *pair)
                if has_hard == has_soft or not dialect.has_policies:
                    heads[octets, has_hard, has_soft] = Layout(*segments)
    return heads


_HEADS = {dialect.name: _heads(dialect) for dialect in OTHERS}
_FIRED = {ExtType.LIFETIME_HARD: HARD, ExtType.LIFETIME_SOFT: SOFT}


def _expire(dialect: Dialect, octets: int, fired: Segment) -> Layout:
    sa = (SA, SA2) if dialect.has_policies else (SA,)
    return Layout(BASE, *sa, CURRENT, fired, *pair_segments(octets, dialect))


_EXPIRES = {
    dialect.name: {
        (octets, int(fired)): _expire(dialect, octets, segment)
        for octets in FAMILY_OF_SIZE
        for fired, segment in _FIRED.items()
    }
    for dialect in OTHERS
}


def said_of_sa(record: "SaRecord | Expire", dialect: Dialect) -> dict[str, Any]:
    """What of an SA this dialect cannot say as it is, by field: the nearest that it can say."""
    ciphers = dialect.of_satype(record.satype).encrypt
    unit = dialect.window_unit
    said: dict[str, Any] = {
        "auth": record.auth if dialect.auth.says(record.auth) else 0,
        "encrypt": record.encrypt if ciphers.says(record.encrypt) else 0,
        "flags": dialect.flags_sayable(record.flags),
    }
    if record.replay <= dialect.window_max or ExtType.X_SA_REPLAY not in dialect.extensions:
        said["replay"] = min(-(-record.replay // unit) * unit, dialect.window_max)
    if not dialect.has_policies:
        said["flags"] &= ~_TUNNEL  # the mode says it
        said["mode"] = Mode.TUNNEL if record.mode == Mode.TUNNEL else Mode.TRANSPORT
        said["reqid"] = 0
        said["src"], said["dst"] = said_place(record.src), said_place(record.dst)
    return said


def said_place(place: Place) -> Place:
    """An address without prefix and protocol, which OpenBSD's extension has not."""
    return Place(place.address, 8 * len(place.address), 0, place.port)


def wire_flags(record: "SaRecord | Expire", dialect: Dialect) -> int:
    """sadb_sa_flags: OpenBSD's say the mode."""
    is_tunnel = not dialect.has_policies and record.mode == Mode.TUNNEL
    return dialect.flags_out(record.flags | (OpenbsdFlag.TUNNEL if is_tunnel else 0))


def _sa_values(record: "SaRecord | Expire", dialect: Dialect) -> Iterator[object]:
    inside = dialect.of_satype(record.satype)
    yield big_endian(record.spi, 4)
    yield record.replay // dialect.window_unit
    yield record.state
    yield dialect.auth.theirs(record.auth)
    yield inside.encrypt.theirs(record.encrypt)
    yield wire_flags(record, dialect)
    if dialect.has_policies:
        yield dialect.modes.theirs(record.mode)
        yield record.sequence
        yield record.reqid


def ends(src: Place, dst: Place, dialect: Dialect) -> tuple[object, ...]:
    """The values of both addresses."""
    if dialect.address:
        return (*flat(src)[2:], *flat(dst)[2:])
    return (*flat(src), *flat(dst))


def encode_sa(record: "SaRecord", dialect: Dialect) -> bytes:
    """Build a DUMP or GET record of an SA."""
    keys = b""
    if record.auth_key is not None:
        keys += encode_key(KEY_AUTH, record.auth_bits, record.auth_key)
    if record.encrypt_key is not None:
        keys += encode_key(KEY_ENCRYPT, record.encrypt_bits, record.encrypt_key)
    has_hard, has_soft = record.hard != NO_LIMITS, record.soft != NO_LIMITS
    if dialect.has_policies:
        has_hard = has_soft = has_hard or has_soft
    head = _HEADS[dialect.name][size(record.src, record.dst), has_hard, has_soft]
    tail = _TAILS[dialect.name]
    after = b"" if tail is None else tail.pack(*_after(record, dialect))
    limits = (*record.hard * has_hard, *record.soft * has_soft)
    lifetimes = (*limits, *record.current) if dialect.has_policies else (*record.current, *limits)
    return (
        head.pack(
            dialect.messages.theirs(record.type), 0, dialect.satypes.theirs(record.satype),
            (head.size + len(keys) + len(after)) // UNIT_OCTETS, 0, record.seq, record.pid,
            *_sa_values(record, dialect), *lifetimes, *ends(record.src, record.dst, dialect),
        )
        + keys
        + after
    )  # fmt: skip


def _after(record: "SaRecord", dialect: Dialect) -> tuple[int, ...]:
    return () if dialect.has_policies else (record.sequence,)


class Reader:
    """The values of a record, one after the other."""

    __slots__ = ("_at", "_dialect", "_size", "_values")

    def __init__(self, values: tuple[Any, ...], octets: int, dialect: Dialect) -> None:
        self._values, self._size, self._dialect, self._at = values, octets, dialect, 0

    def take(self, count: int) -> tuple[Any, ...]:
        """The next values."""
        self._at += count
        return self._values[self._at - count : self._at]

    def limits(self) -> Limits:
        """The next four, those of a lifetime."""
        allocations, octets, addtime, usetime = self.take(4)
        return allocations, octets, addtime, usetime

    def place(self) -> Place | None:
        """Those of an address; None for a prefix longer than it."""
        if self._dialect.address:
            return place(0, 8 * self._size, *self.take(2))
        return place(*self.take(4))

    def sa(self, satype: int) -> dict[str, Any]:
        """Those of the association, by field of a record."""
        dialect = self._dialect
        spi, replay, state, auth, encrypt, wire = self.take(6)
        flags = dialect.flags_in(wire)
        found: dict[str, Any] = {
            "spi": int.from_bytes(spi, "big"), "replay": replay * dialect.window_unit,
            "state": state, "auth": dialect.auth.ours(auth), "flags": flags,
            "encrypt": dialect.of_satype(satype).encrypt.ours(encrypt),
        }  # fmt: skip
        if dialect.has_policies:
            mode, found["sequence"], found["reqid"] = self.take(3)
            found["mode"] = dialect.modes.ours(mode)
        else:
            found["flags"] = flags & ~_TUNNEL
            found["mode"] = Mode.TUNNEL if flags & OpenbsdFlag.TUNNEL else Mode.TRANSPORT
        return found


def decode_sa(octets: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """The fields of a SaRecord, or None when the record has another form."""
    tail = _TAILS[dialect.name]
    end = len(octets) - (tail.size if tail else 0)
    after = tail.unpack(octets[end:]) if tail and end > 0 else ()
    if after is None:
        return None
    form = first(_HEADS[dialect.name], octets[:end])
    if form is None:
        return None
    (width, has_hard, has_soft), head, values = form
    reader = Reader(values, width, dialect)
    found = base(reader, octets, dialect)
    if found is None:
        return None
    found |= reader.sa(found["satype"])
    if not dialect.has_policies:
        found["current"], found["sequence"] = reader.limits(), after[0]
    found["hard"] = reader.limits() if has_hard else NO_LIMITS
    found["soft"] = reader.limits() if has_soft else NO_LIMITS
    if dialect.has_policies:
        found["current"] = reader.limits()
        is_canonical = has_hard == (found["hard"] != NO_LIMITS or found["soft"] != NO_LIMITS)
    else:
        is_canonical = (has_hard, has_soft) == (
            found["hard"] != NO_LIMITS,
            found["soft"] != NO_LIMITS,
        )
    found["src"], found["dst"] = reader.place(), reader.place()
    keys = read_keys(octets, head.size, end)
    if keys is None or not is_canonical or found["src"] is None or found["dst"] is None:
        return None
    found["auth_bits"], found["auth_key"] = keys.get(KEY_AUTH, (0, None))
    found["encrypt_bits"], found["encrypt_key"] = keys.get(KEY_ENCRYPT, (0, None))
    return found


def first(
    layouts: Mapping[Key, Layout], octets: bytes
) -> tuple[Key, Layout, tuple[Any, ...]] | None:
    """The layout that the octets begin with, its key and its values; None if there is none."""
    for key, layout in layouts.items():
        values = layout.unpack(octets)
        if values is not None:
            return key, layout, values
    return None


def base(
    reader: Reader, octets: bytes, dialect: Dialect, *, has_reserved: bool = False
) -> dict[str, Any] | None:
    """Type, SA type, sequence number and process id; None if the header says more.

    `has_reserved`: the reserved field may count references.
    """
    number, errno, satype, words, reserved, seq, pid = reader.take(7)
    kind = dialect.messages.named.get(number)
    if not kind or errno or not is_whole(octets, words) or (reserved and not has_reserved):
        return None
    found = {"type": kind, "satype": dialect.satypes.ours(satype), "seq": seq, "pid": pid}
    return found | {"refcount": reserved} if has_reserved else found


def encode_expire(record: "Expire", dialect: Dialect) -> bytes:
    """Build an EXPIRE."""
    layout = _EXPIRES[dialect.name][size(record.src, record.dst), int(record.fired)]
    return layout.pack(
        dialect.messages.theirs(MsgType.EXPIRE), 0, dialect.satypes.theirs(record.satype),
        layout.size // UNIT_OCTETS, 0, record.seq, record.pid, *_sa_values(record, dialect),
        *record.current, *record.limits, *ends(record.src, record.dst, dialect),
    )  # fmt: skip


def decode_expire(octets: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """The fields of an Expire, or None when the record has another form."""
    form = first(_EXPIRES[dialect.name], octets)
    if form is None or form[1].size != len(octets):
        return None
    (width, fired), _, values = form
    reader = Reader(values, width, dialect)
    found = base(reader, octets, dialect)
    if found is None or found.pop("type") != MsgType.EXPIRE:
        return None
    found |= reader.sa(found["satype"])
    found["current"], found["limits"], found["fired"] = reader.limits(), reader.limits(), fired
    found["src"], found["dst"] = reader.place(), reader.place()
    if found["src"] is None or found["dst"] is None:
        return None
    return found
