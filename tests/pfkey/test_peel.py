"""Layers are taken off with the keys; whatever the octets are, nothing is raised."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from pfkey.const import SaType
from pfkey.entries import SadEntry
from pfkey.peel import Peeler, wireshark

A, B, R = "10.1.1.1", "20.1.1.1", "30.1.1.1"
KEY = bytes(range(16))
CBC = SadEntry(satype=SaType.ESP, src=A, dst=R, spi=7, encrypt=12, encrypt_key=KEY, auth=3,
               auth_key=bytes(20))  # fmt: skip
SCAPY = SecurityAssociation(
    ESP, spi=7, crypt_algo="AES-CBC", crypt_key=KEY, auth_algo="HMAC-SHA1-96",
    auth_key=bytes(20), tunnel_header=IP(src=A, dst=R),
)  # fmt: skip
OVER = SecurityAssociation(AH, spi=8, auth_algo="HMAC-SHA1-96", auth_key=bytes(20))
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


@given(st.binary(max_size=200), st.sampled_from([b"E", b"`", b"\x4f"]), st.integers(0, 255))
def test_any_octets_can_be_looked_at(octets: bytes, first: bytes, proto: int) -> None:
    packet = bytearray(first + octets.ljust(60, b"\0"))
    packet[9 if first != b"`" else 6] = proto
    for cut in (len(packet), 60, 41, 30, 21, 8, 0):
        peeled = Peeler([CBC]).peel(bytes(packet[:cut]))
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
