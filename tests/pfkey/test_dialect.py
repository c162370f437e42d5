"""The dialects whole: golden messages of each system, the table-driven encoder, limits."""

import json
from dataclasses import replace
from errno import EAGAIN

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import document, monitor, text
from pfkey.const import Dir, ExtType, IdentType, Mode, MsgType, OpenbsdFlag, SaType
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect, digits, is_own
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_sa import Sa
from pfkey.ext_x_bsd import Credential, IfHwOffload, Protocol, Tag
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.flows import flow
from pfkey.message import Extension, Message
from pfkey.setkey.main import main
from tests.pfkey import golden, golden_dialects, strategies, tabled
from tests.support.schema import check_schema, schema

EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
GOLDEN = pytest.mark.parametrize("name", golden_dialects.ALL)


@GOLDEN
def test_golden_messages_are_built_and_read(name: str) -> None:
    dialect, message = golden_dialects.ALL[name]
    octets = golden.wire(name)
    assert message.encode(dialect) == octets == tabled.encode(message, dialect.name)
    read = Message.decode(octets, dialect)
    assert read == message
    assert read.encode(dialect) is octets
    assert replace(read).encode(dialect) == octets


@GOLDEN
def test_golden_messages_are_printed(name: str) -> None:
    dialect, _ = golden_dialects.ALL[name]
    record = Message.decode(golden.wire(name), dialect)
    assert golden_dialects.shown(record) == golden.text(name)
    told = document.message(record, show_keys=True)
    assert told == json.loads((golden.GOLDEN / f"{name}.json").read_text())


@GOLDEN
def test_secrets_are_in_no_repr_and_masked_where_they_are_not_asked_for(name: str) -> None:
    dialect, _ = golden_dialects.ALL[name]
    record = Message.decode(golden.wire(name), dialect)
    shown = repr(record) + text.message(record, show_keys=False)
    shown += json.dumps(document.message(record))
    for secret in (b"password", b"mekmitasdigoat", bytes(range(8))):
        assert secret.hex() not in shown.replace(" ", "")
        assert repr(secret)[2:-1] not in shown


@EACH
@given(st.data())
def test_messages_are_built_as_the_tables_say(dialect: Dialect, data: st.DataObject) -> None:
    message: Message = data.draw(strategies.messages(dialect))
    assert message.encode(dialect) == tabled.encode(message, dialect.name)


@EACH
@given(st.data())
def test_any_message_is_printed(dialect: Dialect, data: st.DataObject) -> None:
    octets = data.draw(strategies.messages(dialect)).encode(dialect)
    record = Message.decode(octets, dialect)
    golden_dialects.shown(record)
    event = {
        "time": 1.5, "client": 3, "pid": 7, "direction": "in", "dialect": dialect.name,
        "hex": octets.hex(),
    }  # fmt: skip
    assert monitor.render(event)
    check_schema(json.loads(monitor.line(event)), schema("monitor"))


def event(name: str) -> monitor.Event:
    dialect, _ = golden_dialects.ALL[name]
    return {
        "time": 1.5, "client": 3, "pid": 7, "direction": "out", "dialect": dialect.name,
        "hex": golden.wire(name).hex(),
    }  # fmt: skip


def test_the_monitor_shows_names_in_every_dialect() -> None:
    shown = monitor.render(event("openbsd-grpspis")).splitlines()
    assert shown[0].endswith("<- openbsd GRPSPIS esp seq=3 pid=77")
    assert shown[1] == "    SA ADDRESS_DST X_OPENBSD_SA2 X_DST2 X_SATYPE2"
    shown = monitor.render(event("openbsd-flow")).splitlines()
    assert shown[1].startswith("    flow esp out proto tcp from 10.1.1.0/24")
    shown = monitor.render(event("netbsd-refusal")).splitlines()
    assert shown[0].endswith(
        "ADD ah seq=3 pid=77 refused: Address family not supported by protocol"
    )
    assert json.loads(monitor.line(event("freebsd-policy")))["dialect"] == "freebsd"


def test_an_errno_without_a_name_is_told_as_a_number() -> None:
    octets = golden.wire("netbsd-refusal")
    head = octets[:2] + b"\x60" + octets[3:]
    assert "refused: error 96" in monitor.render(event("netbsd-refusal") | {"hex": head.hex()})


def test_setkey_decodes_raw_files_of_every_dialect(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    room = tmp_path_factory.mktemp("raw")
    for system in ("netbsd", "freebsd", "openbsd"):
        names = [name for name in golden_dialects.ALL if name.startswith(f"{system}-")]
        file = room / system
        file.write_bytes(b"".join(golden.wire(name) for name in names))
        assert main(["--dialect", system, str(file)]) == 0
        shown = capsys.readouterr().out
        for name in names:
            if f"{system}-refusal" != name:
                last = golden.text(name).splitlines()[-1]
                assert f"{last}\n" in shown
        assert main([str(file)]) == 1  # and of no other
        assert f"setkey: {file}: octet " in capsys.readouterr().err


def test_a_refusal_in_a_raw_file_is_told_by_the_systems_numbers(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path_factory.mktemp("raw") / "refusal"
    file.write_bytes(Message(type=MsgType.ADD, errno=EAGAIN).encode(OPENBSD))
    assert file.read_bytes()[2] == 35
    assert main(["--dialect", "openbsd", str(file)]) == 0
    assert capsys.readouterr().out == "Resource temporarily unavailable.\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--dialect", "plan9", "x"], "--dialect plan9 is none of linux, netbsd, freebsd, openbsd"),
        (["--dialect", "netbsd", "-D"], "--dialect does not go with -D"),
    ],
)
def test_a_wrong_dialect_is_a_wrong_command_line(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"setkey: {why}\n")


@pytest.mark.parametrize(
    ("dialect", "extension", "why"),
    [
        (NETBSD, Sa(spi=1, replay=2041), "replay does not fit"),
        (NETBSD, Sa(spi=1, encrypt=25), "cipher 25 is not of this dialect"),
        (OPENBSD, Sa(spi=1, auth=9), "authenticator 9 is not of this dialect"),
        (LINUX, Sa(spi=1, exttype=ExtType.X_OPENBSD_SA2), "extension 23 is not of this dialect"),
        (FREEBSD, Sa(spi=1, flags=OpenbsdFlag.TUNNEL), "flags 0x4"),
        (NETBSD, Sa2(mode=Mode.BEET), "mode 3 is not of this dialect"),
        (FREEBSD, Policy(type=2, dir=Dir.FWD), "direction 3 is not of this dialect"),
        (NETBSD, Policy(type=2, dir=Dir.IN, priority=5), "a priority, 0x5, cannot be said"),
        (LINUX, Policy(type=2, dir=Dir.IN, scope=1), "a scope, 1, cannot be said"),
        (NETBSD, Policy(type=2, dir=2, requests=(IpsecRequest(proto=50, mode=1, level=3,
                                                              reqid=65536),)), "reqid does not"),
        (OPENBSD, Policy(type=2, dir=Dir.IN), "extension 18 is not of this dialect"),
        (OPENBSD, Address(exttype=5, address=bytes(4), prefixlen=24), "prefix of 24 bits, proto"),
        (OPENBSD, Address(exttype=5, address=bytes(4), prefixlen=32, proto=6), "protocol 6: a ma"),
        (OPENBSD, Ident(exttype=10, kind=65540, address=bytes(4)), "identity type 4"),
        (NETBSD, Ident(exttype=10, kind=65540), "an address, and no text, is for kind ADDR"),
        (NETBSD, Ident(exttype=10, kind=1, address=bytes(4)), "an address, and no text"),
        (OPENBSD, Protocol(exttype=ExtType.X_SATYPE2, proto=77), "SA type 77 is not of this"),
        (OPENBSD, Credential(exttype=ExtType.X_LOCAL_AUTH, kind=1, secret=b"x"), "no whole words"),
        (OPENBSD, Tag(text=b"a\0b"), "NUL inside the tag"),
        (FREEBSD, IfHwOffload(name=bytes(33)), "NUL inside the name"),
        (FREEBSD, IfHwOffload(name=b"x" * 33), "if does not fit"),
    ],
)  # fmt: skip
def test_what_a_dialect_cannot_say_is_refused(
    dialect: Dialect, extension: Extension, why: str
) -> None:
    with pytest.raises(WireError, match=why):
        extension.encode(dialect)


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("09000000" + "41424300" + "00000000", "a tag of 9 octets in 2 words"),
        ("04000000" + "41424344" + "00000000", "the tag does not end with NUL"),
    ],
)
def test_a_tag_has_the_length_that_it_says(tag: str, why: str) -> None:
    with pytest.raises(WireError, match=rf"sadb_x_tag \(X_TAG\).*{why}"):
        Tag.decode(bytes.fromhex("02002100" + tag), 0, OPENBSD)
    kept = bytes.fromhex("02002100" + "05000000" + "41424300" + "00000000")
    assert Tag.decode(kept, 0, OPENBSD) == Tag(text=b"ABC")


def test_an_identity_that_is_an_address_has_one() -> None:
    octets = Ident(exttype=10, kind=IdentType.X_ADDR, address=bytes(4)).encode(NETBSD)
    with pytest.raises(WireError, match=r"sadb_ident \(IDENTITY_SRC\).*address family 10"):
        Ident.decode(octets[:17] + b"\x0a" + octets[18:], 0, NETBSD)


def test_a_window_of_the_bsds_counts_octets_of_its_bitmap() -> None:
    assert Sa(spi=1, replay=1).encode(NETBSD)[8] == 1
    assert Sa(spi=1, replay=33).encode(FREEBSD)[8] == 5
    assert Sa.decode(Sa(spi=1, replay=33).encode(FREEBSD), 0, FREEBSD).replay == 40
    assert Sa(spi=1, replay=33).encode(OPENBSD)[8] == 33
    assert (LINUX.window_max, NETBSD.window_max, OPENBSD.window_max) == (255, 2040, 255)


def test_a_transform_of_ipcomp_is_no_cipher() -> None:
    sa = Message(type=MsgType.ADD, satype=SaType.X_IPCOMP, extensions=(Sa(spi=2, encrypt=2),))
    octets = sa.encode(OPENBSD)
    assert (octets[3], octets[16 + 11]) == (9, 2)  # deflate, where no cipher has number 2
    assert Message.decode(octets, OPENBSD).extensions == sa.extensions
    with pytest.raises(WireError, match="cipher 2 is not of this dialect"):
        replace(sa, satype=SaType.ESP).encode(OPENBSD)


def test_numbers_survive_whether_they_have_a_name_or_not() -> None:
    for dialect in DIALECTS.values():
        for number in range(256):
            for registry in (dialect.auth, dialect.encrypt, dialect.satypes, dialect.errnos):
                assert registry.theirs(registry.ours(number)) == number
    assert digits(NETBSD.modes.ours(9)) == "9"
    assert (digits(0), digits(-1), digits(200)) == ("0", "-1", "200")


def test_own_extensions_are_a_range_that_no_system_uses() -> None:
    assert is_own(ExtType.X_REPLAY_WINDOW)
    assert not is_own(ExtType.X_FILTER)
    for dialect in DIALECTS.values():
        own = [n for n, ours in dialect.extensions.named.items() if is_own(ours)]
        assert own == [ExtType.X_REPLAY_WINDOW]


FLOW = golden_dialects.OPENBSD["flow"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"satype": 0}, "flow out proto tcp from 10.1.1.0/24 to 10.2.0.0/16 port 80"),
        ({"satype": OPENBSD.satypes.ours(77)}, "flow 77 out"),
        ({"extensions": FLOW.extensions[8:9]}, "flow esp from 10.1.1.0 to ?\n"),
        ({"extensions": (
            FLOW.extensions[8],
            Protocol(exttype=ExtType.X_FLOW_TYPE, proto=9, direction=3),
        )}, "flow esp 3 from 10.1.1.0 to ? type 9\n"),
        ({"extensions": (
            *FLOW.extensions[8:],
            golden.end(ExtType.X_DST_MASK, "255.255.255.255", port=0xFFF0),
        )}, "flow esp from 10.1.1.0 to 10.2.0.0 port 80 mask 0xfff0\n"),
    ],
)  # fmt: skip
def test_flows_are_told_with_what_they_have(change: dict[str, object], line: str) -> None:
    assert flow(replace(FLOW, **change)).startswith(line)  # type: ignore[arg-type]
