"""Hypothesis strategies for every extension, for messages, and for mutations of real ones.

Each takes the dialect whose numbers may occur; values are those that survive its wire.
"""

from functools import cache

from hypothesis import strategies as st

from pfkey.base import Unknown
from pfkey.const import ExtType, IdentType, Mode
from pfkey.dialect import LINUX, Dialect, Numbers
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Comb, Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.ext_x_bsd import (
    Counter,
    Credential,
    Iface,
    IfHwOffload,
    Protocol,
    Rdomain,
    Replay,
    Tag,
)
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTFrag, NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
packed4 = st.binary(min_size=4, max_size=4)
packed6 = st.binary(min_size=16, max_size=16)
packed = packed4 | packed6
pairs = st.tuples(packed4, packed4) | st.tuples(packed6, packed6)

_E = ExtType
ADDRESS_TYPES = (
    _E.ADDRESS_SRC, _E.ADDRESS_DST, _E.ADDRESS_PROXY, _E.X_NAT_T_OA, _E.X_NAT_T_OAI,
    _E.X_NAT_T_OAR, _E.X_NEW_ADDRESS_SRC, _E.X_NEW_ADDRESS_DST, _E.X_SRC_MASK, _E.X_DST_MASK,
    _E.X_SRC_FLOW, _E.X_DST_FLOW, _E.X_DST2,
)  # fmt: skip
LIFETIME_TYPES = (
    _E.LIFETIME_CURRENT, _E.LIFETIME_HARD, _E.LIFETIME_SOFT, _E.X_LFT_CUR_SW_OFFL,
    _E.X_LFT_CUR_HW_OFFL, _E.X_LIFETIME_LASTUSE,
)  # fmt: skip
WORD_TYPES = (_E.X_REPLAY_WINDOW, _E.X_SA_REPLAY, _E.X_OPENBSD_POLICY, _E.X_TAP, _E.X_MTU)
CREDENTIAL_TYPES = (
    _E.X_LOCAL_CREDENTIALS, _E.X_REMOTE_CREDENTIALS, _E.X_LOCAL_AUTH, _E.X_REMOTE_AUTH,
)  # fmt: skip


def numbers(registry: Numbers, most: int = 0xFF) -> st.SearchStrategy[int]:
    """Our numbers for all that a field of theirs can hold, those with a name more often."""
    named = st.sampled_from(sorted(registry.named) or [0])
    return (named | st.integers(0, most)).map(registry.ours)


def windows(dialect: Dialect) -> st.SearchStrategy[int]:
    return u8.map(lambda units: units * dialect.window_unit)


def sas(exttype: int = _E.SA, dialect: Dialect = LINUX) -> st.SearchStrategy[Sa]:
    return st.builds(
        Sa, spi=u32, replay=windows(dialect), state=u8, auth=numbers(dialect.auth),
        encrypt=numbers(dialect.encrypt), flags=u32.map(dialect.flags_in),
        exttype=st.just(exttype),
    )  # fmt: skip


def lifetimes(exttype: int) -> st.SearchStrategy[Lifetime]:
    return st.builds(
        Lifetime, exttype=st.just(exttype), allocations=u32, octets=u64, addtime=u64, usetime=u64
    )


@st.composite
def addresses(
    draw: st.DrawFn, exttype: int, address: bytes | None = None, dialect: Dialect = LINUX
) -> Address:
    where = draw(packed) if address is None else address
    is_v6 = len(where) == 16
    is_bare = bool(dialect.address)
    return Address(
        exttype=exttype,
        address=where,
        prefixlen=8 * len(where) if is_bare else draw(st.integers(0, 8 * len(where))),
        proto=0 if is_bare else draw(u8),
        port=draw(u16),
        flowinfo=draw(u32) if is_v6 else 0,
        scope_id=draw(u32) if is_v6 else 0,
    )


@st.composite
def keys(draw: st.DrawFn, exttype: int) -> Key:
    octets = draw(st.binary(max_size=64))
    bits = 8 * len(octets) - (draw(st.integers(0, 7)) if octets else 0)
    return Key(exttype=exttype, bits=bits, key=octets)


def texts(least: int = 0) -> st.SearchStrategy[bytes]:
    text = st.binary(min_size=least, max_size=40)
    return text.map(lambda octets: octets.replace(b"\0", b"0"))


@st.composite
def idents(draw: st.DrawFn, exttype: int, dialect: Dialect = LINUX) -> Ident:
    kind = draw(numbers(dialect.idents, 0xFFFF))
    if kind == IdentType.X_ADDR:
        where, port = draw(packed), draw(u16)
        return Ident(exttype=exttype, kind=kind, id=draw(u64), address=where, port=port)
    return Ident(exttype=exttype, kind=kind, id=draw(u64), text=draw(texts()))


def sensitivities() -> st.SearchStrategy[Sensitivity]:
    bitmap = st.lists(u64, max_size=3).map(tuple)
    return st.builds(
        Sensitivity, dpd=u32, sens_level=u8, integ_level=u8, sens_bitmap=bitmap,
        integ_bitmap=bitmap,
    )  # fmt: skip


def combs(dialect: Dialect = LINUX) -> st.SearchStrategy[Comb]:
    return st.builds(
        Comb, auth=numbers(dialect.auth), encrypt=numbers(dialect.encrypt), flags=u16,
        auth_minbits=u16, auth_maxbits=u16, encrypt_minbits=u16, encrypt_maxbits=u16,
        soft_allocations=u32, hard_allocations=u32, soft_bytes=u64, hard_bytes=u64,
        soft_addtime=u64, hard_addtime=u64, soft_usetime=u64, hard_usetime=u64,
    )  # fmt: skip


def proposals(dialect: Dialect = LINUX) -> st.SearchStrategy[Proposal]:
    offered = st.lists(combs(dialect), max_size=4).map(tuple)
    return st.builds(Proposal, replay=u8, combs=offered)


def supporteds(exttype: int, registry: Numbers) -> st.SearchStrategy[Supported]:
    row = st.builds(SupportedAlgorithm, numbers(registry), u8, u16, u16)
    return st.builds(
        Supported, exttype=st.just(exttype), algorithms=st.lists(row, max_size=12).map(tuple)
    )


@st.composite
def requests(draw: st.DrawFn, dialect: Dialect = LINUX) -> IpsecRequest:
    mode = draw(numbers(dialect.modes))
    pair = draw(pairs if mode == Mode.TUNNEL else st.none() | pairs)
    return IpsecRequest(
        proto=draw(u16),
        mode=mode,
        level=draw(u8),
        reqid=draw(st.integers(0, dialect.reqid_max)),
        src=pair[0] if pair else None,
        dst=pair[1] if pair else None,
        src_port=draw(u16) if pair else 0,
        dst_port=draw(u16) if pair else 0,
    )


def policies(dialect: Dialect = LINUX) -> st.SearchStrategy[Policy]:
    return st.builds(
        Policy, type=u16, dir=numbers(dialect.dirs), id=u32,
        priority=u32 if dialect.has_priority else st.just(0),
        requests=st.lists(requests(dialect), max_size=4).map(tuple),
        scope=u8 if dialect.has_scope else st.just(0),
    )  # fmt: skip


def km_addresses() -> st.SearchStrategy[KmAddress]:
    return st.builds(
        lambda pair, here, there: KmAddress(
            local=pair[0], remote=pair[1], local_port=here, remote_port=there
        ),
        pairs, u16, u16,
    )  # fmt: skip


def protocols(exttype: int, dialect: Dialect) -> st.SearchStrategy[Protocol]:
    proto = numbers(dialect.satypes) if exttype == _E.X_SATYPE2 else u8
    return st.builds(Protocol, exttype=st.just(exttype), proto=proto, direction=u8, flags=u8)


def whole_words(most: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, most).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))


def unknowns() -> st.SearchStrategy[Unknown]:
    """Extensions without a name, which Linux skips."""

    def whole(exttype: int, words: int, octets: bytes) -> Unknown:
        head = words.to_bytes(2, "little") + exttype.to_bytes(2, "little")
        return Unknown(exttype=exttype, octets=head + octets[: 8 * words - 4])

    data = st.binary(min_size=28, max_size=28)
    nameless = st.integers(1, 2**16 - 1).filter(lambda n: n not in LINUX.extensions.named)
    return st.builds(whole, nameless, st.integers(1, 4), data)


def _all(dialect: Dialect) -> dict[int, st.SearchStrategy[Extension]]:
    """Of every type there is. `dialect` is the one inside a message of an SA type."""
    return {
        **{t: sas(t, dialect) for t in (_E.SA, _E.X_OPENBSD_SA2)},
        **{t: lifetimes(t) for t in LIFETIME_TYPES},
        **{t: addresses(t, dialect=dialect) for t in ADDRESS_TYPES},
        **{t: keys(t) for t in (_E.KEY_AUTH, _E.KEY_ENCRYPT)},
        **{t: idents(t, dialect) for t in (_E.IDENTITY_SRC, _E.IDENTITY_DST)},
        _E.SENSITIVITY: sensitivities(),
        _E.PROPOSAL: proposals(dialect),
        _E.SUPPORTED_AUTH: supporteds(_E.SUPPORTED_AUTH, dialect.auth),
        _E.SUPPORTED_ENCRYPT: supporteds(_E.SUPPORTED_ENCRYPT, dialect.encrypt),
        _E.X_SUPPORTED_COMP: supporteds(_E.X_SUPPORTED_COMP, dialect.compress),
        _E.SPIRANGE: st.builds(SpiRange, min=u32, max=u32),
        _E.X_KMPRIVATE: st.builds(
            KmPrivate, data=st.integers(0, 3).map(lambda words: bytes(8 * words))
        ),
        _E.X_POLICY: policies(dialect),
        _E.X_SA2: st.builds(Sa2, mode=numbers(dialect.modes), reqid=u32, sequence=u32),
        _E.X_NAT_T_TYPE: st.builds(NatTType, type=u8),
        **{
            t: st.builds(NatTPort, exttype=st.just(t), port=u16)
            for t in (_E.X_NAT_T_SPORT, _E.X_NAT_T_DPORT, _E.X_UDPENCAP)
        },
        _E.X_NAT_T_FRAG: st.builds(NatTFrag, octets=u16),
        _E.X_SEC_CTX: st.builds(SecCtx, doi=u8, alg=u8, context=st.binary(max_size=40)),
        _E.X_KMADDRESS: km_addresses(),
        _E.X_FILTER: st.builds(
            Filter, family=u16, saddr=packed6, daddr=packed6, splen=u8, dplen=u8
        ),
        **{t: st.builds(Word, exttype=st.just(t), value=u32) for t in WORD_TYPES},
        **{
            t: protocols(t, dialect) for t in (_E.X_PROTOCOL, _E.X_FLOW_TYPE, _E.X_SATYPE2)
        },
        **{
            t: st.builds(Credential, exttype=st.just(t), kind=u16, secret=whole_words(4))
            for t in CREDENTIAL_TYPES
        },
        _E.X_TAG: st.builds(Tag, text=texts()),
        _E.X_RDOMAIN: st.builds(Rdomain, before=u16, after=u16),
        _E.X_REPLAY: st.builds(Replay, count=u64),
        _E.X_COUNTER: st.builds(
            Counter, ipackets=u64, opackets=u64, ibytes=u64, obytes=u64, idrops=u64, odrops=u64,
            idecompbytes=u64, ouncompbytes=u64,
        ),
        _E.X_IFACE: st.builds(Iface, unit=u32, direction=u8),
        _E.X_IF_HW_OFFL: st.builds(
            IfHwOffload, name=texts().map(lambda text: text[:32]), flags=u32
        ),
    }  # fmt: skip


@cache
def by_type(dialect: Dialect = LINUX) -> dict[int, st.SearchStrategy[Extension]]:
    """A strategy for each extension of a dialect, by our number."""
    return {t: s for t, s in _all(dialect).items() if t in dialect.extensions}


EVERY_TYPE = frozenset(_all(LINUX))


def extensions(dialect: Dialect = LINUX) -> st.SearchStrategy[Extension]:
    """Any extension of any type that the dialect has."""
    return st.sampled_from(sorted(by_type(dialect))).flatmap(by_type(dialect).__getitem__)


@st.composite
def messages(draw: st.DrawFn, dialect: Dialect = LINUX) -> Message:
    """Any message that can be built: each known type at most once, any order."""
    kind = draw(st.sampled_from(sorted(set(dialect.messages.named.values()) - {0})))
    satype = draw(u8 if kind in dialect.not_satypes else numbers(dialect.satypes))
    strategy = by_type(dialect.of_satype(satype))
    exttypes = draw(st.lists(st.sampled_from(sorted(strategy)), unique=True, max_size=9))
    parts: list[Extension] = [draw(strategy[exttype]) for exttype in exttypes]
    if dialect.skips_unknown and draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), draw(unknowns()))
    return Message(
        type=kind,
        satype=satype,
        errno=draw(numbers(dialect.errnos)),
        seq=draw(u32),
        pid=draw(u32),
        reserved=draw(st.just(0) | u16),
        extensions=tuple(parts),
    )


@st.composite
def mutations(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    """Octets near a real message: some replaced, some cut, some added, some moved."""
    octets = bytearray(draw(of))
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.integers(0, 4))
        place = draw(st.integers(0, max(0, len(octets) - 1)))
        if kind == 0 and octets:
            octets[place] = draw(u8)
        elif kind == 1 and octets:
            octets[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            del octets[place : place + draw(st.integers(1, 16))]
        elif kind == 3:
            octets[place:place] = draw(st.binary(min_size=1, max_size=16))
        else:
            start = place // 8 * 8
            octets += octets[start : start + 8 * draw(st.integers(1, 5))]
    if draw(st.booleans()) and len(octets) >= 16:
        octets[4:6] = (len(octets) // 8 & 0xFFFF).to_bytes(2, "little")
    return bytes(octets)
