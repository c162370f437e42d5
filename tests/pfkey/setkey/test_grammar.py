"""setkey's language: what each statement means, and how a wrong one is refused."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.const import Dir, KameFlag, Mode, MsgType, SaType
from pfkey.errors import ConfError
from pfkey.setkey import grammar, messages
from pfkey.setkey.lexer import Source
from pfkey.setkey.names import NumbersOnly
from pfkey.setkey.statements import (
    Context,
    DeleteAll,
    Host,
    Limits,
    SaStatement,
    SpdStatement,
    Statement,
    TableStatement,
)
from tests.pfkey.golden import GOLDEN, packed

FAQ = (GOLDEN / "faq.conf").read_text()


class Names(NumbersOnly):
    def hosts(self, name: str, family: int, is_numeric: bool) -> Sequence[Host]:
        both = [Host(packed("10.9.9.1")), Host(packed("10.9.9.2")), Host(packed("2001:db8::9"))]
        if name == "both.example" and not is_numeric:
            return [h for h in both if family in (0, 2 if len(h.address) == 4 else 10)]
        return super().hosts(name, family, is_numeric)

    def service(self, name: str) -> int:
        return {"http": 80}[name] if name == "http" else super().service(name)


def one(text: str) -> Statement:
    found, faults = grammar.parse(text, "x", Names())
    assert not faults, faults
    (statement,) = found
    return statement


def sa(text: str) -> SaStatement:
    found = one(text)
    assert isinstance(found, SaStatement)
    return found


def spd(text: str) -> SpdStatement:
    found = one(text)
    assert isinstance(found, SpdStatement)
    return found


def test_the_faq_parses() -> None:
    found, faults = grammar.parse(FAQ, "faq.conf")
    assert not faults
    assert len(found) == 12
    assert [s.line for s in found] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14]


def test_add_in_all_its_glory() -> None:
    found = sa(
        "add -n 10.0.0.1[4500] 10.0.0.2 esp-udp 192.168.1.5 0x1000 -m tunnel -u 7 -r 32"
        " -f zero-pad -f nocyclic-seq -lh 100 -ls 80 -bh 1000 -bs 800"
        ' -ctx 1 2 "a:b" -E aes-cbc 0x00112233445566778899aabbccddeeff'
        ' -A hmac-md5 "0123456789abcdef";'
    )
    assert found == SaStatement(
        line=1,
        type=MsgType.ADD,
        pairs=((Host(packed("10.0.0.1"), 4500), Host(packed("10.0.0.2"))),),
        satype=SaType.ESP,
        spi=0x1000,
        mode=Mode.TUNNEL,
        reqid=7,
        replay=32,
        flags=KameFlag.ZERO_PAD,
        hard=Limits(100, 1000),
        soft=Limits(80, 800),
        context=Context(1, 2, b"a:b\0"),
        encrypt=12,
        auth=2,
        encrypt_key=bytes.fromhex("00112233445566778899aabbccddeeff"),
        auth_key=b"0123456789abcdef",
        is_natt=True,
        natt_oa=Host(packed("192.168.1.5")),
    )
    assert "0123" not in repr(found)


def test_an_spi_after_esp_udp_is_no_address() -> None:
    found = sa("add 1.1.1.1 2.2.2.2 esp-udp 4660 -E null;")
    assert (found.spi, found.natt_oa) == (4660, None)


def test_keys_are_text_or_hexadecimal() -> None:
    text = sa('add 1.1.1.1 2.2.2.2 esp 5 -E des-cbc "123456é";')
    assert text.encrypt_key == "123456é".encode()
    assert sa("add 1.1.1.1 2.2.2.2 esp 5 -E des-cbc 0x123456789abcdef;").encrypt_key == (
        bytes.fromhex("0123456789abcdef")
    )
    raw, _ = grammar.parse(
        b'add 1.1.1.1 2.2.2.2 esp 5 -E des-cbc "\xff2345678";'.decode("utf-8", "surrogateescape")
    )
    assert isinstance(raw[0], SaStatement)
    assert raw[0].encrypt_key == b"\xff2345678"


def test_null_takes_no_key() -> None:
    assert sa("add 1.1.1.1 2.2.2.2 esp 5 -E null;").encrypt_key is None
    assert sa('add 1.1.1.1 2.2.2.2 esp 5 -E null "" -A null;').auth == 251


def test_old_forms_set_flags() -> None:
    found = sa('add 1.1.1.1 2.2.2.2 esp-old 5 -E des-32iv "12345678";')
    assert found.flags == KameFlag.CYCSEQ | KameFlag.OLD | KameFlag.IV4B
    assert found.encrypt == 2
    assert sa('add 1.1.1.1 2.2.2.2 esp 5 -E des-deriv "12345678";').flags & KameFlag.DERIV
    assert sa("add 1.1.1.1 2.2.2.2 ipcomp 5 -C deflate -R;").flags & KameFlag.RAWCPI


def test_extended_sequence_numbers_are_a_flag_as_on_freebsd() -> None:
    found = sa("add 1.1.1.1 2.2.2.2 esp 5 -r 64 -esn -E null;")
    assert found.flags == KameFlag.CYCSEQ | 0x400


def test_a_name_stands_for_all_its_addresses() -> None:
    assert len(sa("add both.example 10.0.0.1 esp 5 -E null;").pairs) == 2
    assert len(sa("add both.example both.example esp 5 -E null;").pairs) == 5
    assert len(sa("add -6 both.example both.example esp 5 -E null;").pairs) == 1


def test_every_command_is_known() -> None:
    assert sa("update 1.1.1.1 2.2.2.2 ah 5 -A null;").type == MsgType.UPDATE
    assert sa("getspi 1.1.1.1 2.2.2.2 esp 0;").type == MsgType.GETSPI
    assert sa("get 1.1.1.1 2.2.2.2 esp 5;").type == MsgType.GET
    assert sa("delete 1.1.1.1 2.2.2.2 esp 5 -m any;").type == MsgType.DELETE
    assert one("deleteall 1.1.1.1 2.2.2.2 ah;") == DeleteAll(
        line=1, pair=(Host(packed("1.1.1.1")), Host(packed("2.2.2.2"))), satype=SaType.AH
    )
    assert one("flush esp;") == TableStatement(line=1, type=MsgType.FLUSH, satype=SaType.ESP)
    assert one("dump;") == TableStatement(line=1, type=MsgType.DUMP)
    assert one("spdflush;") == TableStatement(line=1, type=MsgType.X_SPDFLUSH)
    assert one("spddump;") == TableStatement(line=1, type=MsgType.X_SPDDUMP)
    assert spd("spdupdate 1.1.1.1 2.2.2.2 any -P out none;").type == MsgType.X_SPDUPDATE
    assert spd("spddelete 1.1.1.1 2.2.2.2 any -P out;").policy.dir == Dir.OUT


@pytest.mark.parametrize("word", ["exit", "quit", "bye"])
def test_what_follows_exit_is_not_read(word: str) -> None:
    found, faults = grammar.parse(f"flush; {word}; bogus;")
    assert (len(found), faults) == (1, [])


def test_selectors() -> None:
    found = spd("spdadd 10.0.0.0/8[http] 1.1.1.1[any] 17 -P in none;")
    assert found.src == (Host(packed("10.0.0.0"), 80), 8)
    assert found.dst == (Host(packed("1.1.1.1")), 32)
    assert found.proto == 17
    assert spd("spdadd ::/0 ::/0 icmp6 135,2 -P in none;").src.host.port == 135
    assert spd("spdadd ::/0 ::/0 icmp6 135,2 -P in none;").dst.host.port == 2
    assert spd("spdadd 1.1.1.1 1.1.1.2 ip4 -P in none;").proto == 4
    gre = spd("spdadd 1.1.1.1 1.1.1.2 gre 1.2.3.4 -P in none;")
    assert (gre.src.host.port, gre.dst.host.port) == (0x0102, 0x0304)
    assert spd("spdadd 1.1.1.1 1.1.1.2 gre 65537 -P in none;").dst.host.port == 1
    assert spd('spdadd 1.1.1.1 1.1.1.2 any -ctx 1 1 "c" -P in none;').context is not None


def test_comments_inside_a_policy_are_skipped() -> None:
    found = spd("spdadd 1.1.1.1 1.1.1.2 any -P out ipsec # first\n esp/transport//use # last\n;")
    assert len(found.policy.requests) == 1


REFUSED = {
    "bogus;": (1, "syntax error", "bogus"),
    "flush": (6, "syntax error: ;", "end of input"),
    "flush esp esp;": (11, "syntax error", "esp"),
    "flush tcp;": (7, "tcp-md5 cannot be used here", "tcp"),
    "conn west": (1, "this is a strongSwan or libreswan file", "conn"),
    "config setup\n\tstrictcrl=no;": (1, "this is a strongSwan or libreswan file", "config"),
    "setkey -c <<EOF": (1, "this is a shell script", "setkey"),
    "add 1.1.1.1;": (12, "syntax error: an address", ";"),
    "add nowhere 1.1.1.1 esp 5 -E null;": (5, "Name or service not known", "nowhere"),
    "add 1.1.1.1 ::1 esp 5 -E null;": (13, "Family mismatch", "::1"),
    "add -4 ::1 ::1 esp 5 -E null;": (8, "Name or service not known", "::1"),
    "add 1.1.1.1 2.2.2.2 udp 5;": (21, "syntax error: none of esp", "udp"),
    "add 1.1.1.1 2.2.2.2 esp x5;": (25, "invalid SPI", "x5"),
    "add 1.1.1.1 2.2.2.2 esp 4294967296 -E null;": (25, "SPI too big.", "4294967296"),
    "add 1.1.1.1 2.2.2.2 ipcomp 65536 -C deflate;": (28, "SPI too big.", "65536"),
    "add 1.1.1.1 2.2.2.2 esp 5;": (26, "No algorithm specified", ";"),
    "add 1.1.1.1 2.2.2.2 ah 5;": (25, "No algorithm specified", ";"),
    "add 1.1.1.1 2.2.2.2 ipcomp 5;": (29, "No algorithm specified", ";"),
    "add 1.1.1.1 2.2.2.2 ah 5 -E null;": (26, "syntax error: -E does not go with ah", "-E"),
    "add 1.1.1.1 2.2.2.2 esp 5 -R;": (27, "syntax error", "-R"),
    "add 1.1.1.1 2.2.2.2 esp 5 -E rot13 0x00;": (30, "unsupported algorithm", "rot13"),
    "add 1.1.1.1 2.2.2.2 tcp 5 -A tcp-md5 0x00;": (21, "tcp-md5 cannot be used here", "tcp"),
    'add 1.1.1.1 2.2.2.2 esp 5 -E des-32iv "12345678";': (30, "algorithm mismatched", "des-32iv"),
    "add 1.1.1.1 2.2.2.2 esp 5 -E 3des-cbc 0xdead;": (
        39, "Invalid key length: 3des-cbc takes 192 bits, got 16", "······"
    ),
    'add 1.1.1.1 2.2.2.2 esp 5 -E aes-cbc "17 octets is bad.";': (
        38, "Invalid key length: aes-cbc takes 128, 192 or 256 bits, got 136", "·" * 19
    ),
    "add 1.1.1.1 2.2.2.2 esp 5 -E null 0xdead;": (35, "Invalid key length: null", "······"),
    "add 1.1.1.1 2.2.2.2 esp 5 -E aes-cbc;": (37, "syntax error: a key", ";"),
    'add 1.1.1.1 2.2.2.2 esp 5 -E aes-cbc "abc;': (38, "syntax error: this string has no", "·"),
    "add 1.1.1.1 2.2.2.2 esp 5 -m tunel -E null;": (30, "syntax error: none of transport", "tunel"),
    "add 1.1.1.1 2.2.2.2 esp 5 -f fat-pad -E null;": (30, "syntax error: none of zero", "fat-pad"),
    "add 1.1.1.1 2.2.2.2 esp 5 -r 32769 -E null;": (30, "the size of the replay", "32769"),
    "add 1.1.1.1 2.2.2.2 esp 5 -u x -E null;": (30, "syntax error: a request number", "x"),
    "add 1.1.1.1 2.2.2.2 esp 5 -r 4 -r 4 -E null;": (32, "syntax error: -r is given", "-r"),
    "get both.example 1.1.1.1 esp 5;": (5, "multiple address specified", "both.example"),
    "spdadd both.example 1.1.1.1 any -P in none;": (8, "multiple address", "both.example"),
    "spdadd 1.1.1.1/33 1.1.1.1 any -P in none;": (16, "Invalid prefix length", "33"),
    "spdadd 1.1.1.1[65536] 1.1.1.1 tcp -P in none;": (16, "a port is at most", "65536"),
    "spdadd 1.1.1.1[gopher] 1.1.1.1 tcp -P in none;": (16, "Servname not", "gopher"),
    "spdadd 1.1.1.1[80 1.1.1.1 tcp -P in none;": (19, "syntax error: ]", "1.1.1.1"),
    "spdadd 1.1.1.1 ::1 any -P in none;": (16, "Family mismatch", "::1"),
    "spdadd 1.1.1.1 1.1.1.1 what -P in none;": (24, "invalid upper layer protocol", "what"),
    "spdadd 1.1.1.1 1.1.1.1 256 -P in none;": (24, "invalid upper layer protocol", "256"),
    "spdadd 1.1.1.1 1.1.1.1 tcp 8 -P in none;": (28, "syntax error: only icmp", "8"),
    "spdadd 1.1.1.1 1.1.1.1 icmp 8,256 -P in none;": (29, "syntax error: type", "8,256"),
    "spdadd 1.1.1.1[1] 1.1.1.1 icmp 8 -P in none;": (32, "syntax error: this value", "8"),
    "spdadd 1.1.1.1 1.1.1.1 gre abc -P in none;": (28, "syntax error: a GRE key", "abc"),
    "spdadd 1.1.1.1 1.1.1.1 any;": (27, "syntax error: -P", ";"),
    "spdadd 1.1.1.1 1.1.1.1 any -P in;": (33, "Too few arguments", " in"),
    "spdadd 1.1.1.1 1.1.1.1 any -P out ipsec esp;": (44, "Too few arguments", " out ipsec esp"),
    "spdadd 1.1.1.1 1.1.1.1 any -P out ipsec esp/tunnel//require;": (
        41, "Invalid address specification", " out ipsec esp/tunnel//require"
    ),
    'spdadd tagged "x" -P out none;': (8, "tagged policies need", "tagged"),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_statement_is_refused_where_it_is_wrong(text: str) -> None:
    found, (fault,) = grammar.parse(text, "x", Names())
    column, why, token = REFUSED[text]
    assert not found
    assert (fault.line, fault.column, fault.token) == (1, column, token)
    assert fault.why.startswith(why)


PASTED = {
    "add 1.1.1.1 2.2.2.2 esp 5 -E 3des-cbc “hogehogehogehogehogehoge”;": '“ is U+201C: write "',
    "add 1.1.1.1 2.2.2.2 esp 5 -E 3des-cbc 'hogehogehogehogehogehoge';": 'double quotes: write "',
    "add 1.1.1.1 2.2.2.2 esp 5 –E null;": "– is U+2013: write -",
    "spdadd 1.1.1.1 2.2.2.2 any −P out none;": "− is U+2212: write -",
    "spdadd 1.1.1.1 2.2.2.2 any -P in ipsec ah/tunnel/1.1.1.1—2.2.2.2/use;": "— is U+2014: write -",
    "flush；": "； is U+FF1B: write ;",
    "flush\u200b;": "remove the invisible U+200B",
    "add 1.1.1.1 2.2.2.2 esp 5 \\\n  -E null;": "goes on to its ; without a \\",
}  # fmt: skip


@pytest.mark.parametrize("text", PASTED)
def test_what_a_web_page_made_of_a_character_is_told(text: str) -> None:
    _, faults = grammar.parse(text, "x")
    assert PASTED[text] in faults[0].why


@pytest.mark.parametrize(
    "key", ["“hogehoge”", "'hogehoge'", "hogehoge", "0x0123 hogehoge", '"hogehoge', "0xhogehoge"]
)
@pytest.mark.parametrize("blank", [" ", "\n"])
def test_what_was_meant_for_a_key_is_not_repeated(key: str, blank: str) -> None:
    text = f"add 1.1.1.1 2.2.2.2 esp 5 -E 3des-cbc{blank}{key} -A hmac-md5 hogehoge;"
    _, faults = grammar.parse(text, "x")
    for fault in faults:
        said = f"{fault.why} {fault.token} {Source('x', text).caret(fault)}"
        assert "hogehoge" not in said


def test_every_fault_of_a_file_is_found() -> None:
    found, faults = grammar.parse("flush;\nbogus;\ndump;\nadd;\n", "x")
    assert len(found) == 2
    assert [fault.line for fault in faults] == [2, 4]


def test_what_the_engine_does_not_offer_is_refused_early() -> None:
    offered = {("encrypt", 12): (128, 128)}
    _, (fault,) = grammar.parse("add 1.1.1.1 2.2.2.2 esp 5 -E des-cbc 0x0123456789abcdef;", "x",
                                None, offered)  # fmt: skip
    assert fault.why == "Not supported: the key engine does not offer des-cbc"
    key = "00" * 32
    _, (fault,) = grammar.parse(
        f"add 1.1.1.1 2.2.2.2 esp 5 -E aes-cbc 0x{key};", "x", None, offered
    )
    assert fault.why == (
        "Invalid key length: the key engine takes 128 to 128 bits for aes-cbc, got 256"
    )


words = st.sampled_from(
    [*grammar.COMMANDS, "1.1.1.1", "::1", "/24", "[80]", "esp", "ah", "ipcomp", "esp-udp", "5",
     "0x1000", "-E", "-A", "-C", "-m", "-u", "-r", "-f", "-lh", "-P", "-ctx", "any", "icmp", "gre",
     "aes-cbc", "hmac-md5", "deflate", "null", '"0123456789abcdef"', "out", "in", "ipsec", "none",
     "esp/transport//use", ";", "\n", "#", '"', "8,0", "tunnel", "-4"]
)  # fmt: skip


@given(st.lists(words, max_size=30).map(" ".join) | st.text(max_size=80))
def test_any_text_parses_or_has_faults_with_a_place(text: str) -> None:
    found, faults = grammar.parse(text, "x")
    for statement in found:
        for message in messages.of_statement(statement, 1, has_fwd_copy=True):
            assert message.encode()
    for fault in faults:
        assert isinstance(fault, ConfError)
        assert 1 <= fault.line <= text.count("\n") + 1
        assert fault.column >= 1
        assert fault.token


@pytest.mark.slow
def test_twenty_thousand_lines_take_seconds_not_minutes() -> None:
    text = FAQ * 1700
    began = time.process_time()
    found, faults = grammar.parse(text, "x")
    assert (len(found), len(faults)) == (12 * 1700, 0)
    assert time.process_time() - began < 10  # about one on an idle machine
