"""The notices that come by the thousand, by precompiled struct: ACQUIRE and EXPIRE.

As in `hot`: same octets as `message.Message` builds, in the order of the system, and `decode`
returns None for any record that is not exactly of that form.
"""

from typing import NamedTuple, Self

from pfkey import hot_bsd, hot_bsd_spd
from pfkey.codec import Layout
from pfkey.const import UNIT_OCTETS, Dir, ExtType, MsgType, PolicyType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_prop import Proposal
from pfkey.hot_parts import (
    BASE,
    LIMITS,
    NO_LIMITS,
    POLICY,
    SA,
    SA2,
    Limits,
    Place,
    big_endian,
    flat,
    is_whole,
    lifetime_segment,
    pair_segments,
    place,
    size,
)
from pfkey.hot_reference import extensions_of_acquire, extensions_of_expire
from pfkey.message import Message
from pfkey.sockaddr import FAMILY_OF_SIZE

_LIFETIMES = (ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT)
_ACQUIRE = {octets: Layout(BASE, *pair_segments(octets), POLICY) for octets in FAMILY_OF_SIZE}
_EXPIRE = {
    (octets, exttype): Layout(
        BASE, SA, lifetime_segment(exttype), LIMITS[2], *pair_segments(octets), SA2
    )
    for octets in FAMILY_OF_SIZE
    for exttype in _LIFETIMES
}


class Acquire(NamedTuple):
    """An ACQUIRE for one missing SA. `proposal` is an encoded extension, or empty for IPComp."""

    satype: int
    seq: int
    src: Place
    dst: Place
    policy_id: int
    priority: int = 0
    dir: int = Dir.OUT
    policy_type: int = PolicyType.IPSEC
    pid: int = 0
    proposal: bytes = b""

    def said(self, dialect: Dialect) -> Self:
        """The record as this dialect can tell it; see `hot_bsd_spd.said_of_acquire`."""
        if dialect is LINUX:
            return self
        return self._replace(**hot_bsd_spd.said_of_acquire(self, dialect))

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the record. A value out of range raises WireError."""
        if dialect is not LINUX:
            return hot_bsd_spd.encode_acquire(self.said(dialect), dialect)
        head = _ACQUIRE[size(self.src, self.dst)]
        words = (head.size + len(self.proposal)) // UNIT_OCTETS
        return (
            head.pack(
                MsgType.ACQUIRE, 0, self.satype, words, 0, self.seq, self.pid, *flat(self.src),
                *flat(self.dst), 2, self.policy_type, self.dir, self.policy_id, self.priority,
            )
            + self.proposal
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self | None:
        """Read the record, or None when it has another form."""
        if dialect is not LINUX:
            found = hot_bsd_spd.decode_acquire(octets, dialect)
            return None if found is None else cls(**found)
        for head in _ACQUIRE.values():
            if (v := head.unpack(octets)) is not None:
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[7:11]), place(*v[11:15])
        proposal = octets[head.size :]
        if kind != MsgType.ACQUIRE or errno or reserved or src is None or dst is None:
            return None
        if v[15] != 2 or not is_whole(octets, words):
            return None
        if proposal:
            try:
                Proposal.decode(proposal, head.size)
            except WireError:
                return None
        return cls(
            satype=satype, seq=seq, src=src, dst=dst, policy_type=v[16], dir=v[17],
            policy_id=v[18], priority=v[19], pid=pid, proposal=proposal,
        )  # fmt: skip

    def message(self, dialect: Dialect = LINUX) -> Message:
        """The same by way of the extensions, in the order of this dialect: the reference."""
        return Message(
            type=MsgType.ACQUIRE, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=extensions_of_acquire(self.said(dialect), dialect),
        )  # fmt: skip


class Expire(NamedTuple):
    """An EXPIRE: `fired` is LIFETIME_HARD or LIFETIME_SOFT, `limits` what that one says."""

    satype: int
    spi: int
    src: Place
    dst: Place
    fired: int = ExtType.LIFETIME_HARD
    limits: Limits = NO_LIMITS
    current: Limits = NO_LIMITS
    seq: int = 0
    pid: int = 0
    replay: int = 0
    state: int = 0
    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    mode: int = 0
    reqid: int = 0
    sequence: int = 0

    def said(self, dialect: Dialect) -> Self:
        """The record as this dialect can tell it; see `hot_bsd.said_of_sa`."""
        if dialect is LINUX:
            return self
        said = self._replace(**hot_bsd.said_of_sa(self, dialect))
        return said if dialect.has_policies else said._replace(sequence=0)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the record. A value out of range raises WireError."""
        if self.fired not in _LIFETIMES:
            raise WireError("sadb_lifetime", f"type {self.fired} does not expire")
        if dialect is not LINUX:
            said = self.said(dialect)
            if said.replay > dialect.window_max:
                return said.message(dialect).encode(dialect)
            return hot_bsd.encode_expire(said, dialect)
        layout = _EXPIRE[size(self.src, self.dst), ExtType(self.fired)]
        return layout.pack(
            MsgType.EXPIRE, 0, self.satype, layout.size // UNIT_OCTETS, 0, self.seq, self.pid,
            big_endian(self.spi, 4), self.replay, self.state, self.auth, self.encrypt,
            self.flags, *self.limits, *self.current, *flat(self.src), *flat(self.dst), self.mode,
            self.sequence, self.reqid,
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self | None:
        """Read the record, or None when it has another form."""
        if dialect is not LINUX:
            fields = hot_bsd.decode_expire(octets, dialect)
            return None if fields is None else cls(**fields)
        for (_, exttype), layout in _EXPIRE.items():
            if len(octets) == layout.size and (v := layout.unpack(octets)) is not None:
                fired = exttype
                break
        else:
            return None
        kind, errno, satype, words, reserved, seq, pid = v[:7]
        src, dst = place(*v[21:25]), place(*v[25:29])
        if kind != MsgType.EXPIRE or errno or reserved or src is None or dst is None:
            return None
        if not is_whole(octets, words):
            return None
        return cls(
            satype=satype, spi=int.from_bytes(v[7], "big"), src=src, dst=dst, fired=fired,
            limits=v[13:17], current=v[17:21], seq=seq, pid=pid, replay=v[8], state=v[9],
            auth=v[10], encrypt=v[11], flags=v[12], mode=v[29], sequence=v[30], reqid=v[31],
        )  # fmt: skip

    def message(self, dialect: Dialect = LINUX) -> Message:
        """The same by way of the extensions, in the order of this dialect: the reference."""
        return Message(
            type=MsgType.EXPIRE, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=extensions_of_expire(self.said(dialect), dialect),
        )  # fmt: skip
