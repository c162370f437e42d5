"""AH, RFC 4302 sections 2 and 3: layout, mutable fields, scapy both ways, refusals."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH, SecurityAssociation
from scapy.packet import Packet, Raw

from keyd.model import SaSpec
from keyd.packet import ah, ip, ip6
from keyd.packet.ah import FIXED_OCTETS, AhSa, frozen, peek
from keyd.packet.drop import Drop
from keyd.packet.esp import SEQ_MAX
from pfkey import algorithms, crypto
from pfkey.const import IPPROTO_AH, Mode, SaFlag
from pfkey.errors import CryptoError
from tests.support.judge import SCAPY_AUTHS

ROWS = [row for row in algorithms.AUTH if row.icv and row.wall in crypto.AUTHENTICATORS]
SCAPY = {name: theirs for name, theirs in SCAPY_AUTHS.items() if name != "null"}
SHA1 = next(row for row in ROWS if row.name == "hmac-sha1")
SHA256 = next(row for row in ROWS if row.name == "hmac-sha256")
GMAC = next(row for row in ROWS if row.iv)
A4, B4 = "10.1.1.1", "10.2.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
rows = st.sampled_from(ROWS)
versions = st.sampled_from([4, 6])
payloads = st.binary(max_size=200)
seqs = st.integers(1, SEQ_MAX)
SECURITY = bytes.fromhex("820b0000000000000000ff")
ROUTER_ALERT = bytes.fromhex("94040000")
RECORD_ROUTE = bytes.fromhex("070b040000000000000000")
TIMESTAMP = bytes.fromhex("4408050011223344")
NOP = b"\x01"
v4_options = st.lists(
    st.sampled_from([SECURITY, ROUTER_ALERT, RECORD_ROUTE, TIMESTAMP, NOP]), max_size=3
).map(b"".join)


def make(
    row: algorithms.Algorithm, *, pads_to_64_bits: bool = False, spi: int = 9877, flags: int = 0
) -> AhSa:
    spec = SaSpec(
        slot=0, proto=IPPROTO_AH, spi=spi, src=bytes(4), dst=bytes(4), mode=Mode.TRANSPORT,
        auth=row.number, auth_key=bytes(range(101, 101 + row.max_bits // 8)), flags=flags,
    )  # fmt: skip
    return AhSa(spec, pads_to_64_bits=pads_to_64_bits)


def v4(options: bytes = b"") -> bytes:
    options += bytes(-len(options) % 4)
    head = bytearray(bytes(IP(src=A4, dst=B4, id=77, ttl=64, tos=0x2E, flags="DF")) + options)
    head[0] = 0x40 | len(head) // 4
    return bytes(head)


def tlvs(kind: type[Packet], *types: int) -> Packet:
    return kind(options=[HBHOptUnknown(otype=t, optdata=b"change") for t in types])


def v6(*layers: Packet) -> bytes:
    made: Packet = IPv6(src=A6, dst=B6, hlim=64, tc=7, fl=99)
    for layer in layers:
        made /= layer
    return bytes(made)


def header_of(version: int) -> bytes:
    return v4() if version == 4 else v6()


def sealed(sa: AhSa, header: bytes, payload: bytes = b"payload", seq: int = 1) -> bytearray:
    packet = sa.seal(header, payload, seq, 17, bytes(range(sa.iv_octets)))
    assert isinstance(packet, bytes)
    return bytearray(packet)


def opened(sa: AhSa, packet: bytes | bytearray) -> tuple[int, bytes] | Drop:
    result = sa.open(packet)
    return result if isinstance(result, Drop) else (result[0], bytes(result[1]))


# Laws


@given(rows, versions, payloads, seqs, st.integers(0, 255))
def test_what_is_sealed_opens(
    row: algorithms.Algorithm, version: int, payload: bytes, seq: int, proto: int
) -> None:
    ours, header = make(row), header_of(version)
    packet = ours.seal(header, payload, seq, proto, bytes(ours.iv_octets))
    assert isinstance(packet, bytes)
    assert len(packet) == len(header) + ours.overhead(version) + len(payload)
    assert peek(packet[len(header) :]) == (9877, seq)
    assert ah.header_length(packet) == len(header)
    for octets in (packet, packet + b"link padding", bytearray(packet)):
        assert opened(make(row), octets) == (proto, payload)
    result = ours.open(memoryview(packet))
    assert not isinstance(result, Drop)
    assert bytes(result[1]) == payload


@given(rows, versions, payloads, seqs)
def test_the_layout_is_that_of_section_2(
    row: algorithms.Algorithm, version: int, payload: bytes, seq: int
) -> None:
    """And RFC 4543 section 4: GMAC's IV stands where the ICV begins, and is not covered."""
    header = header_of(version)
    packet = bytes(sealed(make(row), header, payload, seq))
    end = len(packet) - len(payload)
    layer = packet[len(header) : end]
    start, after = FIXED_OCTETS + row.iv, FIXED_OCTETS + row.iv + row.icv
    assert len(layer) % (4 if version == 4 else 8) == 0
    assert len(layer) - after < (4 if version == 4 else 8)
    assert layer[0] == 17
    assert layer[1] == len(layer) // 4 - 2
    assert layer[2:4] == bytes(2)
    assert layer[FIXED_OCTETS:start] == bytes(range(row.iv))
    assert layer[after:] == bytes(len(layer) - after)
    assert packet[end:] == payload
    well_formed = ip.well_formed if version == 4 else ip6.well_formed
    assert well_formed(packet)
    covered = frozen(header_of(version)[:0] + packet[: len(header)])
    assert covered is not None
    mac = crypto.integrity(row.number, make(row).spec.auth_key)
    zeroed = layer[:FIXED_OCTETS] + bytes(len(layer) - FIXED_OCTETS)
    iv = [layer[FIXED_OCTETS:start]] if row.iv else []
    assert layer[start:after] == mac.icv(*iv, covered + zeroed + payload)


def test_the_lengths_of_the_common_authenticators() -> None:
    """hmac-md5-96 has a length field of 4 in both versions."""
    sizes = {row.name: (make(row).overhead(4), make(row).overhead(6)) for row in ROWS}
    assert sizes["hmac-md5"] == sizes["hmac-sha1"] == (24, 24)
    assert sizes["hmac-sha256"] == (28, 32)
    assert sizes["hmac-sha384"] == (36, 40)
    assert sizes["hmac-sha512"] == (44, 48)
    assert sealed(make(ROWS[0]), v4())[21] == sealed(make(ROWS[0]), v6())[41] == 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_both_paddings_are_taken_on_ipv4(row: algorithms.Algorithm) -> None:
    """RFC 4302 pads to 32 bits there, many peers to 64."""
    ours, theirs = make(row), make(row, pads_to_64_bits=True)
    assert theirs.overhead(4) == ours.overhead(6)
    for sa in (ours, theirs):
        for other in (ours, theirs):
            assert opened(other, sealed(sa, v4())) == (17, b"payload")


def test_ipv6_is_padded_to_64_bits_or_dropped() -> None:
    sa = make(SHA256)
    packet = bytes(sealed(sa, v6()))
    short = bytearray(packet[:68] + packet[72:])
    short[41] -= 1
    short[4:6] = (len(short) - 40).to_bytes(2)
    assert sa.open(short) is Drop.BADILEN


# Appendix A: what may change and what may not

V4_MUTABLE = {1, 6, 7, 8, 10, 11}


@given(st.data())
def test_exactly_the_mutable_octets_of_ipv4_may_change(data: st.DataObject) -> None:
    sa = make(SHA1)
    packet = sealed(sa, v4())
    at = data.draw(st.integers(0, 19))
    packet[at] ^= data.draw(st.integers(1, 255))
    if at in V4_MUTABLE and not ip.is_fragment(packet):
        assert opened(sa, packet) == (17, b"payload")
    else:
        assert isinstance(sa.open(packet), Drop)


@given(st.data())
def test_exactly_the_mutable_octets_of_ipv6_may_change(data: st.DataObject) -> None:
    """Traffic class, flow label and hop limit."""
    sa = make(SHA1)
    packet = sealed(sa, v6())
    at = data.draw(st.integers(0, 39))
    change = data.draw(st.integers(1, 255))
    packet[at] ^= change
    if at in (1, 2, 3, 7) or (at == 0 and change < 16):
        assert opened(sa, packet) == (17, b"payload")
    else:
        assert isinstance(sa.open(packet), Drop)


@pytest.mark.parametrize(
    ("option", "may_change"),
    [
        (SECURITY, False),
        (bytes.fromhex("8504ff01"), False),  # extended security
        (bytes.fromhex("86060000002a"), False),  # commercial security
        (ROUTER_ALERT, False),
        (bytes.fromhex("95040a000001"[:8]), False),  # sender directed delivery
        (RECORD_ROUTE, True),
        (TIMESTAMP, True),
        (bytes.fromhex("520c0001000000000a000001"), True),  # traceroute
        (bytes.fromhex("de041234"), True),  # an experimental one
    ],
)
def test_options_of_ipv4_are_mutable_or_not(option: bytes, may_change: bool) -> None:
    sa = make(SHA1)
    packet = sealed(sa, v4(NOP + option))
    assert opened(sa, packet) == (17, b"payload")
    packet[20 + len(option)] ^= 0xFF  # the option's last octet
    assert (opened(sa, packet) == (17, b"payload")) == may_change
    assert may_change or sa.open(packet) is Drop.BADAUTH


@pytest.mark.parametrize("kind", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
@pytest.mark.parametrize(("option", "may_change"), [(0x1E, False), (0x3E, True)])
def test_options_of_ipv6_say_whether_they_are_mutable(
    kind: type[Packet], option: int, may_change: bool
) -> None:
    sa = make(SHA1)
    packet = sealed(sa, v6(tlvs(kind, option)))
    assert opened(sa, packet) == (17, b"payload")
    packet[44] ^= 0xFF  # data
    assert (opened(sa, packet) == (17, b"payload")) == may_change
    packet[44] ^= 0xFF
    packet[42] ^= 0x01  # type
    assert sa.open(packet) is Drop.BADAUTH


def test_a_source_route_is_covered_as_it_arrives() -> None:
    """3.3.3.1.1.2: the destination is predictable, the route itself counts as zeros."""
    sa = make(SHA1)
    for kind in ("83", "89"):
        route = bytes.fromhex(kind + "0b04" + "0a030303" + "0a090909")
        sent = sealed(sa, v4(route + NOP))
        arrived = bytearray(sent)
        arrived[16:20] = bytes([10, 9, 9, 9])
        arrived[20:31] = bytes.fromhex(kind + "0b0c" + "0a010203" + "0a030303")
        assert opened(sa, arrived) == (17, b"payload")
        assert sa.open(sent) is Drop.BADAUTH
        used_up = v4(bytes.fromhex(kind + "070c"[:2] + "08" + "0a030303") + NOP)
        assert opened(sa, sealed(sa, used_up)) == (17, b"payload")


def test_a_routing_header_is_covered_as_it_arrives() -> None:
    """3.3.3.1.2.3: the sender orders it as the receiver will find it."""
    sa = make(SHA1)
    first, second, last = "2001:db8::a", "2001:db8::b", "2001:db8::c"

    def route(dst: str, left: int, *addresses: str) -> bytes:
        made = IPv6(src=A6, dst=dst) / IPv6ExtHdrRouting(addresses=list(addresses), segleft=left)
        return bytes(made)

    sent = sealed(sa, route(first, 2, second, last))
    arrived = bytearray(ip6.rebuild(route(last, 0, first, second), 51, len(sent) - 80) + sent[80:])
    assert opened(sa, arrived) == (17, b"payload")
    assert sa.open(sent) is Drop.BADAUTH
    # half of the way is gone already
    late = sealed(sa, route(second, 1, first, last))
    assert late[80:] == sent[80:]


@pytest.mark.parametrize("kind", [3, 4])
def test_a_routing_header_that_cannot_be_foreseen_is_not_sent(kind: int) -> None:
    header = bytearray(v6(IPv6ExtHdrRouting(addresses=[B6], segleft=1)))
    header[42] = kind
    assert make(SHA1).seal(header, b"", 1, 17) is Drop.HDROPS
    header[43] = 0
    assert isinstance(make(SHA1).seal(header, b"", 1, 17), bytes)


@given(rows, versions, payloads, st.data())
def test_one_flipped_bit_from_ah_on_is_refused(
    row: algorithms.Algorithm, version: int, payload: bytes, data: st.DataObject
) -> None:
    sa, header = make(row), header_of(version)
    packet = sealed(sa, header, payload)
    bit = data.draw(st.integers(len(header) * 8, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    is_length = bit // 8 == len(header) + 1
    assert sa.open(packet) in ((Drop.BADILEN, Drop.BADAUTH) if is_length else (Drop.BADAUTH,))


# An outside oracle


def scapy_sa(sa: AhSa, row: algorithms.Algorithm) -> SecurityAssociation:
    return SecurityAssociation(
        AH, spi=sa.spec.spi, auth_algo=SCAPY[row.name], auth_key=sa.spec.auth_key
    )


def scapys(draw: st.DrawFn) -> Packet:
    if draw(versions) == 4:
        options = draw(
            st.lists(st.sampled_from([SECURITY, ROUTER_ALERT, RECORD_ROUTE]), max_size=3)
        )
        head = bytearray(v4(b"".join(NOP * (-len(one) % 4) + one for one in options)))
        head[1], head[8], head[9] = draw(st.integers(0, 255)), draw(st.integers(1, 255)), 253
        head[4:6] = draw(st.integers(1, 65535)).to_bytes(2)
        head[6] = draw(st.sampled_from([0, 0x40]))
        return IP(bytes(head))
    made: Packet = IPv6(
        src=A6, dst=B6, tc=draw(st.integers(0, 255)), fl=draw(st.integers(0, 2**20 - 1)),
        hlim=draw(st.integers(1, 255)),
    )  # fmt: skip
    if draw(st.booleans()):
        made /= tlvs(IPv6ExtHdrHopByHop, draw(st.sampled_from([0x1E, 0x3E])))
    if draw(st.booleans()):
        made /= tlvs(IPv6ExtHdrDestOpt, 0x3E, 0x1E)
    if draw(st.booleans()):
        made /= IPv6ExtHdrRouting(addresses=[A6, B6], segleft=2)
    made.lastlayer().nh = 253
    return made


@pytest.mark.parametrize("name", SCAPY)
@settings(max_examples=40)
@given(headers=st.composite(scapys)(), payload=st.binary(min_size=1, max_size=100), seq=seqs)
def test_scapy_opens_what_we_seal_and_we_open_what_scapy_seals(
    name: str, headers: Packet, payload: bytes, seq: int
) -> None:
    row = algorithms.by_name("auth", name)
    assert row
    sa = make(row)
    size = len(bytes(headers))
    rebuild = ip.rebuild if headers.version == 4 else ip6.rebuild
    clear = headers.__class__(rebuild(bytes(headers), 253, len(payload)) + payload)
    header = bytes(clear)[:size]
    theirs = bytes(scapy_sa(sa, row).encrypt(clear.copy(), seq_num=seq))
    ours = sa.seal(header, payload, seq, 253)
    assert ours == theirs
    if headers.haslayer(IPv6ExtHdrRouting):
        return  # it has to travel before it opens
    assert opened(sa, theirs) == (253, payload)
    back = scapy_sa(sa, row).decrypt(headers.__class__(ours))
    assert bytes(back)[-len(payload) :] == payload


@pytest.mark.parametrize("name", SCAPY)
@settings(max_examples=20)
@given(
    headers=st.composite(scapys)(),
    payload=st.binary(min_size=1, max_size=100),
    seq=st.integers(1, 2**64 - 1),
)
def test_scapy_and_we_agree_on_extended_numbers(
    name: str, headers: Packet, payload: bytes, seq: int
) -> None:
    """3.3.3.2.2: the upper half is covered behind the payload."""
    row = algorithms.by_name("auth", name)
    assert row
    sa = make(row, flags=SaFlag.ESN)
    size = len(bytes(headers))
    rebuild = ip.rebuild if headers.version == 4 else ip6.rebuild
    clear = headers.__class__(rebuild(bytes(headers), 253, len(payload)) + payload)
    assume(seq & SEQ_MAX)  # scapy takes 0 for "none given"
    high = seq >> 32
    theirs = scapy_sa(sa, row).encrypt(clear.copy(), seq_num=seq & SEQ_MAX, esn_en=True, esn=high)
    ours = sa.seal(bytes(clear)[:size], payload, seq, 253)
    assert ours == bytes(theirs)
    if headers.haslayer(IPv6ExtHdrRouting):
        return
    result = sa.open(bytes(theirs), high)
    assert not isinstance(result, Drop)
    assert (result[0], bytes(result[1])) == (253, payload)
    assert sa.open(bytes(theirs), high ^ 1) is Drop.BADAUTH
    back = scapy_sa(sa, row).decrypt(headers.__class__(ours), esn_en=True, esn=high)
    assert bytes(back)[-len(payload) :] == payload


# Refusals


@given(rows, st.binary(max_size=120), versions)
def test_any_octets_open_or_drop_and_never_raise(
    row: algorithms.Algorithm, octets: bytes, version: int
) -> None:
    sa = make(row)
    head = bytearray(header_of(version))
    head[9 if version == 4 else 6] = IPPROTO_AH
    for packet in (octets, bytes(head) + octets, bytes(head)[:4] + octets):
        assert isinstance(sa.open(packet), Drop)
    if version == 4:
        whole = ip.rebuild(head, IPPROTO_AH, len(octets)) + octets
    else:
        whole = ip6.rebuild(head, IPPROTO_AH, len(octets)) + octets
    assert isinstance(sa.open(whole), Drop)
    assert (peek(octets) is None) == (len(octets) < FIXED_OCTETS)


@given(st.binary(max_size=100), versions)
def test_any_header_is_sealed_or_dropped(octets: bytes, version: int) -> None:
    packet = make(SHA1).seal(octets, b"payload", 1, 17)
    assert isinstance(packet, bytes) or packet is Drop.HDROPS
    octets = octets.ljust(40, b"\0")
    head = bytearray(octets)
    if version == 4:
        head = head[:60]
        del head[len(head) // 4 * 4 :]
        head[0] = 0x40 | len(head) // 4
    else:
        head[0] = 0x60
    packet = make(SHA1).seal(head, b"payload", 1, 17)
    assert isinstance(packet, bytes) or packet is Drop.HDROPS


@given(versions, st.data())
def test_a_cut_packet_is_dropped(version: int, data: st.DataObject) -> None:
    sa = make(SHA1)
    packet = bytes(sealed(sa, header_of(version)))
    cut = packet[: data.draw(st.integers(0, len(packet) - 1))]
    assert sa.open(cut) is Drop.HDROPS
    if len(cut) >= len(header_of(version)):
        mended = bytearray(cut)
        if version == 4:
            mended[2:4] = len(cut).to_bytes(2)
        else:
            mended[4:6] = (len(cut) - 40).to_bytes(2)
        assert sa.open(mended) in (Drop.HDROPS, Drop.BADILEN, Drop.BADAUTH)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_wrong_key_and_a_wrong_spi_are_dropped(row: algorithms.Algorithm) -> None:
    packet = sealed(make(row), v4())
    spec = make(row).spec
    other = SaSpec(
        slot=0, proto=IPPROTO_AH, spi=spec.spi, src=spec.src, dst=spec.dst, mode=spec.mode,
        auth=spec.auth, auth_key=bytes(len(spec.auth_key)),
    )  # fmt: skip
    assert AhSa(other).open(packet) is Drop.BADAUTH
    packet[24:28] = (1).to_bytes(4)
    assert make(row).open(packet) is Drop.BADAUTH


def test_fragments_are_not_opened() -> None:
    """AH stands outside fragmentation (3.3.4): join first."""
    sa = make(SHA1)
    whole = bytes(sealed(sa, v4(), bytes(400)))
    for piece in ip.fragment(whole, 200):
        assert sa.open(piece) is Drop.HDROPS
    whole = bytes(sealed(sa, v6(), bytes(400)))
    for piece in ip6.fragment(whole, 200, 5):
        assert sa.open(piece) is Drop.HDROPS
    atom = bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(nh=51) / Raw(whole[40:]))
    assert sa.open(atom) is Drop.HDROPS
    assert sa.seal(v6(IPv6ExtHdrFragment(nh=17)), b"", 1, 17) is Drop.HDROPS


@pytest.mark.parametrize(
    "options", [b"\x07", b"\x07\x00", b"\x07\x01\x00", b"\x82\x09", b"\x83\x03\x04", b"\x83\x02"]
)
def test_malformed_options_of_ipv4_are_dropped(options: bytes) -> None:
    sa = make(SHA1)
    assert sa.seal(v4(options + NOP * (-len(options) % 4)), b"", 1, 17) is Drop.HDROPS
    packet = ip.rebuild(v4(NOP * 4), IPPROTO_AH, 24) + bytes(24)
    broken = packet[:20] + options.ljust(4, b"\x07") + packet[24:]
    assert sa.open(broken) in (Drop.HDROPS, Drop.BADILEN)


def test_malformed_options_of_ipv6_are_dropped() -> None:
    header = bytearray(v6(tlvs(IPv6ExtHdrDestOpt, 0x1E)))
    header[43] = 200
    assert make(SHA1).seal(header, b"", 1, 17) is Drop.HDROPS
    packet = ip6.rebuild(header, IPPROTO_AH, 24) + bytes([17, 4]) + bytes(22)
    assert make(SHA1).open(packet) is Drop.HDROPS


@pytest.mark.parametrize("version", [4, 6])
def test_too_large_a_packet_is_not_sent(version: int) -> None:
    sa, header = make(SHA1), header_of(version)
    most = 65535 - 24 - (20 if version == 4 else 0)
    assert isinstance(sa.seal(header, bytes(most), 1, 17), bytes)
    assert sa.seal(header, bytes(most + 1), 1, 17) is Drop.TOOBIG


@pytest.mark.parametrize("seq", [-1, SEQ_MAX + 1])
def test_a_number_beyond_32_bits_is_never_sent(seq: int) -> None:
    with pytest.raises(ValueError, match="exceeds"):
        make(SHA1).seal(v4(), b"", seq, 17)


@pytest.mark.parametrize(
    ("row", "flags", "last"),
    [(SHA1, 0, SEQ_MAX), (SHA1, SaFlag.CYCSEQ, 2**64 - 1), (SHA1, SaFlag.ESN, 2**64 - 1),
     (GMAC, SaFlag.CYCSEQ, SEQ_MAX)],
)  # fmt: skip
def test_numbers_end_where_they_must(row: algorithms.Algorithm, flags: int, last: int) -> None:
    """A counter mode never begins again."""
    assert make(row, flags=flags).seq_max == last


def test_an_sa_that_cannot_be_is_refused_without_its_key() -> None:
    spec = make(SHA1).spec
    assert "hoge" not in repr(make(SHA1))
    for auth, key in ((0, b""), (251, b""), (3, b"hogehoge")):
        bad = SaSpec(
            slot=0, proto=IPPROTO_AH, spi=1, src=spec.src, dst=spec.dst, mode=spec.mode,
            auth=auth, auth_key=key,
        )  # fmt: skip
        with pytest.raises(CryptoError) as caught:
            AhSa(bad)
        assert "hoge" not in str(caught.value)


@given(v4_options)
def test_options_survive_seal_and_open(options: bytes) -> None:
    assume(len(options) <= 40)
    sa = make(SHA1)
    assert opened(sa, sealed(sa, v4(options))) == (17, b"payload")
