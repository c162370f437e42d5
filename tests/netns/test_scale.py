"""Many policies over one connection: together to nft, the answers in order, the sum the same."""

import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from errno import EEXIST
from pathlib import Path

import pytest

from pfkey.base import header
from pfkey.const import MsgType
from pfkey.lab.hosts import Host, Net
from pfkey.message import Message
from pfkey.setkey import grammar, messages
from tests.support.shell import connect, drain, outq
from tests.support.system import Daemon, until

pytestmark = [pytest.mark.root, pytest.mark.slow]

OWN = "10.0.0.1"
MANY = 400
TOGETHER = 60  # fit into the queue of a socket that nobody reads


def there(number: int) -> str:
    return f"10.1.{number >> 8}.{number & 255}"


def line(verb: str, number: int) -> str:
    action = "ipsec esp/transport//require" if verb == "spdadd" else ""
    return f"{verb} {OWN} {there(number)} any -P out {action};"


def requests(text: str) -> list[Message]:
    """setkey's messages, numbered from 1."""
    statements, faults = grammar.parse(text)
    assert not faults
    found = [message for s in statements for message in messages.of_statement(s, 7)]
    return [replace(message, seq=number) for number, message in enumerate(found, 1)]


def rules(host: Host) -> list[str]:
    """The addresses that the rules of outbound policies protect, in their order."""
    listed = host.run("nft", "list", "chain", "inet", "pfkey", "policy_out").stdout
    return [words.split()[5] for words in listed.splitlines() if "ip daddr" in words]


def commits(daemon: Daemon) -> int:
    return daemon.log.count("commit policies=")


@pytest.fixture
def daemon(net: Net, tmp_path: Path) -> Iterator[Daemon]:
    host = net.host("a")
    net.link(host, f"{OWN}/8", net.host("b"), "10.0.0.2/8")
    made = Daemon(host, tmp_path, "--log-level", "debug")
    yield made
    made.stop()


def sent_together(
    sock: socket.socket, those: list[Message], sleeper: Daemon | None = None
) -> list[tuple[int, int, int]]:
    """(type, number, errno) of the answers, once all that was sent has been taken.

    A sleeper finds all of it when it wakes.
    """
    if sleeper:
        sleeper.process.send_signal(signal.SIGSTOP)
    for message in those:
        sock.send(message.encode())
    if sleeper:
        sleeper.process.send_signal(signal.SIGCONT)
    until(lambda: outq(sock) == 0, 60)
    found = [header(record, is_request=False) for record in drain(sock)]
    return [(one.type, one.seq, one.errno) for one in found]


def test_policies_that_come_together_are_committed_together(daemon: Daemon) -> None:
    asked = requests("".join(line("spdadd", n) for n in range(TOGETHER)))
    with connect(daemon.socket) as sock:
        answers = sent_together(sock, asked, daemon)
        assert answers == [(MsgType.X_SPDADD, n, 0) for n in range(1, TOGETHER + 1)]
        assert rules(daemon.host) == [there(n) for n in range(TOGETHER)]
        assert commits(daemon) < TOGETHER / 2
        ended = requests("".join(line("spddelete", n) for n in range(0, TOGETHER, 2)))
        assert [errno for _, _, errno in sent_together(sock, ended, daemon)] == [0] * len(ended)
        assert rules(daemon.host) == [there(n) for n in range(1, TOGETHER, 2)]


def test_refusals_and_other_requests_keep_their_place_among_them(daemon: Daemon) -> None:
    text = ""
    for number in range(40):
        text += line("spdadd", number)
        if number % 4 == 1:
            text += line("spdadd", number)  # which exists by then
        if number % 8 == 2:
            sa = f"{OWN} {there(number)} esp {0x1000 + number}"
            text += f'add {sa} -E aes-cbc "sixteen octets..";get {sa};'
        if number % 8 == 7:
            text += line("spddelete", number)
    asked = requests(text)
    seen: set[tuple[str, bytes]] = set()
    with connect(daemon.socket) as sock:
        answers = sent_together(sock, asked)
    assert [(kind, seq) for kind, seq, _ in answers] == [(m.type, m.seq) for m in asked]
    for message, (_, _, errno) in zip(asked, answers, strict=True):
        assert message.dst
        name = (MsgType(message.type).name, message.dst.address)
        assert errno == (EEXIST if name in seen and message.type == MsgType.X_SPDADD else 0)
        seen.add(name)
    assert rules(daemon.host) == [there(n) for n in range(40) if n % 8 != 7]


def test_setkey_reads_a_long_file(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "long.conf"
    keys = (
        f'add {OWN} {there(n)} esp {0x1000 + n} -E aes-cbc "sixteen octets..";'
        for n in range(MANY)
    )  # fmt: skip
    policies = [line("spdadd", n) for n in range(MANY)]
    faulty = [*policies[:50], policies[7], *policies[50:]]
    file.write_text("\n".join(["flush;", "spdflush;", *keys, *faulty, ""]))
    said = daemon.setkey("", "-f", str(file), check=False)
    assert said == f"setkey: {file},{MANY + 53}: File exists\n"
    status = daemon.control("status")
    assert (status["sas"], status["policies"]) == (MANY, MANY)
    assert rules(daemon.host) == [there(n) for n in range(MANY)]
