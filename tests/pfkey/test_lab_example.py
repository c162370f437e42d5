"""The lab's examples as data: the FAQ's words, and what is made from them."""

import hashlib

import pytest

from pfkey.lab.catalogue import EXAMPLES
from pfkey.lab.example import (
    AH,
    ESP,
    Derive,
    Example,
    Given,
    deletion,
    example_file,
    manual_sas,
    policies_out,
)

# what the FAQ prints, by its digest: nobody may better it
DIGESTS = {
    "1-encryption.sh":
        "c84d8353a68b9eae00fa5df6a33fae214135fa5efba1936cd97c7efa6c64d710",
    "1-peer.sh":
        "c2bb8723b344df1a7a0074043de12ca4a52c4582fc62b8c46d06fd0e9da4ab6b",
    "1-require.conf":
        "2090f7446c70b39be575737d9621b19907534516df547f3346923b4f15a23587",
    "3-rijndael.sh":
        "3811bbac8e5256e1b0e66ed3b415e2d8cae9ce6774575d2db11ba6a6e607b305",
    "4-authentication.sh":
        "052970e8139f1f5f880f46f1db4b02528f5c6be4565dff1ff5ffc1bca774ec1c",
    "5-both.sh":
        "044d5fb427ffe9b86d75c9c4b937123dc6fd60d641985aa0048b6e515118fcea",
    "6-vpn-gateway1.sh":
        "482b9ac3b5aa50bd834e2ddba4477d4dc3f95d483e1502e81629237412e55644",
    "7-leaf.sh":
        "1ce27850cf450ddbaa80cca2d787b29822bc3b4b5837efd159258ce2fb9d70ef",
    "9-ike-pop3-A.conf":
        "4d85c434bf968e276a346271987ead5b68ef32a09a7dbc0d7e013b58f4b7c16d",
    "9-ike-pop3-B.conf":
        "bd4433876276384019cd8cb08962fab03c8895b690446dfb005f17b71ab5285c",
}  # fmt: skip


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", DIGESTS)
def test_the_words_are_the_faqs(name: str) -> None:
    assert hashlib.sha256(example_file(name).read_bytes()).hexdigest() == DIGESTS[name]


def test_the_peer_made_from_the_first_file_is_the_one_that_the_faq_prints() -> None:
    made = Given(host="peer", file="1-encryption.sh", derive=Derive.SWAP_ADDRESSES)
    assert commands(made.text) == commands(example_file("1-peer.sh").read_text())


def test_the_second_gateway_has_the_same_keys_and_in_and_out_swapped() -> None:
    one = Given(host="gw1", file="6-vpn-gateway1.sh")
    two = Given(host="gw2", file="6-vpn-gateway1.sh", derive=Derive.SWAP_DIRECTIONS)
    assert manual_sas(two.text) == manual_sas(one.text)
    assert policies_out(two.text) == (
        "spdadd 10.0.2.0/24 10.0.1.0/24 any -P out ipsec esp/tunnel/20.0.0.2-20.0.0.1/require ;",
    )
    assert "10.0.1.0/24 10.0.2.0/24 any -P in ipsec esp/tunnel/20.0.0.1-20.0.0.2/" in two.text


def test_placeholders_become_addresses() -> None:
    given = Given(host="a", file="9-ike-pop3-B.conf", names=(("A", "10.1.1.1"), ("B", "20.1.1.1")))
    assert given.text.splitlines() == [
        "spdadd 20.1.1.1 10.1.1.1[110] tcp -P out ipsec ah/transport//require;",
        "spdadd 10.1.1.1[110] 20.1.1.1 tcp -P in ipsec ah/transport//require;",
    ]


def test_sas_of_a_file_are_read_with_their_keys() -> None:
    esp, esp_back, ah, _ = manual_sas(example_file("5-both.sh").read_text())
    assert (esp.src, esp.dst, esp.proto, esp.spi) == ("10.1.1.1", "20.1.1.1", ESP, 9876)
    assert (esp.option, esp.algorithm, esp.key) == ("-E", "3des-cbc", b"hoge" * 6)
    assert esp_back.key == bytes.fromhex("deadbeef" * 6)
    assert (ah.proto, ah.spi, ah.algorithm) == (AH, 9877, "hmac-md5")


def test_a_wrong_key_is_as_long_and_another() -> None:
    for sa in manual_sas(example_file("6-vpn-gateway1.sh").read_text()):
        (wrong,) = manual_sas(sa.with_wrong_key())
        assert len(wrong.key) == len(sa.key)
        assert wrong.key != sa.key
        assert manual_sas(sa.again()) == (sa,)


def test_a_policy_is_deleted_by_what_made_it() -> None:
    (made,) = policies_out(example_file("3-rijndael.sh").read_text())
    assert deletion(made) == "spddelete 10.1.1.1 20.1.1.1 any -P out;"


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_each_layer_has_an_sa_in_each_direction(example: Example) -> None:
    for proto in example.layers:
        there = example.sa(proto, towards_peer=True)
        back = example.sa(proto, towards_peer=False)
        assert (there.src, there.dst) == (back.dst, back.src)
        assert there.spi != back.spi
