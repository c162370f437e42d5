"""What the extensions with a variable part refuse, and the rule they name."""

import pytest

from pfkey.const import AF_INET, ExtType
from pfkey.dialect import LINUX
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTPort
from pfkey.message import DECODERS, Extension


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        ("03000a000200000000000000000000006162636465666768", "does not end with NUL"),
        ("02000c00000000000001000000000000", "1 bitmap words in 16 octets"),
        ("03000c00000000000001000100000000" + "00" * 8, "2 bitmap words in 24 octets"),
        ("02000d0020000000" + "00" * 8, "8 octets are no whole number of 72-octet"),
        ("0200180001010000" + "00" * 8, "a label of 0 octets in 2 words"),
        ("0100180001010100", "a label of 1 octets in 1 words"),
        ("0200190000000000" + "02" + "00" * 7, "8 octets hold no pair of sockaddr_in"),
        ("0100080009000000", "9 bits take 2 octets, 0 are there"),
    ],
)
def test_structure_is_strict(octets: str, why: str) -> None:
    raw = bytes.fromhex(octets)
    with pytest.raises(WireError, match=why):
        DECODERS[raw[2]](raw, 0, LINUX)


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        (Sa(spi=2**32), "spi does not fit"),
        (Address(exttype=5, address=bytes(4), prefixlen=33), "prefix of 33 bits"),
        (Address(exttype=5, address=bytes(16), prefixlen=129), "prefix of 129 bits"),
        (Address(exttype=5, address=bytes(5), prefixlen=1), "an address of 5 octets"),
        (Address(exttype=5, address=bytes(4), prefixlen=1, port=65536), "port does not fit"),
        (Key(exttype=8, bits=128, key=bytes(15)), "128 bits in 15 octets"),
        (Key(exttype=8, bits=65544, key=bytes(8193)), "bits does not fit"),
        (Ident(exttype=10, kind=1, text=b"a\0b"), "NUL inside"),
        (Sensitivity(sens_bitmap=(2**64,)), "64 bits"),
        (Sensitivity(sens_bitmap=(0,) * 256), "sens_len does not fit"),
        (Proposal(replay=256), "replay does not fit"),
        (SpiRange(min=-1, max=0), "min does not fit"),
        (NatTPort(exttype=21, port=70000), "port does not fit"),
        (SecCtx(doi=1, alg=1, context=bytes(65536)), "ctx_len does not fit"),
        (KmPrivate(data=b"abc"), "no whole words"),
        (KmAddress(local=bytes(4), remote=bytes(16)), "families differ"),
        (Filter(family=2, saddr=bytes(4)), "saddr does not fit"),
    ],
)
def test_values_that_do_not_fit_are_wire_errors(extension: Extension, why: str) -> None:
    with pytest.raises(WireError, match=why) as caught:
        extension.encode()
    assert caught.value.part.startswith(("sadb_", "sockaddr"))


def test_an_empty_key_is_an_extension_of_one_word() -> None:
    assert Key(exttype=ExtType.KEY_ENCRYPT, bits=0, key=b"").encode() == bytes.fromhex(
        "0100090000000000"
    )


def test_an_identity_without_text_takes_no_octets() -> None:
    assert len(Ident(exttype=ExtType.IDENTITY_SRC, kind=1).encode()) == 16
    assert len(Ident(exttype=ExtType.IDENTITY_SRC, kind=2, text=b"1234567").encode()) == 24
    assert len(Ident(exttype=ExtType.IDENTITY_SRC, kind=2, text=b"12345678").encode()) == 32


def test_spi_range_is_in_host_order_and_the_spi_in_network_order() -> None:
    assert SpiRange(min=0x100, max=0x1FF).encode()[4:12] == bytes.fromhex("00010000ff010000")
    assert Sa(spi=0x2694).encode()[4:8] == bytes.fromhex("00002694")


def test_addresses_say_their_family_and_show_themselves() -> None:
    address = Address(exttype=5, address=bytes([192, 0, 2, 1]), prefixlen=32)
    assert (address.family, address.text) == (AF_INET, "192.0.2.1")


def test_a_filter_cuts_addresses_to_its_family() -> None:
    both = bytes(range(16))
    assert Filter(family=AF_INET, saddr=both, daddr=both).src == both[:4]
    assert Filter(family=AF_INET, saddr=both, daddr=both).dst == both[:4]
    assert Filter(family=10, saddr=both, daddr=both).src == both


def test_a_key_is_masked() -> None:
    assert "secret" not in repr(Key(exttype=8, bits=48, key=b"secret"))
