"""The other end of a socket: a thread that talks to one client, octet by octet."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Talk = Callable[[socket.socket], None]


@contextmanager
def server(path: Path, talk: Talk) -> Iterator[None]:
    """Talk to one client at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                talk(link)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)
        assert not thread.is_alive()


@contextmanager
def peer(talk: Talk, kind: int = socket.SOCK_SEQPACKET) -> Iterator[socket.socket]:
    """One half of a pair whose other half is talked to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)

    def serve() -> None:
        with theirs:
            talk(theirs)

    thread = threading.Thread(target=serve, daemon=True)
    with ours:
        thread.start()
        yield ours
    thread.join(5)
    assert not thread.is_alive()
