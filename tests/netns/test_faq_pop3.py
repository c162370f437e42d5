"""The FAQ's POP3 policies, with keys given by hand: `none` before `ipsec`, and order decides."""

import socket
from collections.abc import Iterator

import pytest

from pfkey.lab.catalogue import EXAMPLES
from pfkey.lab.example import AH
from pfkey.lab.hosts import Net
from pfkey.lab.traffic import fetch, letter
from tests.support.faq import Standing, decode
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

POP3 = EXAMPLES["pop3"]
A, B = POP3.server[1], POP3.client[1]
TCP = 6


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """The mail server a and its reader b."""
    with Net() as net:
        yield Standing(POP3, net, tmp_path_factory.mktemp("pop3"))


def read(standing: Standing, reader: str, *, port: int = 110, octets: int = 1000) -> bool:
    content = letter(octets)
    try:
        got = fetch(standing.host(reader), standing.host("a"), A, port, content, patience=1.5)
    except OSError:
        return False
    return got == content


def test_mail_is_authentic_on_the_wire_and_scapy_agrees(standing: Standing) -> None:
    with (
        Tap(standing.host("a"), "tob") as there,
        Tap(standing.host("b"), "toa") as back,
    ):
        assert read(standing, "b", octets=50_000)
    for tap, at in ((there, 2), (back, 0)):
        assert {p[9] for p in tap.packets} == {AH}
        inner = [decode(POP3, p) for p in tap.packets]
        assert {p[9] for p in inner} == {TCP}
        assert {int.from_bytes(p[20 + at : 22 + at], "big") for p in inner} == {110}


def test_other_ports_and_protocols_stay_clear(standing: Standing) -> None:
    with Tap(standing.host("a"), "tob") as tap:
        assert read(standing, "b", port=25)
        assert standing.ping() == 2
    assert AH not in {p[9] for p in tap.packets}


def test_a_connection_of_the_node_to_itself_stays_clear(standing: Standing) -> None:
    before = standing.node.counters()
    assert read(standing, "a")
    after = standing.node.counters()
    assert (after["ah"], after["ipsec"]["in_polvio"]) == (
        before["ah"],
        before["ipsec"]["in_polvio"],
    )


def test_in_another_order_the_own_connection_fails(standing: Standing) -> None:
    right = POP3.given[0].text
    two, more = right.splitlines()[:2], right.splitlines()[2:]
    violations = standing.node.counter("ipsec", "in_polvio")
    standing.setkey("node", "\n".join(["spdflush;", *more, *two]))
    assert not read(standing, "a")
    assert standing.node.counter("ipsec", "in_polvio") > violations
    assert read(standing, "b")
    standing.setkey("node", "spdflush;\n" + right)
    assert read(standing, "a")


def test_a_reader_in_clear_is_refused(standing: Standing) -> None:
    undo = standing.stage.silence_policies()
    violations = standing.node.counter("ipsec", "in_polvio")
    assert not read(standing, "b")
    assert standing.node.counter("ipsec", "in_polvio") > violations
    standing.setkey("peer", undo)
    assert read(standing, "b")


def test_a_reader_without_keys_is_not_answered_in_clear(standing: Standing) -> None:
    standing.setkey("node", "flush;")
    with Tap(standing.host("b"), "toa") as tap:
        assert not read(standing, "b")
    assert not [p for p in tap.packets if p[12:16] == socket.inet_aton(A)]
    standing.setkey("node", POP3.given[2].text)
    assert read(standing, "b")
