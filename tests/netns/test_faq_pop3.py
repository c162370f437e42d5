"""The FAQ's POP3 policies, with keys given by hand: `none` before `ipsec`, and order decides."""

import re
import socket
from collections.abc import Iterator

import pytest

from pfkey.blocking import Client
from pfkey.const import MsgType, SaType
from pfkey.lab.catalogue import EXAMPLES
from pfkey.lab.example import AH
from pfkey.lab.hosts import Net
from pfkey.lab.traffic import fetch, letter
from pfkey.message import Message
from tests.support.faq import Standing, changed, decode, grows
from tests.support.system import until
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


def one_of_mail(standing: Standing) -> bytes:
    """A packet of a letter, from the mail server to its reader, as it passed."""
    with Tap(standing.host("b"), "toa") as tap:
        assert read(standing, "b")
    return tap.packets[-1]


@pytest.mark.parametrize(
    ("at", "bits", "name"),
    [
        (27, 0xFF, "notdb"),  # the SPI
        (-1, 1, "badauth"),  # what is carried
        (5, 1, "badauth"),  # the identification in the IP header
        (8, 1, "input"),  # the TTL, which routers change
        (0, 0, "input"),  # nothing: these SAs have no window
    ],
)
def test_a_forged_packet_is_dropped_and_counted(
    standing: Standing, at: int, bits: int, name: str
) -> None:
    packet = one_of_mail(standing)
    with grows(standing.peer, "ah", name, 1):
        standing.inject(changed(packet, at, bits))


def test_a_packet_sent_again_is_dropped_where_there_is_a_window(standing: Standing) -> None:
    with standing.windows():
        packet = one_of_mail(standing)
        with grows(standing.peer, "ah", "replay", 2):
            standing.inject(packet)
            standing.inject(packet)
    assert read(standing, "b")


def test_with_a_wrong_key_no_mail_is_read(standing: Standing) -> None:
    sa = POP3.sa(AH, towards_peer=True)
    before = standing.peer.counter("ah", "badauth")
    standing.setkey("peer", sa.with_wrong_key())
    assert not read(standing, "b")
    assert standing.peer.counter("ah", "badauth") > before
    standing.setkey("peer", sa.again())
    assert read(standing, "b")


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
    assert "own-dropped" not in standing.node.log_path.read_text()


def test_in_another_order_the_own_connection_fails_and_the_log_says_why(
    standing: Standing,
) -> None:
    right = POP3.given[0].text
    two, more = right.splitlines()[:2], right.splitlines()[2:]
    violations = standing.node.counter("ipsec", "in_polvio")
    node = standing.node
    with Client(node.socket) as daemon:  # as an IKE daemon listens
        assert daemon.request(Message(type=MsgType.REGISTER, satype=SaType.AH)).errno == 0
        standing.setkey("node", "\n".join(["spdflush;", *more, *two]))
        assert not read(standing, "a")
        until(lambda: "own-dropped" in node.log_path.read_text(), 10, "a line in the log")
        heard = [record[1] for record in iter(lambda: daemon.recv(0), None)]
    assert MsgType.ACQUIRE not in heard
    assert node.counter("ipsec", "in_polvio") > violations
    (line,) = [one for one in node.log_path.read_text().splitlines() if "own-dropped" in one]
    assert 'policies="0.0.0.0/0 10.1.1.1[110] tcp -P in" why=' in line
    assert read(standing, "b")
    standing.setkey("node", "spdflush;\n" + right)
    assert read(standing, "a")


def test_what_a_host_says_to_itself_is_dropped_on_its_way_out_too(standing: Standing) -> None:
    node = standing.node
    dropped = node.counter("ipsec", "out_polvio")
    standing.setkey("node", "spdadd 10.1.1.1 0.0.0.0/0 icmp -P out ipsec ah/transport//require;")
    assert node.host.run("ping", "-c1", "-W1", A, check=False).returncode != 0
    assert node.counter("ipsec", "out_polvio") == dropped + 1
    said = r'own-dropped (in=\d+ )?out=1 policies="10\.1\.1\.1 0\.0\.0\.0/0 icmp -P out"'
    until(lambda: re.search(said, node.log_path.read_text()), 10, said)
    standing.setkey("node", "spddelete 10.1.1.1 0.0.0.0/0 icmp -P out;")
    node.host.run("ping", "-c1", "-W1", A)


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
