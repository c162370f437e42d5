"""ESP of before RFC 2406: RFC 1827, 1829, and DES with the sequence number for an IV.

No packets of theirs were published. DES is held to NIST's vectors in
`tests/pfkey/crypto/test_ciphers.py`; here the layout is held to the documents' drawings with
`cryptography` as the other side.
"""

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import SaSpec
from keyd.packet.ah import AhSa
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.packet.esp_old import DerivedEspSa, OldEspSa, esp_sa
from pfkey import algorithms
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, KameFlag, Mode
from tests.support.packets import A, B, frame, tcp, udp
from tests.support.pipelines import AH, ESP, TRANSPORT, Pair, Step, joined, whole

KEY = bytes.fromhex("0123456789abcdef")
DES, NULL, SHA1 = 2, 11, 3
HEADER = bytes.fromhex("4500001400070000400300000a0101010a020202")
payloads = st.binary(max_size=120)


def spec(
    flags: int, encrypt: int = DES, auth: int = 0, proto: int = IPPROTO_ESP, slot: int = 0
) -> SaSpec:
    row = algorithms.by_number("auth", auth)
    return SaSpec(
        slot=slot, proto=proto, spi=0x2694, src=A, dst=B, mode=Mode.TRANSPORT, flags=flags,
        encrypt=encrypt if proto == IPPROTO_ESP else 0,
        encrypt_key=KEY if encrypt == DES and proto == IPPROTO_ESP else b"",
        auth=auth, auth_key=bytes(range(row.min_bits // 8)) if row else b"",
    )  # fmt: skip


def opened(sa: EspSa, octets: bytes) -> tuple[int, bytes] | Drop:
    result = sa.open(octets)
    return result if isinstance(result, Drop) else (result[0], bytes(result[1]))


def plain_of(iv: bytes, ciphertext: bytes) -> bytes:
    """What the library decrypts by itself."""
    context = Cipher(TripleDES(KEY * 3), CBC(iv)).decryptor()
    return context.update(ciphertext) + context.finalize()


def test_flags_choose_the_variant() -> None:
    assert type(esp_sa(spec(0))) is EspSa
    assert type(esp_sa(spec(KameFlag.CYCSEQ))) is EspSa
    assert type(esp_sa(spec(KameFlag.OLD))) is OldEspSa
    assert type(esp_sa(spec(KameFlag.DERIV))) is DerivedEspSa


@given(payloads, st.binary(min_size=8, max_size=8))
def test_old_esp_is_spi_iv_and_ciphertext(payload: bytes, iv: bytes) -> None:
    sa = esp_sa(spec(KameFlag.OLD))
    octets = sa.seal(7, payload, 17, iv)
    assert octets[:12] == bytes.fromhex("00002694") + iv
    plain = plain_of(iv, octets[12:])
    assert plain[: len(payload)] == payload
    assert plain[-1] == 17
    assert len(plain) - len(payload) - 2 == plain[-2] < 8
    assert opened(sa, octets) == (17, payload)
    assert sa.sealed_size(len(payload)) == len(octets)
    assert not sa.has_authenticator


@given(payloads, st.binary(min_size=4, max_size=4))
def test_an_iv_of_32_bits_is_followed_by_its_complement(payload: bytes, iv: bytes) -> None:
    """RFC 1829 section 2."""
    sa = esp_sa(spec(KameFlag.OLD | KameFlag.IV4B))
    octets = sa.seal(7, payload, 17, iv)
    assert octets[:8] == bytes.fromhex("00002694") + iv
    plain = plain_of(iv + bytes(255 - octet for octet in iv), octets[8:])
    assert plain[: len(payload)] == payload
    assert opened(sa, octets) == (17, payload)
    assert (sa.iv_octets, sa.sealed_size(len(payload))) == (4, len(octets))


@given(payloads, st.integers(1, 2**32 - 1), st.sampled_from([0, SHA1]))
def test_a_derived_iv_is_the_number_and_its_complement(payload: bytes, seq: int, auth: int) -> None:
    sa = esp_sa(spec(KameFlag.DERIV, auth=auth))
    octets = sa.seal(seq, payload, 17)
    number = seq.to_bytes(4, "big")
    assert octets[:8] == bytes.fromhex("00002694") + number
    iv = number + bytes(255 - octet for octet in number)
    plain = plain_of(iv, octets[8 : len(octets) - sa.icv_octets])
    assert plain[: len(payload)] == payload
    assert opened(sa, octets) == (17, payload)
    assert (sa.iv_kind, sa.iv_octets, sa.sealed_size(len(payload))) == ("derived", 0, len(octets))
    changed = bytearray(octets)
    changed[-1] ^= 1
    if auth:
        assert opened(sa, bytes(changed)) is Drop.BADAUTH


def test_old_esp_does_null_too() -> None:
    sa = esp_sa(spec(KameFlag.OLD, encrypt=NULL))
    assert sa.seal(1, b"text", 6) == bytes.fromhex("00002694") + b"text" + bytes((1, 2, 2, 6))
    assert opened(sa, sa.seal(1, b"text", 6)) == (6, b"text")


@pytest.mark.parametrize("flags", [KameFlag.OLD, KameFlag.OLD | KameFlag.IV4B, KameFlag.DERIV])
def test_nobody_looks_at_the_pads_of_old_esp(flags: int) -> None:
    """RFC 1829 section 2 leaves them to the sender; today's ESP does not."""
    sender, receiver = esp_sa(spec(flags | KameFlag.ZERO_PAD)), esp_sa(spec(flags))
    sealed = sender.seal(1, b"x", 6, bytes(sender.iv_octets))
    assert opened(receiver, sealed) == ((6, b"x") if flags & KameFlag.OLD else Drop.BADENC)


@given(st.sampled_from([1, 17, 32]), st.binary(max_size=64))
def test_any_octets_open_or_drop_and_never_raise(flags: int, octets: bytes) -> None:
    result = esp_sa(spec(flags)).open(octets)
    assert isinstance(result, tuple) or result in (Drop.HDROPS, Drop.BADILEN, Drop.BADENC)


@given(st.sampled_from([1, 17, 32]), st.integers(0, 3000))
def test_max_payload_is_the_largest_that_fits(flags: int, room: int) -> None:
    sa = esp_sa(spec(flags))
    assert sa.sealed_size(sa.max_payload(room) + 1) > room
    assert sa.max_payload(room) < 0 or sa.sealed_size(sa.max_payload(room)) <= room


@pytest.mark.parametrize("name", ["hmac-md5", "hmac-sha1", "keyed-md5", "keyed-sha1"])
def test_old_ah_has_no_number_and_an_icv_of_128_bits(name: str) -> None:
    """RFC 1826 section 3, RFC 1828."""
    row = algorithms.by_name("auth", name)
    assert row
    sa = AhSa(spec(KameFlag.OLD, auth=row.number, proto=IPPROTO_AH))
    packet = sa.seal(HEADER, b"payload.", 7, 17)
    assert isinstance(packet, bytes)
    assert packet[20:28] == bytes((17, 4, 0, 0)) + bytes.fromhex("00002694")
    assert (sa.icv_octets, sa.overhead(4), packet[44:]) == (16, 24, b"payload.")
    result = sa.open(packet)
    assert not isinstance(result, Drop)
    assert (result[0], bytes(result[1])) == (17, b"payload.")
    assert sa.open(packet[:-1] + b"!") is Drop.BADAUTH
    assert sa.open(packet[:21] + b"\5" + packet[22:]) is Drop.BADILEN


VARIANTS: dict[str, tuple[Step, SaSpec]] = {
    "esp-old": ((ESP, TRANSPORT, A, B), spec(KameFlag.OLD)),
    "des-32iv": ((ESP, TRANSPORT, A, B), spec(KameFlag.OLD | KameFlag.IV4B)),
    "des-deriv": ((ESP, TRANSPORT, A, B), spec(KameFlag.DERIV, auth=SHA1)),
    "random-pad": ((ESP, TRANSPORT, A, B), spec(KameFlag.RANDOM_PAD, auth=SHA1)),
    "zero-pad": ((ESP, TRANSPORT, A, B), spec(KameFlag.ZERO_PAD, auth=SHA1)),
    "ah-old": ((AH, TRANSPORT, A, B), spec(KameFlag.OLD, auth=249, proto=IPPROTO_AH)),
    "gmac": ((AH, TRANSPORT, A, B), spec(0, auth=11, proto=IPPROTO_AH)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_passes_both_pipelines(name: str) -> None:
    step, made = VARIANTS[name]
    pair = Pair([step], A, B, make=lambda slot, step: made)
    packet = whole(A, B, 17, udp(b"hello"))
    (written,) = pair.receive(pair.send(frame(packet)))
    assert written[10:] == packet
    data = bytes(range(256)) * 60
    frames = pair.send(frame(whole(A, B, 6, tcp(data)), gso=1, gso_size=60000, csum=(20, 16)))
    assert len(frames) > 10
    assert joined(pair.receive(frames)) == data
    assert not pair.dropped().keys() & {("esp", "badenc"), ("esp", "badauth"), ("ah", "badauth")}
