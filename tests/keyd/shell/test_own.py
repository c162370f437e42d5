"""When the log says that a host cannot speak to itself."""

import logging
from ipaddress import ip_address

import pytest

from keyd.shell.own import OwnDrops, is_own, report
from tests.keyd.packet.test_own import WIDE_IN, WIDE_OUT, A


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1", True), ("192.0.2.1", False), ("2001:db8::1", False)],
)
def test_routing_knows_which_addresses_are_ours(text: str, expected: bool) -> None:
    assert is_own(ip_address(text).packed) is expected


def test_counters_are_compared_with_what_they_were() -> None:
    drops = OwnDrops()
    assert drops.grown({"in_own": 0, "out_own": 2}) == {"out_own": 2}
    assert drops.grown({"in_own": 3, "out_own": 2}) == {"in_own": 3}
    assert drops.grown({"in_own": 3, "out_own": 2}) == {}


def test_a_table_written_anew_begins_at_nought() -> None:
    drops = OwnDrops()
    drops.grown({"in_own": 7, "out_own": 7})
    assert drops.grown({"in_own": 0, "out_own": 1}) == {"out_own": 1}


def test_the_line_names_packets_directions_and_policies(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keyd.own"):
        report({"in_own": 3}, [WIDE_OUT, WIDE_IN], [A])
        report({"in_own": 1, "out_own": 2}, [WIDE_OUT] * 5, [A])
    one, other = (record.getMessage() for record in caplog.records)
    assert one.startswith('own-dropped in=3 policies="0.0.0.0/0 10.1.1.1[110] tcp -P in" why=')
    assert "in=1 out=2" in other


def test_lines_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keyd.own"):
        for _ in range(50):
            report({"in_own": 1}, [WIDE_IN], [A])
    assert len(caplog.records) <= 5
