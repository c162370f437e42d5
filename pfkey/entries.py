"""SAD and SPD entries as values: what requests are made of, and what replies say.

One class serves both ways: what a dump yields can be added elsewhere. Addresses are text
(`10.1.1.1`, `fe80::1%2`), prefixes too (`10.0.1.0/24`); SPIs, ports and algorithms are plain
numbers whatever their byte order on the wire; keys are octets and never in a `repr`. Entries of
the usual form are read by `pfkey.hot`, the others by way of `pfkey.message`: same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from pfkey import hot
from pfkey.addresses import address_extension, pair, prefix, render_address
from pfkey.const import (
    NATT_PORT,
    UDP_ENCAP_ESPINUDP,
    UNSPEC_PROTO,
    ExtType,
    Mode,
    SaState,
    SaType,
)
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_supported import SupportedAlgorithm
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.hot_parts import Place
from pfkey.message import Extension, Message
from pfkey.neutral import understood

WINDOW_SAID = 255  # the most that sadb_sa_replay can say


@dataclass(frozen=True, slots=True)
class Limits:
    """A lifetime: limits where it is hard or soft (0 does not limit), else what happened so far.

    `allocations` counts packets or flows, as the system does; `addtime` and `usetime` are seconds:
    spans in limits, seconds since 1970 in what happened (RFC 2367 section 2.3.2).
    """

    allocations: int = 0
    octets: int = 0
    addtime: int = 0
    usetime: int = 0

    @classmethod
    def of(cls, found: Lifetime | None) -> Self | None:
        """What an extension says."""
        if found is None:
            return None
        return cls(found.allocations, found.octets, found.addtime, found.usetime)

    def extension(self, exttype: int) -> Lifetime:
        """The extension that says so."""
        return Lifetime(
            exttype=exttype, allocations=self.allocations, octets=self.octets,
            addtime=self.addtime, usetime=self.usetime,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NatT:
    """ESP in UDP (RFC 3948): the ports, and the peer's own address where it is known."""

    src_port: int = NATT_PORT
    dst_port: int = NATT_PORT
    type: int = UDP_ENCAP_ESPINUDP
    original_address: str | None = None

    def extensions(self) -> tuple[Extension, ...]:
        """The extensions that say so."""
        found: tuple[Extension, ...] = (
            NatTType(type=self.type),
            NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=self.src_port),
            NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=self.dst_port),
        )
        if self.original_address is None:
            return found
        return (*found, address_extension(ExtType.X_NAT_T_OA, self.original_address))


_SA_FIELDS = frozenset(
    {
        ExtType.SA, ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.KEY_AUTH,
        ExtType.KEY_ENCRYPT, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT,
        ExtType.LIFETIME_CURRENT, ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT,
        ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA, ExtType.X_REPLAY_WINDOW,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SadEntry:
    """An SA (RFC 4301 section 4.4.2), as ADD says it and as GET and DUMP show it.

    Attributes:
        satype: SaType.ESP, SaType.AH or SaType.X_IPCOMP.
        src, dst: numeric addresses.
        spi: the SPI, or the CPI of IPComp; a plain number.
        mode: Mode.TRANSPORT, Mode.TUNNEL, or Mode.ANY, which serves both.
        reqid: ties the SA to policies of level `unique`; 0 to none.
        encrypt, auth: numbers of algorithms, from `cipher`, `authenticator`, `compressor`.
        encrypt_key, auth_key: octets, salt or nonce included.
        replay: the replay window in packets; 0: no check.
        flags: SaFlag.
        state: SaState; requests say MATURE (RFC 2367 section 3.1.3).
        hard, soft: limits. One without the other is sent with the other unlimited.
        current: what happened so far, in replies.
        nat_t: ESP in UDP.
        src_port, dst_port: ports beside the addresses, which some key managers keep there.
        proto: the upper protocol beside the addresses; 255 any.
        sequence: in replies of some systems, the last sequence number.
        extra: further extensions, such as identities or a security context.
        octets: the message it was read from, keys included; None if it was made.
    """

    satype: int
    src: str
    dst: str
    spi: int
    mode: int = Mode.ANY
    reqid: int = 0
    encrypt: int = 0
    encrypt_key: bytes | None = field(default=None, repr=False)
    auth: int = 0
    auth_key: bytes | None = field(default=None, repr=False)
    replay: int = 0
    flags: int = 0
    state: int = SaState.MATURE
    hard: Limits | None = None
    soft: Limits | None = None
    current: Limits | None = None
    nat_t: NatT | None = None
    src_port: int = 0
    dst_port: int = 0
    proto: int = UNSPEC_PROTO
    sequence: int = 0
    extra: tuple[Extension, ...] = ()
    octets: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self:
        """Read a message that describes an SA: GETSPI, ADD, UPDATE, DELETE, GET, DUMP, EXPIRE.

        Raises:
            WireError: that is no message, or it lacks the SA or an address.
        """
        quick = hot.SaRecord.decode(octets, dialect)
        if quick is None:
            return cls.of(understood(Message.decode(octets, dialect)), octets)
        src, dst = quick.src, quick.dst
        return cls(
            satype=quick.satype, src=render_address(src.address), dst=render_address(dst.address),
            spi=quick.spi, mode=quick.mode, reqid=quick.reqid, encrypt=quick.encrypt,
            encrypt_key=quick.encrypt_key, auth=quick.auth, auth_key=quick.auth_key,
            replay=quick.replay, flags=quick.flags, state=quick.state, hard=Limits(*quick.hard),
            soft=Limits(*quick.soft), current=Limits(*quick.current), src_port=src.port,
            dst_port=dst.port, proto=dst.proto, sequence=quick.sequence, octets=octets,
        )  # fmt: skip

    @classmethod
    def of(cls, message: Message, octets: bytes | None = None) -> Self:
        """What a message says of an SA.

        Raises:
            WireError: it lacks the SA or an address.
        """
        sa, src, dst, sa2 = message.sa, message.src, message.dst, message.sa2
        if sa is None or src is None or dst is None:
            raise WireError("sadb_msg", "no SA, or no addresses, in what should describe an SA")
        nat = None
        if message.nat_t_type is not None and message.nat_t_type.type:
            sport, dport, oa = message.nat_t_sport, message.nat_t_dport, message.nat_t_oa
            nat = NatT(
                type=message.nat_t_type.type, src_port=sport.port if sport else 0,
                dst_port=dport.port if dport else 0, original_address=prefix(oa) or None,
            )  # fmt: skip
        encrypt, auth = message.key_encrypt, message.key_auth
        larger = message.ext(ExtType.X_REPLAY_WINDOW)
        window = larger.value if isinstance(larger, Word) else sa.replay
        return cls(
            satype=message.satype, src=render_address(src.address, src.scope_id),
            dst=render_address(dst.address, dst.scope_id), spi=sa.spi,
            mode=sa2.mode if sa2 else Mode.ANY, reqid=sa2.reqid if sa2 else 0,
            encrypt=sa.encrypt, encrypt_key=encrypt.key if encrypt else None,
            auth=sa.auth, auth_key=auth.key if auth else None, replay=window, flags=sa.flags,
            state=sa.state, hard=Limits.of(message.hard), soft=Limits.of(message.soft),
            current=Limits.of(message.current), nat_t=nat, src_port=src.port,
            dst_port=dst.port, proto=dst.proto, sequence=sa2.sequence if sa2 else 0,
            extra=tuple(e for e in message.extensions if e.exttype not in _SA_FIELDS),
            octets=octets,
        )  # fmt: skip

    def extensions(self) -> tuple[Extension, ...]:
        """What ADD and UPDATE carry, in the order of libipsec.

        Raises:
            MisuseError: an address is none, or the families differ.
        """
        found: list[Extension] = [
            Sa(spi=self.spi, replay=min(self.replay, WINDOW_SAID), state=self.state, auth=self.auth,
               encrypt=self.encrypt, flags=self.flags),
            Sa2(mode=self.mode, reqid=self.reqid),
            *pair(self.src, self.dst, proto=self.proto, src_port=self.src_port,
                  dst_port=self.dst_port),
        ]  # fmt: skip
        key = self.encrypt_key
        if key is None and self.encrypt and self.satype == SaType.ESP:
            key = b""  # ESP takes a key also where the algorithm has none
        if key is not None:
            found.append(Key(exttype=ExtType.KEY_ENCRYPT, bits=8 * len(key), key=key))
        if self.auth_key is not None:
            bits = 8 * len(self.auth_key)
            found.append(Key(exttype=ExtType.KEY_AUTH, bits=bits, key=self.auth_key))
        found += _limits(self.hard, self.soft)
        if self.nat_t is not None:
            found += self.nat_t.extensions()
        if self.replay > WINDOW_SAID:
            found.append(Word(exttype=ExtType.X_REPLAY_WINDOW, value=self.replay))
        return (*found, *self.extra)


def _limits(hard: Limits | None, soft: Limits | None) -> list[Lifetime]:
    """Both or none: every system refuses one without the other."""
    if hard is None and soft is None:
        return []
    return [
        (hard or Limits()).extension(ExtType.LIFETIME_HARD),
        (soft or Limits()).extension(ExtType.LIFETIME_SOFT),
    ]


def _place(place: Place) -> str:
    text = render_address(place.address)
    return text if place.prefixlen == 8 * len(place.address) else f"{text}/{place.prefixlen}"


_SPD_FIELDS = frozenset(
    {
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_POLICY, ExtType.LIFETIME_HARD,
        ExtType.LIFETIME_SOFT, ExtType.LIFETIME_CURRENT,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdEntry:
    """A policy and what it selects (RFC 4301 section 4.4.1).

    Attributes:
        src, dst: prefixes or addresses; empty where the system names none (a socket's policy).
        policy: made by `pfkey.policy.parse("out ipsec esp/transport//require")`; its `id` is the
            engine's.
        proto: the upper protocol; 255 any.
        src_port, dst_port: 0 any. Of ICMP, type and code.
        hard: `addtime` limits its age, `usetime` the time without use, in seconds.
        soft, current: in replies.
        extra: further extensions, such as a security context.
        octets: the message it was read from; None if it was made.
    """

    src: str
    dst: str
    policy: Policy
    proto: int = UNSPEC_PROTO
    src_port: int = 0
    dst_port: int = 0
    hard: Limits | None = None
    soft: Limits | None = None
    current: Limits | None = None
    extra: tuple[Extension, ...] = ()
    octets: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> int:
        """The number by which SPDGET and ACQUIRE name the policy."""
        return self.policy.id

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX) -> Self:
        """Read a message that describes a policy.

        Raises:
            WireError: that is no message, or it lacks the policy.
        """
        quick = hot.PolicyRecord.decode(octets, dialect)
        if quick is None:
            return cls.of(understood(Message.decode(octets, dialect)), octets)
        src, dst = quick.src, quick.dst
        return cls(
            src=_place(src), dst=_place(dst), proto=dst.proto, src_port=src.port,
            dst_port=dst.port, hard=Limits(*quick.hard), soft=Limits(*quick.soft),
            current=Limits(*quick.current), octets=octets,
            policy=Policy(
                type=quick.policy_type, dir=quick.dir, id=quick.id, priority=quick.priority,
                requests=quick.requests,
            ),
        )  # fmt: skip

    @classmethod
    def of(cls, message: Message, octets: bytes | None = None) -> Self:
        """What a message says of a policy.

        Raises:
            WireError: it lacks the policy.
        """
        src, dst, policy = message.src, message.dst, message.policy
        if policy is None:
            raise WireError("sadb_msg", "no policy in what should describe one")
        return cls(
            src=prefix(src), dst=prefix(dst), policy=policy,
            proto=dst.proto if dst else UNSPEC_PROTO, src_port=src.port if src else 0,
            dst_port=dst.port if dst else 0, hard=Limits.of(message.hard),
            soft=Limits.of(message.soft), current=Limits.of(message.current),
            extra=tuple(e for e in message.extensions if e.exttype not in _SPD_FIELDS),
            octets=octets,
        )  # fmt: skip

    def extensions(self) -> tuple[Extension, ...]:
        """What SPDADD and its kin carry, in the order of libipsec.

        Raises:
            MisuseError: an address is none, or the families differ.
        """
        hard = () if self.hard is None else (self.hard.extension(ExtType.LIFETIME_HARD),)
        return (
            *pair(self.src, self.dst, proto=self.proto, src_port=self.src_port,
                  dst_port=self.dst_port),
            *hard, self.policy, *self.extra,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Algorithms:
    """What the key engine can do, from the reply to REGISTER (RFC 2367 section 3.1.7)."""

    auth: Sequence[SupportedAlgorithm]
    encrypt: Sequence[SupportedAlgorithm]

    @classmethod
    def of(cls, message: Message) -> Self:
        """What a reply says; a list that is missing is empty."""
        auth, encrypt = message.supported_auth, message.supported_encrypt
        return cls(auth.algorithms if auth else (), encrypt.algorithms if encrypt else ())
