"""Statements as messages, octet for octet as a setkey on Linux sends them (little-endian)."""

import sys

import pytest

from pfkey.const import Dir, ExtType, MsgType, SaType
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from pfkey.setkey import grammar, messages
from pfkey.setkey.statements import DeleteAll
from tests.pfkey.golden import GOLDEN, end

PID = 0x4D

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden octets are little")


def sent(text: str, *, has_fwd_copy: bool = False) -> list[Message]:
    found, faults = grammar.parse(text, "x")
    assert not faults, faults
    return [
        message
        for statement in found
        for message in messages.of_statement(statement, PID, has_fwd_copy=has_fwd_copy)
    ]


def one(text: str) -> Message:
    (message,) = sent(text)
    return message


def order(message: Message) -> list[ExtType]:
    return [ExtType(extension.exttype) for extension in message.extensions]


def test_the_faqs_first_add_is_sixteen_words() -> None:
    octets = one('add 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";').encode()
    assert octets.hex() == (
        "0203000310000000000000004d000000"  # version 2, ADD, ESP, 16 words, seq 0, pid
        "04000900c0000000" + "686f6765" * 6 +  # KEY_ENCRYPT, 192 bits
        "02000100000026940000000340000000"  # SA: SPI in network order, 3des, cycling sequence
        "02001300000000000000000000000000"  # SA2
        "03000500ff200000020000000a0101010000000000000000"  # SRC
        "03000600ff20000002000000140101010000000000000000"  # DST
    )  # fmt: skip


def test_the_faqs_first_policy_is_twelve_words() -> None:
    octets = one("spdadd 10.1.1.1 20.1.1.1 any -P out ipsec esp/transport//use;").encode()
    assert octets.hex() == (
        "020e00000c000000000000004d000000"
        "04001200020002000000000000000080"  # POLICY: ipsec, out, priority def
        "10003200010100000000000000000000"  # one request of 16 octets: esp, transport, use
        "03000500ff200000020000000a0101010000000000000000"
        "03000600ff20000002000000140101010000000000000000"
    )


def test_every_statement_of_the_faq_has_its_message() -> None:
    found = sent((GOLDEN / "faq.conf").read_text())
    assert len(found) == 12
    for message in found:
        assert Message.decode(message.encode(), is_request=True) == message


def test_extensions_come_in_setkeys_order() -> None:
    text = (
        'add 1.1.1.1[5] 2.2.2.2 esp-udp 9.9.9.9 300 -lh 9 -ls 8 -ctx 1 1 "c" -E null'
        ' -A hmac-md5 "0123456789abcdef";'
    )
    assert order(one(text)) == [
        ExtType.KEY_ENCRYPT, ExtType.KEY_AUTH, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT,
        ExtType.X_SEC_CTX, ExtType.SA, ExtType.X_SA2, ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_OA,
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT,
    ]  # fmt: skip
    found = one(text)
    assert found.nat_t_sport is not None
    assert found.nat_t_dport is not None
    assert (found.nat_t_sport.port, found.nat_t_dport.port) == (5, 4500)


def test_null_encryption_sends_a_key_of_no_bits_and_null_authentication_none() -> None:
    found = one("add 1.1.1.1 2.2.2.2 esp 300 -E null -A null;")
    assert found.key_encrypt is not None
    assert found.key_encrypt.bits == 0
    assert found.key_auth is None
    assert found.sa is not None
    assert (found.sa.encrypt, found.sa.auth) == (11, 251)


def test_ipcomp_has_no_keys() -> None:
    found = one("add 1.1.1.1 2.2.2.2 ipcomp 300 -C deflate;")
    assert order(found) == [ExtType.SA, ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST]
    assert found.sa is not None
    assert found.sa.encrypt == 2


def test_one_lifetime_brings_the_other_as_unlimited() -> None:
    found = one("add 1.1.1.1 2.2.2.2 esp 300 -lh 60 -bh 900 -E null;")
    assert found.hard is not None
    assert found.soft is not None
    assert (found.hard.addtime, found.hard.octets) == (60, 900)
    assert (found.soft.addtime, found.soft.octets) == (0, 0)
    assert one("add 1.1.1.1 2.2.2.2 esp 300 -E null;").hard is None


def test_getspi_asks_for_exactly_one_spi() -> None:
    found = one("getspi 1.1.1.1 2.2.2.2 esp 0x5000;")
    assert order(found)[:3] == [ExtType.SPIRANGE, ExtType.SA, ExtType.X_SA2]
    assert found.spirange is not None
    assert (found.spirange.min, found.spirange.max) == (0x5000, 0x5000)
    assert len(found.encode()) == 14 * 8
    assert one("getspi 1.1.1.1 2.2.2.2 esp 0;").spirange is None


@pytest.mark.parametrize("word", ["get", "delete"])
def test_get_and_delete_are_twelve_words(word: str) -> None:
    found = one(f"{word} 1.1.1.1 2.2.2.2 esp 0x5000;")
    assert len(found.encode()) == 12 * 8
    assert found.sa is not None
    assert found.sa.flags == 0x40


def test_spddelete_is_ten_words() -> None:
    octets = one("spddelete 1.1.1.1 2.2.2.2 any -P out;").encode()
    assert len(octets) == 10 * 8
    assert octets[16:32].hex() == "02001200000002000000000000000000"


def test_tables_are_bare_headers() -> None:
    assert one("flush;").encode().hex() == "0209000002000000000000004d000000"
    assert one("spdflush;").encode().hex() == "0213000002000000000000004d000000"
    assert one("dump esp;").encode().hex() == "020a000302000000000000004d000000"


def test_ports_are_in_network_order_in_both_addresses() -> None:
    found = one("spdadd 1.1.1.1[110] 2.2.2.2 tcp -P out none;")
    assert bytes.fromhex("0200006e01010101") in found.encode()
    assert found.src is not None
    assert found.dst is not None
    assert (found.src.proto, found.dst.proto, found.dst.port) == (6, 6, 0)


def test_the_copy_for_forwarding_differs_only_where_it_must() -> None:
    text = "spdadd 1.1.1.0/24 2.2.2.2 any -P in ipsec esp/tunnel/1.1.1.1-2.2.2.2/unique:7;"
    first, copy = sent(text, has_fwd_copy=True)
    assert len(sent(text)) == 1
    assert first.policy is not None
    assert copy.policy is not None
    assert (first.policy.dir, copy.policy.dir) == (Dir.IN, Dir.FWD)
    assert (copy.policy.requests[0].level, copy.policy.requests[0].reqid) == (2, 0)
    assert first.policy.requests[0].src == copy.policy.requests[0].src
    assert len(sent("spdadd 1.1.1.1 2.2.2.2 any -P out none;", has_fwd_copy=True)) == 1
    assert len(sent("spddelete 1.1.1.1 2.2.2.2 any -P in;", has_fwd_copy=True)) == 2


def test_deleteall_dumps_and_deletes_what_lies_between() -> None:
    text = "deleteall 1.1.1.1 2.2.2.2 esp;"
    (statement,), _ = grammar.parse(text)
    assert isinstance(statement, DeleteAll)
    assert one(text).type == MsgType.DUMP

    def record(src: str) -> Message:
        ends = (end(ExtType.ADDRESS_SRC, src), end(ExtType.ADDRESS_DST, "2.2.2.2"))
        return Message(type=MsgType.DUMP, satype=SaType.ESP, extensions=(Sa(spi=300), Sa2(), *ends))

    found = messages.delete_of(statement, record("1.1.1.1"), PID)
    assert found is not None
    assert (found.type, found.satype, found.pid) == (MsgType.DELETE, SaType.ESP, PID)
    assert found.sa == Sa(spi=300)
    assert messages.delete_of(statement, record("1.1.1.2"), PID) is None
