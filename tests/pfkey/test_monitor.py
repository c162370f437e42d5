"""What `pfkey monitor` shows of a record, as text and as JSON."""

import json
import struct
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import monitor
from pfkey.const import ExtType, MsgType, SaType
from pfkey.dialect import FREEBSD, NETBSD, OPENBSD, Dialect
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.support.schema import check_schema, schema

KEY = b"hogehogehogehogehogehoge"
ADD = Message(
    type=MsgType.ADD, satype=SaType.ESP, seq=7, pid=77,
    extensions=(
        Key(exttype=ExtType.KEY_ENCRYPT, bits=192, key=KEY),
        Sa(spi=9876, state=1, encrypt=3, flags=0x40),
        Sa2(),
        Address(exttype=ExtType.ADDRESS_SRC, address=bytes((10, 1, 1, 1)), prefixlen=32, proto=255),
        Address(exttype=ExtType.ADDRESS_DST, address=bytes((20, 1, 1, 1)), prefixlen=32, proto=255),
    ),
)  # fmt: skip


def event(octets: bytes, direction: str = "in") -> monitor.Event:
    return {"time": 1.5, "client": 3, "pid": 77, "direction": direction, "hex": octets.hex()}


def line(octets: bytes, *, show_keys: bool = False) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(monitor.line(event(octets), show_keys=show_keys))
    check_schema(loaded, schema("monitor"))
    return loaded


def test_add_is_shown_with_who_said_it_and_as_setkey_prints_it() -> None:
    shown = monitor.render(event(ADD.encode()), zone=UTC).splitlines()
    assert shown[0] == "00:00:01.500000 client 3 (pid 77) -> ADD esp seq=7 pid=77"
    assert shown[1] == "    10.1.1.1 20.1.1.1 "
    assert shown[2] == "    \tesp mode=any spi=9876(0x00002694) reqid=0(0x00000000)"


def test_keys_are_masked_unless_asked_for() -> None:
    assert KEY.hex()[:8] not in monitor.render(event(ADD.encode()))
    assert KEY.hex()[:8] in monitor.render(event(ADD.encode()), show_keys=True)
    assert line(ADD.encode())["message"]["extensions"][0]["key"] is None
    assert line(ADD.encode(), show_keys=True)["message"]["extensions"][0]["key"] == KEY.hex()


def test_a_refusal_says_why() -> None:
    refusal = Message(type=MsgType.ADD, satype=SaType.ESP, errno=17, seq=7, pid=77).encode()
    shown = monitor.render(event(refusal, "out"), zone=UTC)
    assert shown.endswith("(pid 77) <- ADD esp seq=7 pid=77 refused: File exists")


def test_a_message_that_names_an_sa_is_short() -> None:
    delete = Message(type=MsgType.DELETE, satype=SaType.ESP, extensions=ADD.extensions[1:])
    shown = monitor.render(event(delete.encode())).splitlines()
    assert shown[1:] == ["    10.1.1.1 20.1.1.1 spi=9876(0x00002694)"]


def test_a_message_without_sa_names_its_extensions() -> None:
    bare = Message(type=MsgType.GETSPI, satype=SaType.ESP, extensions=ADD.extensions[3:]).encode()
    assert monitor.render(event(bare)).splitlines()[1] == "    ADDRESS_SRC ADDRESS_DST"


def test_json_names_type_and_extensions() -> None:
    message = line(ADD.encode())["message"]
    assert (message["type"], message["satype"], message["seq"]) == ("ADD", "esp", 7)
    assert [e["extension"] for e in message["extensions"]] == [
        "KEY_ENCRYPT", "SA", "SA2", "ADDRESS_SRC", "ADDRESS_DST",
    ]  # fmt: skip
    assert message["extensions"][3]["address"] == "10.1.1.1"


@pytest.mark.parametrize("octets", [b"", b"x", bytes(16), b"\x02\x03" + bytes(14)])
def test_octets_that_are_no_message_are_shown_as_such(octets: bytes) -> None:
    assert f"{len(octets)} octets that are no message" in monitor.render(event(octets))
    assert line(octets)["message"] is None


@given(st.binary(max_size=200))
def test_any_octets_are_shown(octets: bytes) -> None:
    head = bytes((2, 3, 0, 3)) + (len(octets) // 8 + 2).to_bytes(2, "little") + bytes(10)
    for record in (octets, head + octets[: len(octets) // 8 * 8]):
        assert monitor.render(event(record))
        line(record)


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
def test_each_client_is_shown_in_its_own_dialect(dialect: Dialect) -> None:
    """A copy for a promiscuous client has a header before it; shown is what it is a copy of."""
    plain = Message(type=MsgType.REGISTER, satype=SaType.ESP, seq=7, pid=77).encode(dialect)
    head = struct.pack("=BBBBHHII", 2, MsgType.X_PROMISC, 0, 0, 2 + len(plain) // 8, 0, 0, 0)
    for octets in (plain, head + plain):
        told = event(octets) | {"dialect": dialect.name}
        shown = monitor.render(told, zone=UTC)
        assert shown.endswith(f"(pid 77) -> {dialect.name} REGISTER esp seq=7 pid=77")
        loaded = json.loads(monitor.line(told))
        check_schema(loaded, schema("monitor"))
        assert loaded["dialect"] == dialect.name
        assert loaded["message"]["type"] == "REGISTER"
        assert loaded["fault"] is None
