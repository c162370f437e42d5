"""The supervisor's connection to pfkeyd's control socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.run.link import Link, Record


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Link, socket.socket]]:
    """A link, and pfkeyd's end of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s.ctl"))
        listener.listen()
        link = Link(tmp_path / "s")
        theirs, _ = listener.accept()
        with theirs:
            yield link, theirs
        link.close()


def test_what_pfkeyd_said_before_its_end_still_counts(ends: tuple[Link, socket.socket]) -> None:
    link, theirs = ends
    theirs.send(b'{"jsonrpc":"2.0","method":"client","params":{"client":1}}')
    theirs.send(b'{"jsonrpc":"2.0","id":3,"result":{"client":2}}')
    theirs.send(b'{"jsonrpc":"2.0","id":4,"error":{"code":-32002,"message":"too many"}}')
    theirs.close()
    assert link.receive() == [
        Record(0, "client", {"client": 1}),
        Record(3, "", {"client": 2}),
        Record(4, "", {"code": -32002, "message": "too many"}, is_refusal=True),
    ]
    assert link.receive() is None


@pytest.mark.parametrize("said", [b"x", b"\xff", b"7", b"[]", b"{}", b'{"id":[],"result":{}}',
                                  b'{"method":"client","params":3}'])  # fmt: skip
def test_what_is_no_record_is_passed_over(ends: tuple[Link, socket.socket], said: bytes) -> None:
    link, theirs = ends
    theirs.send(said)
    assert link.receive() == []


def test_a_socket_closed_before_it_is_handed_over_is_left_out(
    ends: tuple[Link, socket.socket],
) -> None:
    link, theirs = ends
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(300)]
    for ours, _ in pairs:
        link.call("adopt", {}, ours)
    for ours, other in pairs:  # those that still wait for room must not become other descriptors
        ours.close()
        other.close()
    got = 0
    theirs.setblocking(False)
    while True:
        try:
            octets, fds, _, _ = socket.recv_fds(theirs, 4096, 4)
        except BlockingIOError:
            break
        assert octets
        got += 1
        for fd in fds:
            socket.close(fd)
        assert len(fds) == 1
    assert 0 < got < len(pairs)
    assert link.receive() == []
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
