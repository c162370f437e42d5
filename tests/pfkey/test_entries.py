"""SAD and SPD entries: from values to messages and back, by either way of reading."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import hot
from pfkey.addresses import address_extension, pair, parse_address, render_address
from pfkey.const import ExtType, Mode, MsgType, SaType
from pfkey.entries import Limits, NatT, SadEntry, SpdEntry
from pfkey.errors import MisuseError, UnsupportedAlgorithmError, WireError
from pfkey.ext_x_linux import SecCtx
from pfkey.hot_parts import Place
from pfkey.message import Message
from pfkey.policy import parse
from pfkey.requests import authenticator, cipher, compressor, sa, spd
from tests.pfkey.strategies import messages, packed, policies, u8, u16, u32, u64

KEY = bytes(range(100, 116))
ENTRY = SadEntry(
    satype=SaType.ESP, src="10.1.1.1", dst="20.1.1.1", spi=0x2694, encrypt=12, encrypt_key=KEY,
    auth=5, auth_key=KEY * 2,
)  # fmt: skip

limits = st.builds(Limits, u32, u64, u64, u64)
nat_ts = st.builds(NatT, src_port=u16, dst_port=u16, type=st.integers(1, 255))


@st.composite
def sad_entries(draw: st.DrawFn) -> SadEntry:
    src = draw(packed)
    dst = draw(st.binary(min_size=len(src), max_size=len(src)))
    hard = draw(st.none() | limits)
    return SadEntry(
        satype=draw(u8), src=render_address(src), dst=render_address(dst), spi=draw(u32),
        mode=draw(u8), reqid=draw(u32), encrypt=draw(u8),
        encrypt_key=draw(st.binary(max_size=40)), auth=draw(u8),
        auth_key=draw(st.none() | st.binary(max_size=64)), replay=draw(u8), flags=draw(u32),
        state=draw(u8), hard=hard, soft=None if hard is None else draw(limits),
        nat_t=draw(st.none() | nat_ts), src_port=draw(u16), dst_port=draw(u16), proto=draw(u8),
    )  # fmt: skip


@st.composite
def spd_entries(draw: st.DrawFn) -> SpdEntry:
    src = draw(packed)
    dst = draw(st.binary(min_size=len(src), max_size=len(src)))
    bits = st.integers(0, 8 * len(src))

    def prefix(address: bytes) -> str:
        found, text = draw(bits), render_address(address)
        return text if found == 8 * len(address) else f"{text}/{found}"

    return SpdEntry(
        src=prefix(src), dst=prefix(dst), policy=draw(policies()), proto=draw(u8),
        src_port=draw(u16), dst_port=draw(u16), hard=draw(st.none() | limits),
    )  # fmt: skip


@given(sad_entries())
def test_an_sa_survives_the_wire(entry: SadEntry) -> None:
    assert SadEntry.decode(sa(MsgType.ADD, entry).encode()) == entry


@given(spd_entries())
def test_a_policy_survives_the_wire(entry: SpdEntry) -> None:
    assert SpdEntry.decode(spd(MsgType.X_SPDADD, entry).encode()) == entry


@given(messages().map(Message.encode))
def test_the_quick_way_of_reading_says_what_the_long_one_says(octets: bytes) -> None:
    for kind, quick in ((SadEntry, hot.SaRecord), (SpdEntry, hot.PolicyRecord)):
        if quick.decode(octets) is not None:
            assert kind.decode(octets) == kind.of(Message.decode(octets))


@given(sad_entries(), st.builds(tuple, st.lists(u64, min_size=4, max_size=4)))
def test_a_dumped_sa_is_read_alike_by_both_ways(
    entry: SadEntry, current: tuple[int, int, int, int]
) -> None:
    place = [
        Place(parse_address(one)[0], 8 * len(parse_address(one)[0]), entry.proto, port)
        for one, port in ((entry.src, entry.src_port), (entry.dst, entry.dst_port))
    ]
    record = hot.SaRecord(
        satype=entry.satype, spi=entry.spi, src=place[0], dst=place[1], encrypt=entry.encrypt,
        encrypt_key=entry.encrypt_key, encrypt_bits=8 * len(entry.encrypt_key or b""),
        current=(current[0] & 0xFFFFFFFF, *current[1:]), mode=entry.mode, reqid=entry.reqid,
    ).encode()  # fmt: skip
    assert hot.SaRecord.decode(record) is not None
    quick = SadEntry.decode(record)
    assert quick == SadEntry.of(Message.decode(record))
    assert quick.octets == record
    again = dataclasses.replace(quick, current=None)
    assert SadEntry.decode(sa(MsgType.ADD, quick).encode()) == again


@given(messages())
def test_extensions_without_a_field_are_kept(message: Message) -> None:
    """Nothing of a message is lost on the way through an entry."""
    if message.sa is None or message.src is None or message.dst is None:
        with pytest.raises(WireError, match="no SA, or no addresses"):
            SadEntry.of(message)
        return
    fields = {
        ExtType.SA, ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.KEY_AUTH,
        ExtType.KEY_ENCRYPT, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT,
        ExtType.LIFETIME_CURRENT, ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT,
        ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA,
    }  # fmt: skip
    others = [e for e in message.extensions if e.exttype not in fields]
    assert list(SadEntry.of(message).extra) == others


def test_extensions_stand_in_the_order_of_libipsec() -> None:
    entry = dataclasses.replace(
        ENTRY, hard=Limits(addtime=60), nat_t=NatT(original_address="10.9.9.9"),
        extra=(SecCtx(doi=1, alg=1, context=b"x\0"),),
    )  # fmt: skip
    assert [e.exttype for e in entry.extensions()] == [
        ExtType.SA, ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.KEY_ENCRYPT,
        ExtType.KEY_AUTH, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT, ExtType.X_NAT_T_TYPE,
        ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA, ExtType.X_SEC_CTX,
    ]  # fmt: skip


def test_esp_always_carries_an_encryption_key() -> None:
    """Every system wants the extension, also of an algorithm without a key."""
    null = dataclasses.replace(ENTRY, encrypt=cipher("null"), encrypt_key=None, auth_key=None)
    message = sa(MsgType.ADD, null)
    assert message.key_encrypt is not None
    assert message.key_encrypt.bits == 0
    assert message.key_auth is None
    ah = dataclasses.replace(null, satype=SaType.AH, encrypt=0)
    assert sa(MsgType.ADD, ah).key_encrypt is None


@pytest.mark.parametrize("which", ["hard", "soft"])
def test_one_lifetime_brings_the_other_as_unlimited(which: str) -> None:
    entry = dataclasses.replace(ENTRY, **{which: Limits(addtime=60)})  # type: ignore[arg-type]
    message = sa(MsgType.ADD, entry)
    assert message.hard is not None
    assert message.soft is not None
    assert sorted((message.hard.addtime, message.soft.addtime)) == [0, 60]


def test_no_key_is_in_the_repr_of_an_entry() -> None:
    read = SadEntry.decode(sa(MsgType.ADD, ENTRY).encode())
    assert read.encrypt_key == KEY
    for shown in (repr(ENTRY), repr(read)):
        assert "encrypt=12" in shown
        assert repr(KEY)[2:10] not in shown


def test_a_policy_without_selector_is_that_of_a_socket() -> None:
    entry = SpdEntry.of(Message(type=MsgType.X_SPDDUMP, extensions=(parse("in none"),)))
    assert (entry.src, entry.dst, entry.id) == ("", "", 0)
    with pytest.raises(WireError, match="no policy"):
        SpdEntry.of(Message(type=MsgType.X_SPDDUMP))


# Words.


def test_algorithms_are_known_by_name() -> None:
    assert (cipher("aes-cbc"), cipher("rijndael-cbc")) == (12, 12)
    assert (authenticator("hmac-sha256"), compressor("deflate")) == (5, 2)
    with pytest.raises(UnsupportedAlgorithmError, match=r"no algorithm 'aes': encrypt has .*aes-c"):
        cipher("aes")


@given(packed, u32)
def test_addresses_are_text(address: bytes, scope: int) -> None:
    scope = scope if len(address) == 16 else 0
    assert parse_address(render_address(address, scope)) == (address, scope)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host", "'host' is no numeric IPv4 or IPv6 address"),
        ("", "'' is no numeric"),
        ("10.1.1", "no numeric"),
        ("fe80::1%eth0", "a scope is the number of an interface"),
        ("10.1.1.1%2", "on IPv6 only"),
        ("fe80::1%4294967296", "a scope is the number"),
        ("10.0.0.0/33", "a prefix has 0 to 32 bits"),
        ("10.0.0.0/-1", "a prefix has"),
        ("::/129", "0 to 128 bits"),
        ("::/", "0 to 128 bits"),
        ("::/²", "0 to 128 bits"),
    ],
)
def test_what_is_no_address_is_refused_before_it_is_sent(text: str, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        address_extension(ExtType.ADDRESS_SRC, text)


def test_a_pair_is_of_one_family() -> None:
    with pytest.raises(MisuseError, match=r"10\.1\.1\.1 and ::1: one is IPv4, the other IPv6"):
        pair("10.1.1.1", "::1")


def test_link_local_addresses_keep_their_scope() -> None:
    entry = dataclasses.replace(ENTRY, src="fe80::1%2", dst="fe80::2%2", mode=Mode.TRANSPORT)
    assert SadEntry.decode(sa(MsgType.ADD, entry).encode()) == entry
