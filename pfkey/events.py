"""What a PF_KEY socket hears without having asked: notices of the engine, and what others do.

ACQUIRE and EXPIRE come to those who registered (RFC 2367 sections 3.1.6 to 3.1.8), changes by
others to everybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from pfkey.addresses import prefix, render_address
from pfkey.base import Header, header
from pfkey.const import HEADER_OCTETS, MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.entries import SadEntry, SpdEntry
from pfkey.errors import WireError
from pfkey.ext_prop import Proposal
from pfkey.ext_x_policy import Policy
from pfkey.message import Message
from pfkey.neutral import understood


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquire:
    """An SA is wanted: packets wait for it.

    Answer with GETSPI, UPDATE and ADD that carry this `seq`, or with `acquire_failed`.

    Attributes:
        satype: what kind of SA.
        seq: the number of the answer.
        src, dst: the ends of the SA.
        policy: the policy that wants it; SPDGET by `policy.id` tells mode and request id. None
            where the system does not say.
        proposal: what the engine would take, best first; None for IPComp.
        message: all of it.
    """

    satype: int
    seq: int
    src: str
    dst: str
    policy: Policy | None
    proposal: Proposal | None
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """A lifetime of an SA has ended: with `is_hard` the SA is gone, else it wants a successor."""

    entry: SadEntry
    is_hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExpire:
    """A policy's lifetime has ended: it is gone."""

    entry: SpdEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMapping:
    """The peer of an ESP-in-UDP SA now sends from another address or port (RFC 3948).

    Attributes:
        satype, spi: which SA.
        src, src_port: where its packets came from until now.
        new_src, new_port: where they come from.
        message: all of it.
    """

    satype: int
    spi: int
    src: str
    src_port: int
    new_src: str
    new_port: int
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Any other message: what somebody else has changed, or, promiscuous, all that passes.

    Attributes:
        message: as it came; a copy that the system wrapped is unwrapped.
    """

    message: Message

    @property
    def type(self) -> int:
        """Its MsgType."""
        return self.message.type


@dataclass(frozen=True, slots=True)
class Lost:
    """Here `count` messages are missing: we were too slow. Look at the databases again."""

    count: int


Event: TypeAlias = Acquire | Expire | PolicyExpire | NewMapping | Notice | Lost

_TYPES: dict[type[Event], frozenset[int]] = {
    Acquire: frozenset({MsgType.ACQUIRE}),
    Expire: frozenset({MsgType.EXPIRE}),
    PolicyExpire: frozenset({MsgType.X_SPDEXPIRE}),
    NewMapping: frozenset({MsgType.X_NAT_T_NEW_MAPPING}),
    Lost: frozenset(),
}
_TYPES[Notice] = frozenset(MsgType) - frozenset().union(*_TYPES.values())


def types_of(kinds: Iterable[type[Event]]) -> frozenset[int]:
    """The message types that make events of these classes."""
    return frozenset().union(*(_TYPES[kind] for kind in kinds))


def decode(octets: bytes, dialect: Dialect = LINUX) -> Event:
    """Read a message as an event. One without the parts of its class is a Notice.

    Raises:
        WireError: that is no message.
    """
    base = header(octets, dialect, is_request=False)
    if base.type == MsgType.X_PROMISC and len(octets) > HEADER_OCTETS:
        return Notice(message=Message.decode(octets[HEADER_OCTETS:], dialect))
    message = Message.decode(octets, dialect)
    if not base.errno:
        try:
            event = _notice_of_engine(base, message, octets)
        except WireError:
            event = None
        if event is not None:
            return event
    return Notice(message=message)


def _notice_of_engine(base: Header, message: Message, octets: bytes) -> Event | None:
    match base.type:
        case MsgType.ACQUIRE:
            return _acquire(message)
        case MsgType.EXPIRE:
            entry = SadEntry.of(understood(message), octets)
            return Expire(entry=entry, is_hard=message.hard is not None)
        case MsgType.X_SPDEXPIRE:
            return PolicyExpire(entry=SpdEntry.of(message, octets))
        case MsgType.X_NAT_T_NEW_MAPPING:
            return _mapping(message)
    return None


def _acquire(message: Message) -> Acquire | None:
    src, dst = message.src, message.dst
    if src is None or dst is None:
        return None
    return Acquire(
        satype=message.satype, seq=message.seq, src=render_address(src.address, src.scope_id),
        dst=render_address(dst.address, dst.scope_id), policy=message.policy,
        proposal=message.proposal, message=message,
    )  # fmt: skip


def _mapping(message: Message) -> NewMapping | None:
    """The old place is in SRC and SPORT, the new one in DST and DPORT."""
    sa, src, dst = message.sa, message.src, message.dst
    sport, dport = message.nat_t_sport, message.nat_t_dport
    if sa is None or src is None or dst is None or sport is None or dport is None:
        return None
    return NewMapping(
        satype=message.satype, spi=sa.spi, src=prefix(src), src_port=sport.port,
        new_src=prefix(dst), new_port=dport.port, message=message,
    )  # fmt: skip
