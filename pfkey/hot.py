"""The records that come by the thousand, by precompiled struct: those of dump and get.

Same octets as `message.Message` builds, in the order in which the system writes the extensions; a
property test holds both to each other. `decode` returns None for any record that is not exactly
of that form: then take `Message.decode`. Here are the records and Linux's forms, in `hot_bsd` the
others'.

A record is no message: it says what there is, and each system's form of it tells what that
system's records tell. What has no place in a form, or no number, stays out of it.
"""

from typing import NamedTuple, Self

from pfkey import hot_bsd, hot_bsd_spd
from pfkey.base import pad
from pfkey.codec import Layout
from pfkey.const import UNIT_OCTETS, MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.hot_parts import (
    BASE,
    KEY_AUTH,
    KEY_ENCRYPT,
    LIMITS,
    NO_LIMITS,
    POLICY,
    SA,
    SA2,
    Limits,
    Place,
    big_endian,
    encode_key,
    flat,
    is_whole,
    pair_segments,
    place,
    read_keys,
    size,
)
from pfkey.hot_reference import extensions_of_policy, extensions_of_sa
from pfkey.message import Message
from pfkey.sockaddr import FAMILY_OF_SIZE

_SA_HEAD = {size: Layout(BASE, SA, *LIMITS, *pair_segments(size)) for size in FAMILY_OF_SIZE}
_SA_TAIL = Layout(SA2)
_POLICY_HEAD = {
    size: Layout(BASE, *pair_segments(size), *LIMITS, POLICY) for size in FAMILY_OF_SIZE
}
_SA_TYPES = frozenset(
    {MsgType.DUMP, MsgType.GET, MsgType.ADD, MsgType.UPDATE, MsgType.DELETE, MsgType.GETSPI}
)
_POLICY_TYPES = frozenset(
    {MsgType.X_SPDDUMP, MsgType.X_SPDGET, MsgType.X_SPDADD, MsgType.X_SPDUPDATE,
     MsgType.X_SPDDELETE, MsgType.X_SPDDELETE2, MsgType.X_SPDSETIDX, MsgType.X_SPDEXPIRE}
)  # fmt: skip


class SaRecord(NamedTuple):
    """A DUMP or GET record, and the echo of ADD and UPDATE. A key of None is no extension."""

    satype: int
    spi: int
    src: Place
    dst: Place
    type: int = MsgType.DUMP
    seq: int = 0
    pid: int = 0
    replay: int = 0
    state: int = 0
    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    hard: Limits = NO_LIMITS
    soft: Limits = NO_LIMITS
    current: Limits = NO_LIMITS
    auth_bits: int = 0
    auth_key: bytes | None = None
    encrypt_bits: int = 0
    encrypt_key: bytes | None = None
    mode: int = 0
    reqid: int = 0
    sequence: int = 0

    def __repr__(self) -> str:
        return f"SaRecord(satype={self.satype}, spi={self.spi:#010x}, seq={self.seq}, keys=…)"

    def said(self, dialect: Dialect) -> Self:
        """The record as this dialect can tell it; see `hot_bsd.said_of_sa`."""
        if dialect is LINUX:
            return self
        return self._replace(**hot_bsd.said_of_sa(self, dialect))

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the record. A value out of range raises WireError."""
        if dialect is not LINUX:
            said = self.said(dialect)
            if said.replay > dialect.window_max:
                return said.message(dialect).encode(dialect)
            return hot_bsd.encode_sa(said, dialect)
        keys = b""
        if self.auth_key is not None:
            keys += encode_key(KEY_AUTH, self.auth_bits, self.auth_key)
        if self.encrypt_key is not None:
            keys += encode_key(KEY_ENCRYPT, self.encrypt_bits, self.encrypt_key)
        head = _SA_HEAD[size(self.src, self.dst)]
        length = (head.size + len(keys) + _SA_TAIL.size) // UNIT_OCTETS
        return (
            head.pack(
                self.type, 0, self.satype, length, 0, self.seq, self.pid,
                big_endian(self.spi, 4), self.replay, self.state, self.auth, self.encrypt,
                self.flags, *self.hard, *self.soft, *self.current,
                *flat(self.src), *flat(self.dst),
            )
            + keys
            + _SA_TAIL.pack(self.mode, self.sequence, self.reqid)
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self | None:
        """Read the record, or None when it has another form."""
        if dialect is not LINUX:
            found = hot_bsd.decode_sa(octets, dialect)
            return cls(**found) if found is not None and found["type"] in _SA_TYPES else None
        for head in _SA_HEAD.values():
            if (v := head.unpack(octets)) is not None:
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[25:29]), place(*v[29:33])
        tail = _SA_TAIL.unpack(octets[-_SA_TAIL.size :])
        if kind not in _SA_TYPES or errno or reserved or tail is None:
            return None
        if src is None or dst is None:
            return None
        keys = read_keys(octets, head.size, len(octets) - _SA_TAIL.size)
        if keys is None or not is_whole(octets, words):
            return None
        auth_bits, auth_key = keys.get(KEY_AUTH, (0, None))
        encrypt_bits, encrypt_key = keys.get(KEY_ENCRYPT, (0, None))
        return cls(
            satype=satype, spi=int.from_bytes(v[7], "big"), src=src, dst=dst, type=kind, seq=seq,
            pid=pid, replay=v[8], state=v[9], auth=v[10], encrypt=v[11], flags=v[12],
            hard=v[13:17], soft=v[17:21], current=v[21:25], auth_bits=auth_bits,
            auth_key=auth_key, encrypt_bits=encrypt_bits, encrypt_key=encrypt_key, mode=tail[0],
            sequence=tail[1], reqid=tail[2],
        )  # fmt: skip

    def message(self, dialect: Dialect = LINUX) -> Message:
        """The same by way of the extensions, in the order of this dialect: the reference."""
        return Message(
            type=self.type, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=extensions_of_sa(self.said(dialect), dialect),
        )  # fmt: skip


class PolicyRecord(NamedTuple):
    """An SPDDUMP or SPDGET record. `refcount` goes into the reserved field, as on Linux."""

    src: Place
    dst: Place
    policy_type: int
    dir: int
    id: int
    priority: int = 0
    requests: tuple[IpsecRequest, ...] = ()
    type: int = MsgType.X_SPDDUMP
    seq: int = 0
    pid: int = 0
    refcount: int = 1
    hard: Limits = NO_LIMITS
    soft: Limits = NO_LIMITS
    current: Limits = NO_LIMITS

    def said(self, dialect: Dialect) -> Self:
        """The record as this dialect can tell it; see `hot_bsd_spd.said_of_policy`."""
        if dialect is LINUX:
            return self
        return self._replace(**hot_bsd_spd.said_of_policy(self, dialect))

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the record.

        Raises:
            WireError: a value out of range, a direction or mode that the dialect has not; on
                OpenBSD always, for it has no policies.
        """
        if dialect is not LINUX:
            return hot_bsd_spd.encode_policy(self.said(dialect), dialect)
        body = pad(b"".join(request.encode() for request in self.requests))
        head = _POLICY_HEAD[size(self.src, self.dst)]
        return (
            head.pack(
                self.type, 0, 0, (head.size + len(body)) // UNIT_OCTETS, self.refcount, self.seq,
                self.pid, *flat(self.src), *flat(self.dst), *self.hard, *self.soft,
                *self.current, 2 + len(body) // UNIT_OCTETS, self.policy_type, self.dir, self.id,
                self.priority,
            )
            + body
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self | None:
        """Read the record, or None when it has another form."""
        if dialect is not LINUX:
            found = hot_bsd_spd.decode_policy(octets, dialect)
            return cls(**found) if found is not None and found["type"] in _POLICY_TYPES else None
        for head in _POLICY_HEAD.values():
            if (v := head.unpack(octets)) is not None:
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[7:11]), place(*v[11:15])
        start = head.size - 2 * UNIT_OCTETS
        if kind not in _POLICY_TYPES or errno or satype or not is_whole(octets, words):
            return None
        if src is None or dst is None:
            return None
        if start + v[27] * UNIT_OCTETS != len(octets):
            return None
        try:
            requests = Policy.decode(octets[start:], start).requests if v[27] > 2 else ()
        except WireError:
            return None
        return cls(
            src, dst, v[28], v[29], v[30], v[31], requests, kind, seq, pid, reserved,
            v[15:19], v[19:23], v[23:27],
        )  # fmt: skip

    def message(self, dialect: Dialect = LINUX) -> Message:
        """The same by way of the extensions, in the order of this dialect: the reference."""
        return Message(
            type=self.type, seq=self.seq, pid=self.pid, reserved=self.refcount,
            extensions=extensions_of_policy(self.said(dialect), dialect),
        )  # fmt: skip
