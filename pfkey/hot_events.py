"""The notices that come by the thousand, by precompiled struct: ACQUIRE and EXPIRE.

As in `hot`: same octets as `message.Message` builds, in the order of Linux, and `decode` returns
None for any record that is not exactly of that form.
"""

from typing import NamedTuple, Self

from pfkey.codec import Layout
from pfkey.const import UNIT_OCTETS, Dir, ExtType, MsgType, PolicyType
from pfkey.errors import WireError
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.hot import (
    BASE,
    LIMITS,
    NO_LIMITS,
    POLICY,
    SA,
    SA2,
    Limits,
    Place,
    addresses,
    big_endian,
    flat,
    is_whole,
    lifetime_extension,
    lifetime_segment,
    pair_segments,
    place,
    size,
)
from pfkey.message import Extension, Message
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

    def encode(self) -> bytes:
        """Build the record. A value out of range raises WireError."""
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
    def decode(cls, octets: bytes) -> Self | None:
        """Read the record, or None when it has another form."""
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

    def message(self) -> Message:
        """The same by way of the extensions: the reference."""
        policy = Policy(
            type=self.policy_type, dir=self.dir, id=self.policy_id, priority=self.priority
        )
        extensions: tuple[Extension, ...] = (*addresses(self.src, self.dst), policy)
        if self.proposal:
            extensions += (Proposal.decode(self.proposal),)
        return Message(
            type=MsgType.ACQUIRE, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=extensions,
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

    def encode(self) -> bytes:
        """Build the record. A value out of range raises WireError."""
        if self.fired not in _LIFETIMES:
            raise WireError("sadb_lifetime", f"type {self.fired} does not expire")
        layout = _EXPIRE[size(self.src, self.dst), ExtType(self.fired)]
        return layout.pack(
            MsgType.EXPIRE, 0, self.satype, layout.size // UNIT_OCTETS, 0, self.seq, self.pid,
            big_endian(self.spi, 4), self.replay, self.state, self.auth, self.encrypt,
            self.flags, *self.limits, *self.current, *flat(self.src), *flat(self.dst), self.mode,
            self.sequence, self.reqid,
        )  # fmt: skip

    @classmethod
    def decode(cls, octets: bytes) -> Self | None:
        """Read the record, or None when it has another form."""
        found = next(
            (
                (fired, values)
                for (_, fired), layout in _EXPIRE.items()
                if len(octets) == layout.size and (values := layout.unpack(octets)) is not None
            ),
            None,
        )
        if found is None:
            return None
        fired, v = found
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

    def message(self) -> Message:
        """The same by way of the extensions: the reference."""
        return Message(
            type=MsgType.EXPIRE, satype=self.satype, seq=self.seq, pid=self.pid,
            extensions=(
                Sa(spi=self.spi, replay=self.replay, state=self.state, auth=self.auth,
                   encrypt=self.encrypt, flags=self.flags),
                lifetime_extension(self.fired, self.limits),
                lifetime_extension(ExtType.LIFETIME_CURRENT, self.current),
                *addresses(self.src, self.dst),
                Sa2(mode=self.mode, reqid=self.reqid, sequence=self.sequence),
            ),
        )  # fmt: skip
