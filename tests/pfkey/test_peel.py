"""Layers are taken off with the keys; whatever the octets are, nothing is raised."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from pfkey.const import KameFlag, SaFlag, SaType
from pfkey.entries import NatT, SadEntry
from pfkey.peel import Peeler, wireshark
from tests.support.pieces import cut

A, B, R = "10.1.1.1", "20.1.1.1", "30.1.1.1"
KEY = bytes(range(16))
CBC = SadEntry(satype=SaType.ESP, src=A, dst=R, spi=7, encrypt=12, encrypt_key=KEY, auth=3,
               auth_key=bytes(20))  # fmt: skip
SCAPY = SecurityAssociation(
    ESP, spi=7, crypt_algo="AES-CBC", crypt_key=KEY, auth_algo="HMAC-SHA1-96",
    auth_key=bytes(20), tunnel_header=IP(src=A, dst=R),
)  # fmt: skip
OVER = SecurityAssociation(AH, spi=8, auth_algo="HMAC-SHA1-96", auth_key=bytes(20))
# of every form that a packet may have
ODD = [
    SadEntry(satype=SaType.ESP, src=A, dst=B, spi=5 + n, encrypt=2, encrypt_key=bytes(8),
             flags=flags)
    for n, flags in enumerate((KameFlag.OLD, KameFlag.OLD | KameFlag.IV4B, KameFlag.DERIV))
] + [
    SadEntry(satype=SaType.ESP, src=A, dst=B, spi=2, encrypt=20, encrypt_key=bytes(20),
             flags=SaFlag.ESN, nat_t=NatT(src_port=0, dst_port=0)),
    SadEntry(satype=SaType.AH, src=A, dst=B, spi=3, auth=249, auth_key=KEY, flags=KameFlag.OLD),
    SadEntry(satype=SaType.X_IPCOMP, src=A, dst=B, spi=4, encrypt=2),
]  # fmt: skip
INNER = IP(src=A, dst=B) / UDP(sport=5, dport=6) / b"inside"


def test_a_tunnel_under_ah_comes_off_layer_by_layer() -> None:
    sealed = OVER.encrypt(SCAPY.encrypt(INNER, seq_num=3), seq_num=4)
    peeled = Peeler([CBC]).peel(bytes(sealed))
    assert peeled
    assert [str(layer) for layer in peeled.layers] == [
        "AH spi 0x00000008 sequence 4", "ESP spi 0x00000007 sequence 3",
    ]  # fmt: skip
    assert peeled.is_open
    assert peeled.payload == bytes(INNER[UDP])
    inside = Peeler().peel(bytes(INNER))
    assert inside
    assert peeled.carries(inside)
    other = Peeler().peel(bytes(IP(src=A, dst=B) / UDP(sport=5, dport=6) / b"others"))
    assert other
    assert not peeled.carries(other)


@pytest.mark.parametrize(
    ("first", "octets", "is_in"), [(1000, 100, True), (1900, 100, True), (1900, 101, False),
                                   (999, 10, False), (500, 2000, True)],
)  # fmt: skip
def test_a_segment_belongs_to_what_was_in_one_piece(first: int, octets: int, is_in: bool) -> None:
    def tcp(start: int, length: int) -> bytes:
        return bytes(IP(src=A, dst=B) / TCP(sport=1, dport=2, seq=start) / bytes(length))

    piece, whole = Peeler().peel(tcp(first, octets)), Peeler().peel(tcp(1000, 1000))
    assert piece
    assert whole
    assert piece.carries(whole) == is_in


def test_without_the_keys_only_the_outermost_is_read() -> None:
    sealed = bytes(SCAPY.encrypt(INNER, seq_num=3))
    for entries in ([], [SadEntry(satype=SaType.ESP, src=A, dst=B, spi=7)]):
        peeled = Peeler(entries).peel(sealed)
        assert peeled
        assert (peeled.is_open, len(peeled.layers)) == (False, 1)


def test_extended_numbers_are_followed_past_a_wrap() -> None:
    """The ICV covers an upper half that is not sent (RFC 4303 2.2.1, RFC 4106 5)."""
    key = bytes(range(20))
    entry = SadEntry(satype=SaType.ESP, src=A, dst=B, spi=7, encrypt=20, encrypt_key=key,
                     flags=SaFlag.ESN)  # fmt: skip
    scapy = SecurityAssociation(ESP, spi=7, crypt_algo="AES-GCM", crypt_key=key)
    peeler = Peeler([entry])
    for high, low, is_open in ((0, 0xFFFFFFFF, True), (1, 1, True), (3, 1, False), (2, 5, True)):
        sealed = scapy.encrypt(INNER, seq_num=low, esn_en=True, esn=high)
        peeled = peeler.peel(bytes(sealed))
        assert peeled
        assert peeled.is_open == is_open


def test_what_was_cut_before_it_was_sealed_belongs_to_the_whole() -> None:
    packet = bytes(IP(src=A, dst=B) / UDP(sport=5, dport=6) / os.urandom(4000))
    other = bytes(IP(src=A, dst=B) / UDP(sport=5, dport=6) / os.urandom(4000))
    inside, others = Peeler().peel(packet), Peeler().peel(other)
    assert inside
    assert others
    pieces = list(cut(packet, 1))
    assert len(pieces) == 3
    for piece in pieces:
        peeled = Peeler([CBC]).peel(bytes(SCAPY.encrypt(IP(piece), seq_num=3)))
        assert peeled
        assert peeled.carries(inside)
        assert not peeled.carries(others)


@given(st.binary(min_size=20, max_size=200), st.sampled_from(["esp", "ah", "ipcomp", "udp"]))
def test_any_octets_of_any_sa_can_be_looked_at(octets: bytes, proto: str) -> None:
    number = {"esp": 50, "ah": 51, "ipcomp": 108, "udp": 17}[proto]
    at = {"esp": 0, "ah": 4, "ipcomp": 0, "udp": 8}[proto]
    for entry in ODD:
        spi = entry.spi.to_bytes(4, "big")
        body = octets[:at] + spi + octets[at + 4 :]
        peeled = Peeler(ODD).peel(bytes(IP(src=A, dst=B, proto=number)) + body)
        assert peeled
        assert all(map(str, peeled.layers))


@given(st.binary(max_size=200), st.sampled_from([b"E", b"`", b"\x4f"]), st.integers(0, 255))
def test_any_octets_can_be_looked_at(octets: bytes, first: bytes, proto: int) -> None:
    packet = bytearray(first + octets.ljust(60, b"\0"))
    packet[9 if first != b"`" else 6] = proto
    for length in (len(packet), 60, 41, 30, 21, 8, 0):
        peeled = Peeler([CBC]).peel(bytes(packet[:length]))
        assert peeled is None or not peeled.carries(peeled) or peeled.is_open
    sealed = bytearray(bytes(SCAPY.encrypt(INNER, seq_num=3)))
    sealed[28:] = os.urandom(len(sealed) - 28)
    Peeler([CBC]).peel(bytes(sealed))


def test_wiresharks_table_has_esp_alone_and_names_what_it_does_not_know() -> None:
    ah = SadEntry(satype=SaType.AH, src=A, dst=B, spi=9, auth=3, auth_key=bytes(20))
    unknown = SadEntry(satype=SaType.ESP, src=A, dst=B, spi=10, encrypt=22, encrypt_key=KEY)
    lines = wireshark([CBC, ah, unknown]).splitlines()[1:]
    assert lines == [
        f'"IPv4","{A}","{R}","0x00000007","AES-CBC [RFC3602]","0x{KEY.hex()}",'
        f'"HMAC-SHA-1-96 [RFC2404]","0x{bytes(20).hex()}"',
        "# spi 0x0000000a: Wireshark does not know its algorithms",
    ]
