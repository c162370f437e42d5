"""ESP, RFC 4303 sections 2 and 3: published packets, laws, scapy both ways, refusals."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from keyd.model import SaSpec
from keyd.packet.drop import Drop
from keyd.packet.esp import ESN_MAX, HEADER_OCTETS, SEQ_MAX, EspSa, peek
from keyd.packet.ip import rebuild
from pfkey import algorithms, crypto
from pfkey.const import IPPROTO_ESP, KameFlag, Mode, SaFlag
from pfkey.errors import CryptoError, UnsupportedAlgorithmError
from tests.support.judge import SCAPY_AUTHS, SCAPY_CIPHERS

ROOT = Path(__file__).parents[3]
PACKETS = tomllib.loads((ROOT / "specs/vectors/rfc3602.toml").read_text())["packet"]
COMBINED_PACKETS = [
    row
    for name in ("rfc7634", "gcm-esp")
    for row in tomllib.loads((ROOT / f"specs/vectors/{name}.toml").read_text())["packet"]
]
COUNTERS = tomllib.loads((ROOT / "specs/tables/counters.toml").read_text())["counter"]

ENCRYPT = [row for row in algorithms.ENCRYPT if row.wall in crypto.CIPHERS]
# GMAC is an authenticator of AH alone
AUTH = [row for row in algorithms.AUTH if row.wall in crypto.AUTHENTICATORS and not row.iv]
NULL_AUTH = AUTH[0]
CTR = [row for row in algorithms.ENCRYPT if row.wall == crypto.CTR_WALL]
AEADS = [row for row in algorithms.ENCRYPT if row.wall in crypto.AEADS]
PAIR_ROWS = [
    *((enc, auth) for enc in ENCRYPT + CTR for auth in AUTH),
    *((enc, NULL_AUTH) for enc in AEADS),
]
PAIRS = [pytest.param(enc, auth, id=f"{enc.name}+{auth.name}") for enc, auth in PAIR_ROWS]
SCAPY_PAIRS = [
    pair
    for pair in PAIRS
    if pair.values[0].name in SCAPY_CIPHERS  # type: ignore[union-attr]
    and pair.values[1].name in SCAPY_AUTHS  # type: ignore[union-attr]
]
seqs = st.integers(1, SEQ_MAX)
protos = st.integers(0, 255)
payloads = st.binary(max_size=300)
rows = st.sampled_from(PAIR_ROWS)


def octets_of(bits: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=bits // 8, max_size=bits // 8)


def make(
    encrypt: int = 0, encrypt_key: bytes = b"", auth: int = 0, auth_key: bytes = b"",
    spi: int = 0x2694, flags: int = 0, icv_bits: int = 0,
) -> EspSa:  # fmt: skip
    return EspSa(
        SaSpec(
            slot=0, proto=IPPROTO_ESP, spi=spi, src=bytes(4), dst=bytes(4), mode=Mode.TRANSPORT,
            encrypt=encrypt, encrypt_key=encrypt_key, auth=auth, auth_key=auth_key, flags=flags,
            icv_bits=icv_bits,
        )
    )  # fmt: skip


def make_of(enc: algorithms.Algorithm, auth: algorithms.Algorithm) -> EspSa:
    """An SA of the largest keys, none of whose octets are alike."""
    return make(
        enc.number, bytes(range(1, largest(enc) + 1)),
        auth.number, bytes(range(101, auth.max_bits // 8 + 101)),
    )  # fmt: skip


def largest(row: algorithms.Algorithm) -> int:
    """The octets of its longest key."""
    return (max(row.key_bits) if row.key_bits else row.max_bits) // 8


def keys_of(sa: EspSa) -> tuple[int, bytes, int, bytes]:
    return sa.spec.encrypt, sa.spec.encrypt_key, sa.spec.auth, sa.spec.auth_key


def opened(sa: EspSa, octets: bytes) -> tuple[int, bytes] | Drop:
    result = sa.open(octets)
    return result if isinstance(result, Drop) else (result[0], bytes(result[1]))


AES = algorithms.by_name("encrypt", "aes-cbc")
SHA1 = algorithms.by_name("auth", "hmac-sha1")
assert AES
assert SHA1


# Vectors


@pytest.mark.parametrize("row", PACKETS, ids=lambda row: f"case{row['case']}")
def test_rfc3602_packets_come_out_to_the_octet(row: dict[str, str]) -> None:
    assert AES
    esp, inner = bytes.fromhex(row["esp"]), bytes.fromhex(row["inner"])
    payload = inner if row["mode"] == "tunnel" else inner[20:]
    sa = make(AES.number, bytes.fromhex(row["key"]), spi=int(row["spi"]))
    next_header, seq = int(row["next_header"]), int(row["sequence"])
    assert peek(esp) == (sa.spec.spi, seq)
    assert opened(sa, esp) == (next_header, payload)
    for _ in range(2):  # the second finds a context that has sealed and opened before
        assert sa.seal(seq, payload, next_header, bytes.fromhex(row["iv"])) == esp
    assert sa.sealed_size(len(payload)) == len(esp)
    assert not sa.has_authenticator


@pytest.mark.parametrize("row", COMBINED_PACKETS, ids=lambda row: row["name"])
def test_published_aead_packets_come_out_to_the_octet(row: dict[str, Any]) -> None:
    """RFC 7634 appendix A, and the GCM draft's with tags of all lengths of RFC 4106.

    With extended numbers (RFC 4106 section 5) where the draft has them, GMAC (RFC 4543) too.
    """
    esp, payload = bytes.fromhex(row["esp"]), bytes.fromhex(row["payload"])
    of_gcm = ((20, 16), (19, 12), (18, 8))
    tags = {"aes-gcm-16": of_gcm, "aes-gmac": ((23, 16),)}.get(row["algorithm"], ((25, 16),))
    high, next_header, iv = row.get("high", 0), row["next_header"], bytes.fromhex(row["iv"])
    seq = high << 32 | row["sequence"]
    for number, tag in tags:
        flags = SaFlag.ESN if "high" in row else 0
        sa = make(number, bytes.fromhex(row["key"]), spi=row["spi"], flags=flags)
        short = esp[: len(esp) + tag - 16]
        assert peek(short) == (sa.spec.spi, row["sequence"])
        result = sa.open(short, high)
        assert not isinstance(result, Drop)
        assert (result[0], bytes(result[1])) == (next_header, payload)
        assert sa.seal(seq, payload, next_header, iv) == short
        assert sa.seal_many(seq, [payload], next_header, iv) == [short]
        assert sa.sealed_size(len(payload)) == len(short)
        assert (sa.iv_kind, sa.iv_octets, sa.icv_octets) == ("counter", 8, tag)
        assert sa.has_authenticator
        if flags:
            assert sa.open(short, high ^ 1) is Drop.BADAUTH


# Laws


@pytest.mark.parametrize(("enc", "auth"), PAIRS)
@settings(max_examples=30)
@given(data=st.data())
def test_what_is_sealed_opens(
    enc: algorithms.Algorithm, auth: algorithms.Algorithm, data: st.DataObject
) -> None:
    ours, theirs = make_of(enc, auth), make_of(enc, auth)
    for _ in range(2):
        seq, proto = data.draw(seqs), data.draw(protos)
        batch = data.draw(st.lists(payloads, max_size=4))
        assume(seq + len(batch) <= SEQ_MAX)
        ivs = data.draw(octets_of(enc.iv * 8 * len(batch)))
        sealed = ours.seal_many(seq, batch, proto, ivs)
        one = ours.seal(seq + len(batch), b"one", proto, bytes(enc.iv))
        for at, (octets, payload) in enumerate(
            zip([*sealed, one], [*batch, b"one"], strict=True), seq
        ):
            assert len(octets) == ours.sealed_size(len(payload))
            assert peek(octets) == (ours.spec.spi, at)
            assert opened(theirs, octets) == (proto, payload)
            assert opened(ours, octets) == (proto, payload)


@given(rows, st.integers(0, 70_000))
def test_max_payload_is_the_largest_that_fits(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], room: int
) -> None:
    sa = make_of(*pair)
    largest = sa.max_payload(room)
    assert sa.sealed_size(largest + 1) > room
    if largest >= 0:
        assert sa.sealed_size(largest) <= room


@given(rows, payloads, protos, seqs)
def test_the_layout_is_that_of_section_2(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], payload: bytes, proto: int, seq: int
) -> None:
    enc, auth = pair
    sa = make_of(enc, auth)
    iv = bytes(range(enc.iv))
    octets = sa.seal(seq, payload, proto, iv)
    end = len(octets) - sa.icv_octets
    assert sa.icv_octets == auth.icv + enc.icv
    assert octets[8 : 8 + enc.iv] == iv
    if sa.iv_kind == "counter":
        mode = crypto.combined(*keys_of(sa))
        plain = mode.open(iv, octets[8 + enc.iv :], octets[:8])
        assert plain is not None
        assert octets[8 + enc.iv :] == mode.seal(iv, plain, octets[:8])
    else:
        plain = crypto.cipher(sa.spec.encrypt, sa.spec.encrypt_key).open(
            iv, octets[8 + enc.iv : end]
        )
    if not enc.icv:
        mac = crypto.integrity(sa.spec.auth, sa.spec.auth_key)
        assert octets[end:] == mac.icv(octets[:end])
    pad = plain[-2]
    assert plain == payload + bytes(range(1, pad + 1)) + bytes([pad, proto])
    assert len(plain) % max(enc.block, 4) == 0
    assert pad < max(enc.block, 4)


@given(payloads, seqs)
def test_memoryviews_and_bytearrays_are_octets_too(payload: bytes, seq: int) -> None:
    assert AES
    assert SHA1
    sa = make_of(AES, SHA1)
    expected = sa.seal(seq, payload, 6, bytes(16))
    assert sa.seal(seq, memoryview(payload), 6, bytes(16)) == expected
    assert sa.seal(seq, bytearray(payload), 6, bytes(16)) == expected
    buffer = bytearray(b"header" + expected)
    assert opened(sa, memoryview(buffer)[6:]) == (6, payload)  # type: ignore[arg-type]
    assert peek(memoryview(buffer)[6:]) == peek(expected)


@given(st.lists(payloads, min_size=1, max_size=8), st.data())
def test_no_two_packets_of_a_batch_share_an_iv(batch: list[bytes], data: st.DataObject) -> None:
    assert AES
    assert SHA1
    seeds = data.draw(octets_of(128 * len(batch)))
    sealed = make_of(AES, SHA1).seal_many(1, batch, 6, seeds)
    assert len({octets[8:24] for octets in sealed}) == len(batch)


def test_a_counter_is_sent_as_it_was_handed_in() -> None:
    """Which the caller counts on: it alone knows which were used."""
    for enc in (*CTR, *AEADS):
        sa = make_of(enc, NULL_AUTH)
        ivs = b"".join(n.to_bytes(8) for n in range(2**64 - 3, 2**64))
        sealed = sa.seal_many(7, [b"a", b"b", b"c"], 6, ivs)
        assert [octets[8:16] for octets in sealed] == [ivs[0:8], ivs[8:16], ivs[16:24]]
        assert [peek(octets) for octets in sealed] == [(0x2694, 7), (0x2694, 8), (0x2694, 9)]


def test_the_kind_of_iv_is_that_of_the_table() -> None:
    for enc, auth in PAIR_ROWS:
        sa = make_of(enc, auth)
        assert (
            (sa.iv_kind == "counter") == (enc.number in crypto.COUNTER_IV) == (enc in CTR + AEADS)
        )
        assert sa.iv_octets == enc.iv


# An outside oracle


def scapy_sa(sa: EspSa, enc: algorithms.Algorithm, auth: algorithms.Algorithm) -> object:
    return SecurityAssociation(
        ESP, spi=sa.spec.spi, seq_num=1,
        crypt_algo=SCAPY_CIPHERS[enc.name], crypt_key=sa.spec.encrypt_key or None,
        crypt_icv_size=enc.icv or None,
        auth_algo=SCAPY_AUTHS[auth.name], auth_key=sa.spec.auth_key or None,
    )  # fmt: skip


def scapy_made_of(enc: algorithms.Algorithm, auth: algorithms.Algorithm) -> EspSa:
    """scapy takes no CAST and Blowfish keys but the longest of 128 bits."""
    bits = min(enc.max_bits, 128) if enc.name in ("cast128-cbc", "blowfish-cbc") else enc.max_bits
    return make(
        enc.number, bytes(range(1, bits // 8 + 1)),
        auth.number, bytes(range(101, auth.max_bits // 8 + 101)),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("enc", "auth"), SCAPY_PAIRS)
@settings(max_examples=30)
@given(payload=st.binary(min_size=1, max_size=100), seq=seqs, iv=st.binary(min_size=16))
def test_scapy_opens_what_we_seal_and_we_open_what_scapy_seals(
    enc: algorithms.Algorithm, auth: algorithms.Algorithm, payload: bytes, seq: int, iv: bytes
) -> None:
    sa = scapy_made_of(enc, auth)
    theirs = scapy_sa(sa, enc, auth)
    clear = IP(src="10.0.0.1", dst="10.0.0.2", proto=253) / Raw(payload)
    wire = theirs.encrypt(clear, seq_num=seq, iv=iv[: enc.iv] or None)  # type: ignore[attr-defined]
    esp = bytes(wire)[20:]
    assert peek(esp) == (sa.spec.spi, seq)
    assert opened(sa, esp) == (253, payload)
    assert sa.seal(seq, payload, 253, iv[: enc.iv]) == esp
    (sealed,) = sa.seal_many(seq, [payload], 253, iv[: enc.iv])
    packet = rebuild(bytes(clear)[:20], IPPROTO_ESP, len(sealed)) + sealed
    assert bytes(theirs.decrypt(IP(packet)))[20:] == payload  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("enc", "auth"), SCAPY_PAIRS)
@settings(max_examples=10)
@given(
    payload=st.binary(min_size=1, max_size=100),
    seq=st.one_of(st.integers(1, ESN_MAX), st.integers(2**32 - 2, 2**32 + 2)),
    iv=st.binary(min_size=16),
)
def test_scapy_and_we_agree_on_extended_numbers(
    enc: algorithms.Algorithm, auth: algorithms.Algorithm, payload: bytes, seq: int, iv: bytes
) -> None:
    """Section 2.2.1: the upper half is in the ICV and not in the packet; RFC 4106 5 for AEADs."""
    plain = scapy_made_of(enc, auth)
    sa = make(*keys_of(plain), flags=SaFlag.ESN)
    theirs = scapy_sa(sa, enc, auth)
    high, low = seq >> 32, seq & SEQ_MAX
    clear = IP(src="10.0.0.1", dst="10.0.0.2", proto=253) / Raw(payload)
    wire = theirs.encrypt(  # type: ignore[attr-defined]
        clear, seq_num=low, iv=iv[: enc.iv] or None, esn_en=True, esn=high
    )
    if low:  # scapy takes 0 for "none given"
        assert sa.seal(seq, payload, 253, iv[: enc.iv]) == bytes(wire)[20:]
        result = sa.open(bytes(wire)[20:], high)
        assert not isinstance(result, Drop)
        assert (result[0], bytes(result[1])) == (253, payload)
    (sealed,) = sa.seal_many(seq, [payload], 253, iv[: enc.iv])
    assert peek(sealed) == (sa.spec.spi, low)
    assert sa.sealed_size(len(payload)) == plain.sealed_size(len(payload)) == len(sealed)
    packet = IP(rebuild(bytes(clear)[:20], IPPROTO_ESP, len(sealed)) + sealed)
    back = theirs.decrypt(packet, esn_en=True, esn=high)  # type: ignore[attr-defined]
    assert bytes(back)[20:] == payload
    if sa.has_authenticator:
        assert sa.open(sealed, high ^ 1) is Drop.BADAUTH
        assert plain.open(sealed) is Drop.BADAUTH


# Refusals


@given(rows, payloads, st.data())
def test_one_flipped_bit_is_bad_authentication(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], payload: bytes, data: st.DataObject
) -> None:
    sa = make_of(*pair)
    assume(sa.has_authenticator)
    octets = bytearray(sa.seal(1, payload, 6, bytes(pair[0].iv)))
    bit = data.draw(st.integers(0, len(octets) * 8 - 1))
    octets[bit // 8] ^= 1 << bit % 8
    assert sa.open(octets) is Drop.BADAUTH


@given(rows, payloads, st.data())
def test_a_cut_packet_is_dropped(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], payload: bytes, data: st.DataObject
) -> None:
    enc, auth = pair
    sa = make_of(enc, auth)
    assume(sa.has_authenticator)
    octets = sa.seal(1, payload, 6, bytes(enc.iv))
    cut = octets[: data.draw(st.integers(0, len(octets) - 1))]
    expected = {Drop.HDROPS} if len(cut) < HEADER_OCTETS else {Drop.BADILEN, Drop.BADAUTH}
    assert sa.open(cut) in expected


@given(rows, payloads, st.integers(1, 40))
def test_a_longer_packet_is_dropped(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], payload: bytes, more: int
) -> None:
    sa = make_of(*pair)
    assume(sa.has_authenticator)
    octets = sa.seal(1, payload, 6, bytes(pair[0].iv)) + bytes(more)
    assert sa.open(octets) in (Drop.BADILEN, Drop.BADAUTH)


@pytest.mark.parametrize(("enc", "auth"), PAIRS)
def test_a_wrong_key_is_dropped(enc: algorithms.Algorithm, auth: algorithms.Algorithm) -> None:
    sa = make_of(enc, auth)
    octets = sa.seal(1, bytes(40), 6, bytes(enc.iv))
    spec = sa.spec
    if enc.icv:
        other = make(spec.encrypt, bytes(len(spec.encrypt_key)))
        assert other.open(octets) is Drop.BADAUTH
        salt = bytearray(spec.encrypt_key)
        salt[-1] ^= 1
        assert make(spec.encrypt, bytes(salt)).open(octets) is Drop.BADAUTH
    elif auth.icv:
        other = make(spec.encrypt, spec.encrypt_key, auth.number, bytes(len(spec.auth_key)))
        assert other.open(octets) is Drop.BADAUTH
    elif enc.iv:
        other = make(spec.encrypt, bytes(len(spec.encrypt_key)))
        assert other.open(octets) is Drop.BADENC


def crafted(plain: bytes) -> bytes:
    """An ESP packet of the AES SA around this plaintext, whatever its trailer says."""
    assert AES
    sa = make(AES.number, bytes(16))
    cipher = crypto.cipher(AES.number, bytes(16))
    return sa.seal(1, b"", 6, bytes(16))[:24] + cipher.seal(bytes(16), plain)


def test_pads_are_as_the_flags_say() -> None:
    """Section 2.4 by default; KAME's zeros and random octets where the peer wants them."""
    assert AES
    aes = (AES.number, bytes(16))
    random = bytes(range(100, 115))
    expected = {0: bytes(range(1, 12)), KameFlag.ZERO_PAD: bytes(11), KameFlag.RANDOM_PAD: random}
    for flags, pad in expected.items():
        sa = make(*aes, flags=flags)
        assert sa.pad_octets == (15 if flags == KameFlag.RANDOM_PAD else 0)
        chance = random[: sa.pad_octets]
        octets = sa.seal(1, b"abc", 6, bytes(16), chance)
        assert [octets] == [sa.seal(1, b"abc", 6, bytes(16), chance)]
        plain = crypto.cipher(*aes).open(octets[8:24], octets[24:])
        assert plain == b"abc" + pad[:11] + bytes((11, 6))
        assert opened(sa, octets) == (6, b"abc")
        (many,) = sa.seal_many(1, [b"abc"], 6, bytes(16), chance)
        assert opened(make(*aes, flags=flags), many) == (6, b"abc")
        for other in expected:
            taken = other in (flags, KameFlag.RANDOM_PAD)  # who sends any octets takes any
            expect = (6, b"abc") if taken else Drop.BADENC
            assert opened(make(*aes, flags=other), octets) == expect
    with pytest.raises(ValueError, match="padding"):
        make(*aes, flags=KameFlag.RANDOM_PAD).seal(1, b"abc", 6, bytes(16), b"short")


def test_sha256_of_96_bits_is_a_switch() -> None:
    """Linux through PF_KEY, and Android: the ICV of before RFC 4868."""
    key = bytes(range(32))
    long, short = make(0, b"", 5, key), make(0, b"", 5, key, icv_bits=96)
    assert (long.icv_octets, short.icv_octets) == (16, 12)
    sealed = long.seal(1, b"1234", 6)
    assert short.seal(1, b"1234", 6) == sealed[:-4]
    assert opened(short, sealed[:-4]) == (6, b"1234")
    assert opened(short, sealed) is Drop.BADAUTH
    counter = make(13, bytes(20), 5, key, icv_bits=96)
    assert counter.icv_octets == 12
    assert opened(counter, counter.seal(1, b"1234", 6, bytes(8))) == (6, b"1234")


@pytest.mark.parametrize(("auth", "bits"), [(5, 88), (5, 264), (2, 160), (9, 136), (11, 96)])
def test_an_icv_that_an_algorithm_cannot_have_is_refused(auth: int, bits: int) -> None:
    row = algorithms.by_number("auth", auth)
    assert row
    with pytest.raises(CryptoError, match=f"{row.name} has no ICV of {bits} bits"):
        make(0, b"", auth, bytes(row.min_bits // 8), icv_bits=bits)


@pytest.mark.parametrize(
    ("plain", "result"),
    [
        (bytes(range(1, 15)) + bytes([14, 6]), (6, b"")),
        (bytes(14) + bytes([0, 6]), (6, bytes(14))),
        (bytes(14) + bytes([1, 6]), Drop.BADENC),
        (bytes(13) + bytes([1, 1, 6]), (6, bytes(13))),
        (bytes(range(1, 15)) + bytes([15, 6]), Drop.BADENC),
        (bytes(range(1, 15)) + bytes([255, 6]), Drop.BADENC),
        (bytes(range(1, 14)) + bytes([15, 14, 6]), Drop.BADENC),
        (bytes([2, *range(2, 15)]) + bytes([14, 6]), Drop.BADENC),
        (b"x" + bytes(range(1, 256))[: 256 - 1] + bytes(14) + bytes([14, 6]), Drop.BADENC),
        (bytes(15) + bytes(range(1, 256)) + bytes([255, 6]), (6, bytes(15))),
        (bytes(15) + b"\x02" + bytes(range(2, 256)) + bytes([255, 6]), Drop.BADENC),
    ],
)
def test_every_pad_octet_is_looked_at(plain: bytes, result: tuple[int, bytes] | Drop) -> None:
    """Section 2.4: 1, 2, 3 and so on; up to 255 of them."""
    assert AES
    plain = bytes(-len(plain) % 16) + plain
    if isinstance(result, tuple):
        result = (result[0], plain[: -2 - plain[-2]])
    assert opened(make(AES.number, bytes(16)), crafted(plain)) == result


@given(rows, st.binary(max_size=200))
def test_any_octets_open_or_drop_and_never_raise(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], octets: bytes
) -> None:
    sa = make_of(*pair)
    result = sa.open(octets)
    if not isinstance(result, Drop):
        assert not sa.has_authenticator
        assert len(result[1]) + HEADER_OCTETS < len(octets)
    assert (peek(octets) is None) == (len(octets) < HEADER_OCTETS)
    # and whatever came before, the next good packet opens
    good = sa.seal(1, b"good", 6, bytes(pair[0].iv))
    assert opened(sa, good) == (6, b"good")


@given(rows, st.integers(0, 400), st.data())
def test_octets_with_a_right_icv_open_or_drop(
    pair: tuple[algorithms.Algorithm, algorithms.Algorithm], size: int, data: st.DataObject
) -> None:
    """A peer that holds the key may still send nonsense."""
    sa = make_of(*pair)
    octets = data.draw(st.binary(min_size=size, max_size=size))
    if sa.iv_kind == "counter":
        mode = crypto.combined(*keys_of(sa))
        iv = octets[8:16].ljust(8, b"\0")
        result = sa.open(octets[:8] + iv + mode.seal(iv, octets[16:], octets[:8]))
    else:
        mac = crypto.integrity(sa.spec.auth, sa.spec.auth_key)
        result = sa.open(octets + mac.icv(octets))
    assert isinstance(result, tuple) or result in (Drop.HDROPS, Drop.BADILEN, Drop.BADENC)


@pytest.mark.parametrize("seq", [-1, SEQ_MAX + 1])
def test_a_number_beyond_32_bits_is_never_sent(seq: int) -> None:
    """Section 3.3.3: the counter must not cycle."""
    sa = make()
    with pytest.raises(ValueError, match="exceed"):
        sa.seal(seq, b"", 6, b"")
    with pytest.raises(ValueError, match="exceed"):
        sa.seal_many(seq, [b""], 6, b"")
    with pytest.raises(ValueError, match="exceed"):
        sa.seal_many(SEQ_MAX, [b"", b""], 6, b"")
    assert len(sa.seal_many(SEQ_MAX, [b""], 6, b"")) == 1


def test_an_extended_number_beyond_64_bits_is_never_sent() -> None:
    sa = make(flags=SaFlag.ESN)
    assert len(sa.seal_many(ESN_MAX - 1, [b"", b""], 6, b"")) == 2
    with pytest.raises(ValueError, match="exceed"):
        sa.seal_many(ESN_MAX, [b"", b""], 6, b"")


def test_a_batch_may_cross_from_one_upper_half_to_the_next() -> None:
    assert AES
    sa = make(AES.number, bytes(16), 5, bytes(32), flags=SaFlag.ESN)
    sealed = sa.seal_many(SEQ_MAX - 1, [b"a", b"b", b"c", b"d"], 6, bytes(64))
    assert [peek(octets) for octets in sealed] == [
        (0x2694, seq) for seq in (SEQ_MAX - 1, SEQ_MAX, 0, 1)
    ]
    assert [isinstance(sa.open(octets, 0), Drop) for octets in sealed] == [False, False, True, True]
    assert [isinstance(sa.open(octets, 1), Drop) for octets in sealed] == [True, True, False, False]


@pytest.mark.parametrize(
    ("encrypt", "key", "flags", "replay", "cycles"),
    [
        (12, 16, SaFlag.CYCSEQ, 0, True),
        (12, 16, 0, 0, False),
        (12, 16, SaFlag.CYCSEQ, 32, False),  # somebody would see all of them as repeated
        (20, 20, SaFlag.CYCSEQ, 0, False),  # a counter mode
        (13, 20, SaFlag.CYCSEQ, 0, False),
    ],
)
def test_numbers_begin_again_where_that_is_asked_for_and_nobody_checks(
    encrypt: int, key: int, flags: int, replay: int, cycles: bool
) -> None:
    spec = SaSpec(
        slot=0, proto=IPPROTO_ESP, spi=1, src=bytes(4), dst=bytes(4), mode=Mode.TRANSPORT,
        encrypt=encrypt, encrypt_key=bytes(key), flags=flags, replay_packets=replay,
    )  # fmt: skip
    sa = EspSa(spec)
    ivs = bytes(sa.iv_octets * 3)
    if cycles:
        sealed = sa.seal_many(SEQ_MAX, [b"a", b"b", b"c"], 6, ivs)
        assert [peek(octets) for octets in sealed] == [(1, SEQ_MAX), (1, 0), (1, 1)]
    else:
        with pytest.raises(ValueError, match="exceed"):
            sa.seal_many(SEQ_MAX, [b"a", b"b", b"c"], 6, ivs)


def test_too_few_random_octets_are_refused() -> None:
    assert AES
    sa = make(AES.number, bytes(16))
    with pytest.raises(ValueError, match="IVs"):
        sa.seal_many(1, [b"", b""], 6, bytes(31))
    with pytest.raises(CryptoError):
        sa.seal(1, b"", 6, bytes(15))
    for enc in (*CTR, *AEADS):
        for iv in (b"", bytes(7), bytes(12)):
            with pytest.raises(CryptoError, match="counter"):
                make_of(enc, NULL_AUTH).seal(1, b"", 6, iv)
        with pytest.raises(ValueError, match="IVs"):
            make_of(enc, NULL_AUTH).seal_many(1, [b"", b""], 6, bytes(15))


def test_an_sa_that_cannot_be_is_refused_without_its_keys() -> None:
    assert AES
    with pytest.raises(CryptoError, match="128, 192 or 256") as caught:
        make(AES.number, b"hogehoge")
    assert "hoge" not in str(caught.value)
    with pytest.raises(UnsupportedAlgorithmError):
        make(250)
    with pytest.raises(CryptoError, match="one too many"):
        make(20, bytes(20), 3, b"hogehogehogehogehoge")
    with pytest.raises(CryptoError, match="AH"):
        make(12, bytes(16), 11, bytes(20))
    make(20, bytes(20), 251)
    assert "key" in repr(make(AES.number, b"hogehogehogehoge"))
    assert "hoge" not in repr(make(AES.number, b"hogehogehogehoge"))


def test_each_reason_to_drop_is_a_counter() -> None:
    names = {row["name"] for row in COUNTERS if row["group"] == "esp"}
    assert {reason.value for reason in Drop} <= names
    assert all(reason.group == "esp" for reason in Drop)
