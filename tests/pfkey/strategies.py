"""Hypothesis strategies for every extension, for messages, and for mutations of real ones."""

from hypothesis import strategies as st

from pfkey.base import Unknown
from pfkey.const import ExtType, Mode, MsgType, SaType
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Comb, Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
packed4 = st.binary(min_size=4, max_size=4)
packed6 = st.binary(min_size=16, max_size=16)
packed = packed4 | packed6
pairs = st.tuples(packed4, packed4) | st.tuples(packed6, packed6)

ADDRESS_TYPES = (
    ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.ADDRESS_PROXY, ExtType.X_NAT_T_OA,
)  # fmt: skip
LIFETIME_TYPES = (ExtType.LIFETIME_CURRENT, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT)


def sas() -> st.SearchStrategy[Sa]:
    return st.builds(Sa, spi=u32, replay=u8, state=u8, auth=u8, encrypt=u8, flags=u32)


def lifetimes(exttype: int) -> st.SearchStrategy[Lifetime]:
    return st.builds(
        Lifetime, exttype=st.just(exttype), allocations=u32, octets=u64, addtime=u64, usetime=u64
    )


@st.composite
def addresses(draw: st.DrawFn, exttype: int, address: bytes | None = None) -> Address:
    where = draw(packed) if address is None else address
    is_v6 = len(where) == 16
    return Address(
        exttype=exttype,
        address=where,
        prefixlen=draw(st.integers(0, 8 * len(where))),
        proto=draw(u8),
        port=draw(u16),
        flowinfo=draw(u32) if is_v6 else 0,
        scope_id=draw(u32) if is_v6 else 0,
    )


@st.composite
def keys(draw: st.DrawFn, exttype: int) -> Key:
    octets = draw(st.binary(max_size=64))
    bits = 8 * len(octets) - (draw(st.integers(0, 7)) if octets else 0)
    return Key(exttype=exttype, bits=bits, key=octets)


def idents(exttype: int) -> st.SearchStrategy[Ident]:
    text = st.binary(max_size=40).map(lambda octets: octets.replace(b"\0", b"0"))
    return st.builds(Ident, exttype=st.just(exttype), kind=u16, id=u64, text=text)


def sensitivities() -> st.SearchStrategy[Sensitivity]:
    bitmap = st.lists(u64, max_size=3).map(tuple)
    return st.builds(
        Sensitivity, dpd=u32, sens_level=u8, integ_level=u8, sens_bitmap=bitmap,
        integ_bitmap=bitmap,
    )  # fmt: skip


def combs() -> st.SearchStrategy[Comb]:
    return st.builds(
        Comb, auth=u8, encrypt=u8, flags=u16, auth_minbits=u16, auth_maxbits=u16,
        encrypt_minbits=u16, encrypt_maxbits=u16, soft_allocations=u32, hard_allocations=u32,
        soft_bytes=u64, hard_bytes=u64, soft_addtime=u64, hard_addtime=u64, soft_usetime=u64,
        hard_usetime=u64,
    )  # fmt: skip


def proposals() -> st.SearchStrategy[Proposal]:
    return st.builds(Proposal, replay=u8, combs=st.lists(combs(), max_size=4).map(tuple))


def supporteds(exttype: int) -> st.SearchStrategy[Supported]:
    row = st.builds(SupportedAlgorithm, u8, u8, u16, u16)
    return st.builds(
        Supported, exttype=st.just(exttype), algorithms=st.lists(row, max_size=12).map(tuple)
    )


@st.composite
def requests(draw: st.DrawFn) -> IpsecRequest:
    mode = draw(st.sampled_from(Mode) | u8)
    pair = draw(pairs if mode == Mode.TUNNEL else st.none() | pairs)
    return IpsecRequest(
        proto=draw(u16),
        mode=mode,
        level=draw(u8),
        reqid=draw(u32),
        src=pair[0] if pair else None,
        dst=pair[1] if pair else None,
        src_port=draw(u16) if pair else 0,
        dst_port=draw(u16) if pair else 0,
    )


def policies() -> st.SearchStrategy[Policy]:
    return st.builds(
        Policy, type=u16, dir=u8, id=u32, priority=u32,
        requests=st.lists(requests(), max_size=4).map(tuple),
    )  # fmt: skip


def km_addresses() -> st.SearchStrategy[KmAddress]:
    return st.builds(
        lambda pair, here, there: KmAddress(
            local=pair[0], remote=pair[1], local_port=here, remote_port=there
        ),
        pairs, u16, u16,
    )  # fmt: skip


def sec_ctxs() -> st.SearchStrategy[SecCtx]:
    return st.builds(SecCtx, doi=u8, alg=u8, context=st.binary(max_size=40))


def filters() -> st.SearchStrategy[Filter]:
    return st.builds(Filter, family=u16, saddr=packed6, daddr=packed6, splen=u8, dplen=u8)


def unknowns() -> st.SearchStrategy[Unknown]:
    def whole(exttype: int, words: int, octets: bytes) -> Unknown:
        head = words.to_bytes(2, "little") + exttype.to_bytes(2, "little")
        return Unknown(exttype=exttype, octets=head + octets[: 8 * words - 4])

    data = st.binary(min_size=28, max_size=28)
    return st.builds(whole, st.integers(max(ExtType) + 1, 2**16 - 1), st.integers(1, 4), data)


BY_TYPE: dict[int, st.SearchStrategy[Extension]] = {
    ExtType.SA: sas(),
    **{t: lifetimes(t) for t in LIFETIME_TYPES},
    **{t: addresses(t) for t in ADDRESS_TYPES},
    **{t: keys(t) for t in (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT)},
    **{t: idents(t) for t in (ExtType.IDENTITY_SRC, ExtType.IDENTITY_DST)},
    ExtType.SENSITIVITY: sensitivities(),
    ExtType.PROPOSAL: proposals(),
    **{t: supporteds(t) for t in (ExtType.SUPPORTED_AUTH, ExtType.SUPPORTED_ENCRYPT)},
    ExtType.SPIRANGE: st.builds(SpiRange, min=u32, max=u32),
    ExtType.X_KMPRIVATE: st.builds(
        KmPrivate, data=st.integers(0, 3).map(lambda words: bytes(8 * words))
    ),
    ExtType.X_POLICY: policies(),
    ExtType.X_SA2: st.builds(Sa2, mode=u8, reqid=u32, sequence=u32),
    ExtType.X_NAT_T_TYPE: st.builds(NatTType, type=u8),
    ExtType.X_NAT_T_SPORT: st.builds(NatTPort, exttype=st.just(ExtType.X_NAT_T_SPORT), port=u16),
    ExtType.X_NAT_T_DPORT: st.builds(NatTPort, exttype=st.just(ExtType.X_NAT_T_DPORT), port=u16),
    ExtType.X_SEC_CTX: sec_ctxs(),
    ExtType.X_KMADDRESS: km_addresses(),
    ExtType.X_FILTER: filters(),
}


def extensions() -> st.SearchStrategy[Extension]:
    """Any extension of any known type."""
    return st.sampled_from(sorted(BY_TYPE)).flatmap(lambda exttype: BY_TYPE[exttype])


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Any message that can be built: each known type at most once, any order."""
    exttypes = draw(st.lists(st.sampled_from(sorted(BY_TYPE)), unique=True, max_size=9))
    parts: list[Extension] = [draw(BY_TYPE[exttype]) for exttype in exttypes]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), draw(unknowns()))
    return Message(
        type=draw(st.sampled_from([t for t in MsgType if t])),
        satype=draw(st.sampled_from(SaType) | u8),
        errno=draw(u8),
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
