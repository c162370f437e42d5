"""Traffic whose text is easy to find again: pings and a TCP transfer between two hosts."""

import contextlib
import re
import socket
import threading
from dataclasses import dataclass

from pfkey.lab.hosts import Host
from pfkey.lab.wire import in_host

PING_TEXT = b"ping in clear!!!"  # 16 octets: as many as ping takes as a pattern
_LINE = b"line %09d of a letter that only the two hosts may read\n"
LINE_OCTETS = len(_LINE % 0)
SECRETS = (PING_TEXT, b"a letter that only the two hosts may read")
_PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Pings:
    """What ping reported."""

    sent: int
    received: int
    text: str


def ping_command(address: str, count: int, *, is_answered: bool = True) -> tuple[str, ...]:
    """The ping that `ping` runs: its payload is PING_TEXT again and again."""
    # Once a reply has come ping waits for the others no longer than its interval: so a few that
    # shall be answered are sent at once, and a busy machine has time to answer them.
    pace = ("-l", str(count), "-i", "2") if is_answered and count <= 3 else ("-i", "0.1")
    return ("ping", "-n", "-c", str(count), *pace, "-W", "1", "-p", PING_TEXT.hex(), address)


def ping(host: Host, address: str, count: int, *, is_answered: bool = True) -> Pings:
    """Send `count` echo requests: at once if replies are expected, else ten a second."""
    done = host.run(*ping_command(address, count, is_answered=is_answered), check=False)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    sent, received = (int(found[1]), int(found[2])) if found else (0, 0)
    return Pings(sent, received, (done.stdout + done.stderr).strip())


def letter(octets: int) -> bytes:
    """Numbered lines, cut at `octets`: any 100 octets of it hold its text."""
    return b"".join(_LINE % number for number in range(octets // LINE_OCTETS + 1))[:octets]


def transfer(sender: Host, receiver: Host, address: str, content: bytes) -> bytes:
    """Send `content` over TCP to `address` on `receiver`; what arrived there.

    Raises:
        OSError: the connection failed or stood still.
    """
    listener = in_host(receiver, lambda: socket.create_server((address, 0)))
    listener.settimeout(_PATIENCE_SECONDS)
    port = listener.getsockname()[1]
    arrived = bytearray()
    failed: list[OSError] = []

    def receive() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_PATIENCE_SECONDS)
                while piece := connection.recv(1 << 18):
                    arrived.extend(piece)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=receive)
    with listener:
        thread.start()
        try:
            made = in_host(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with made as connection:
                connection.settimeout(_PATIENCE_SECONDS)
                connection.connect((address, port))
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # the end of the other side: everything was read
        finally:
            thread.join()
    if failed:
        raise failed[0]
    return bytes(arrived)


def fetch(
    reader: Host, server: Host, address: str, port: int, content: bytes, *, patience: float = 10
) -> bytes:
    """Let `reader` connect to a port of `server`, who says `content` and closes; what was read.

    Raises:
        OSError: nobody answered in time, or the connection failed.
    """
    listener = in_host(server, lambda: socket.create_server((address, port)))
    listener.settimeout(patience)

    def serve() -> None:
        # whatever goes wrong here, the reader sees it
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(patience)
                connection.sendall(content)

    thread = threading.Thread(target=serve)
    with listener:
        thread.start()
        try:
            made = in_host(reader, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with made as connection:
                connection.settimeout(patience)
                connection.connect((address, port))
                read = bytearray()
                while piece := connection.recv(1 << 18):
                    read.extend(piece)
        finally:
            thread.join()
    return bytes(read)
