"""The human rendering, octet for octet: tests/golden holds what setkey prints."""

from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import text
from pfkey.const import ExtType, MsgType, SaType
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.pfkey import golden


@pytest.mark.parametrize("name", golden.SAS)
def test_an_sa_is_printed_as_setkey_prints_it(name: str) -> None:
    printed = text.sa(golden.SAS[name], now=golden.NOW, zone=UTC, has_ports=name.endswith("-ports"))
    assert printed == golden.text(name)


@pytest.mark.parametrize("name", golden.POLICIES)
def test_a_policy_is_printed_as_setkey_prints_it(name: str) -> None:
    assert text.policy(golden.POLICIES[name], zone=UTC) == golden.text(name)


def test_keys_can_be_left_out() -> None:
    printed = text.sa(golden.ESP, now=golden.NOW, zone=UTC, show_keys=False)
    assert "\tE: 3des-cbc  (192 bits, not shown)\n" in printed
    assert "686f6765" not in printed
    fields = text.message(golden.ESP, show_keys=False)
    assert "sadb_key{ bits=192 reserved=0\n  key=\n  (not shown)\n}\n" in fields
    assert "686f6765" not in fields


def test_what_is_missing_is_said() -> None:
    nothing = Message(type=MsgType.DUMP)
    assert text.sa(nothing, now=0) == "no ADDRESS_SRC extension.\n"
    addresses = (
        golden.end(ExtType.ADDRESS_SRC, "1.2.3.4"),
        golden.end(ExtType.ADDRESS_DST, "1.2.3.5"),
    )
    no_sa = Message(type=MsgType.DUMP, extensions=addresses)
    assert text.sa(no_sa, now=0) == "1.2.3.4 1.2.3.5 \nno SA extension.\n"
    no_sa2 = Message(type=MsgType.DUMP, extensions=(*addresses, Sa(spi=1)))
    assert text.sa(no_sa2, now=0) == "1.2.3.4 1.2.3.5 \nno SA2 extension.\n"
    assert text.policy(nothing) == "no X_POLICY extension.\n"


def test_times_are_local_to_the_zone_that_is_asked_for() -> None:
    assert text.time(1700000000, UTC) == "Nov 14 22:13:20 2023"
    assert text.time(1700000000, timezone(timedelta(hours=2))) == "Nov 15 00:13:20 2023"
    assert text.time(1688169600, UTC) == "Jul  1 00:00:00 2023"
    assert text.time(0, UTC) == " " * 20
    assert text.time(2**64 - 1, UTC) == str(2**64 - 1)


def test_unknown_numbers_are_printed_as_digits() -> None:
    record = Message(
        type=MsgType.DUMP,
        satype=SaType.ESP,
        extensions=(
            Sa(spi=1, state=7, encrypt=200, auth=201),
            Sa2(mode=9),
            golden.end(ExtType.ADDRESS_SRC, "1.2.3.4"),
            golden.end(ExtType.ADDRESS_DST, "1.2.3.5"),
        ),
    )
    printed = text.sa(record, now=0)
    assert "\tesp mode=9 " in printed
    assert "\tE: 200 \n" in printed
    assert "state=7 \n" in printed


def test_the_short_form_is_one_line() -> None:
    assert text.SHORT_HEADER == "time p   s spi      ltime   src -> dst\n"
    line = text.sa_line(golden.ESP, now=golden.NOW, zone=UTC)
    assert line == "1500 esp m 00002694 86300   10.1.1.1 -> 20.1.1.1\n"
    assert text.sa_line(Message(type=MsgType.DUMP), now=0) == ""


def test_the_hexdump_has_rows_of_sixteen() -> None:
    assert text.hexdump(bytes(range(18))) == (
        "00000000: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f \n00000010: 10 11 \n"
    )


def test_the_stamp_has_microseconds() -> None:
    assert text.stamp(1700000000.25, UTC) == "22:13:20.250000 \n"


def test_fields_of_a_message_in_the_order_of_the_wire() -> None:
    printed = text.message(golden.TUNNEL)
    assert printed.startswith(
        "sadb_msg{ version=2 type=18 errno=0 satype=0\n  len=28 reserved=1 seq=1 pid=77 }\n"
        "sadb_ext{ len=3 type=5 }\n"
        "sadb_address{ proto=255 prefixlen=24 reserved=0x0000 }\n"
        "sockaddr{ len=16 family=2 port=0\n  0a000100\n}\n"
    )
    assert "sadb_x_policy{ type=2 dir=2 id=1 priority=2147483648 }\n" in printed
    assert "{ len=48 proto=50 mode=2 level=2 reqid=0\n" in printed
    assert "type=18 (SPDDUMP) errno" in text.message(golden.TUNNEL, has_names=True)


def test_diff_does_not_run_backwards() -> None:
    late = Lifetime(exttype=ExtType.LIFETIME_CURRENT, addtime=golden.NOW + 50)
    record = Message(
        type=MsgType.DUMP,
        satype=SaType.ESP,
        extensions=(*(e for e in golden.NATT.extensions), late),
    )
    assert "\tdiff: 0(s)\t" in text.sa(record, now=golden.NOW)


@given(st.integers(0, 2**64 - 1))
def test_any_time_renders(seconds: int) -> None:
    assert text.time(seconds, UTC)
