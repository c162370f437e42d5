"""Policies of sockets in the shell: real sockets and groups, no nft, and a clock that is turned."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from keyd.engine.effects import Now
from keyd.engine.reqids import Reqids
from keyd.engine.socket_policies import SocketPolicies
from keyd.shell.census import FORGET_SECONDS, KNOWN_MAX
from keyd.shell.marks import PAIRS_MAX, Marks
from keyd.shell.paths import netns_cookie
from keyd.shell.rpc import INVALID_PARAMS, REFUSED, RpcError
from keyd.shell.socket_left import Left
from keyd.shell.socket_policies import Sockets
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey import policy as language
from pfkey.errors import ShellError
from pfkey.ext_x_policy import Policy

pytestmark = pytest.mark.root

T = TypeVar("T")
SO_MARK = 36
OUT, IN = "out ipsec esp/transport//require", "in ipsec esp/transport//require"


def octets(*policies: str) -> list[str]:
    return [language.parse(policy).encode().hex() for policy in policies]


def distinct(number: int) -> str:
    return f"out ipsec esp/transport//unique:{number}"


class Desk:
    """`Sockets` with its file; what it would have nft do is kept."""

    def __init__(self, directory: Path) -> None:
        self.left = Left(directory / "left", netns_cookie())
        self.now = 0.0
        self.fails = False
        self.commits: list[tuple[set[int], list[SocketGroup]]] = []
        self.start()

    def start(self) -> None:
        """A pfkeyd that finds what its predecessor left."""
        self.policies = SocketPolicies(Reqids(), PAIRS_MAX)
        self.sockets = Sockets(
            self.policies, commit=self.commit, marks=Marks(), left=self.left,
            clock=lambda: Now(self.now, 1e9 + self.now),
        )  # fmt: skip
        self.restored = self.sockets.restore()

    async def commit(self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup]) -> None:
        if self.fails:
            raise ShellError("nft refused")
        self.commits.append(({pair.number for pair in pairs}, list(groups)))

    def do(self, job: Callable[[], Awaitable[T]]) -> T:
        return trio.run(job)

    def give(self, sock: socket.socket, *policies: str, **params: Any) -> int | None:
        """Give a socket policies; its pair."""
        given = {"policies": octets(*policies), "uid": None, **params}
        answer = self.do(lambda: self.sockets.set(sock.fileno(), given))
        return answer["pair"]  # type: ignore[no-any-return]

    def mark(self, sock: socket.socket, mark: int) -> None:
        self.do(lambda: self.sockets.mark(sock.fileno(), {"mark": mark}))

    def encapsulate(self, sock: socket.socket, is_encap: bool, **params: Any) -> Any:
        """Set UDP_ENCAP, or clear it; the socket's pair."""
        given = {"encap": is_encap, "uid": None, **params}
        return self.do(lambda: self.sockets.encapsulate(sock.fileno(), given))["pair"]

    def is_encap(self, sock: socket.socket) -> bool:
        return bool(self.do(lambda: self.sockets.get_encap(sock.fileno(), {}))["encap"])

    def get(self, sock: socket.socket, direction: int) -> str:
        answer = self.do(lambda: self.sockets.get(sock.fileno(), {"direction": direction}))
        return language.render(Policy.decode(bytes.fromhex(answer["policy"])))

    @property
    def pairs(self) -> set[int]:
        return {pair.number for pair in self.policies}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def mark_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, SO_MARK) & 0xFFFFFFFF


# ---------------------------------------------------------------- one socket


def test_a_socket_is_marked_when_its_pair_is_in_force(desk: Desk, udp: socket.socket) -> None:
    udp.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x1234)
    assert desk.give(udp, OUT, IN) == 0
    assert mark_of(udp) == 0x50001234
    assert [pairs for pairs, _ in desk.commits] == [{0}]
    assert desk.get(udp, 2) == OUT
    assert desk.get(udp, 1) == IN


def test_an_equal_pair_costs_nothing(desk: Desk, udp: socket.socket) -> None:
    desk.give(udp, OUT)
    with socket.socket() as other:
        assert desk.give(other, OUT) == 0
    assert len(desk.commits) == 1


def test_what_nft_refuses_is_refused_and_the_socket_left_alone(
    desk: Desk, udp: socket.socket
) -> None:
    desk.fails = True
    with pytest.raises(RpcError, match="nft refused") as refused:
        desk.give(udp, OUT)
    assert refused.value.data == {"errno": errno.EOPNOTSUPP}
    assert mark_of(udp) == 0
    assert desk.pairs == set()


def test_nothing_clears_both_directions_and_takes_the_pair_away(
    desk: Desk, udp: socket.socket
) -> None:
    desk.give(udp, OUT)
    assert desk.give(udp) is None
    assert mark_of(udp) == 0
    assert [pairs for pairs, _ in desk.commits] == [{0}, set()]


def test_the_way_to_a_pair_leaves_no_pairs_behind(desk: Desk, udp: socket.socket) -> None:
    """Programs set one direction and then the other."""
    desk.give(udp, OUT)
    assert desk.give(udp, IN) == 1
    assert desk.pairs == {1}


def test_a_pair_stays_while_another_socket_has_it(desk: Desk, udp: socket.socket) -> None:
    with socket.socket() as other:
        desk.give(udp, OUT)
        desk.give(other, OUT)
        desk.give(udp, "out bypass")
        assert desk.pairs == {0, 1}
        desk.give(other)
        assert desk.pairs == {1}


def test_a_pair_stays_that_a_listener_had(desk: Desk) -> None:
    """Who was accepted bears it, and nobody told us."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        desk.give(listener, OUT)
        desk.give(listener, "out entrust")
        assert desk.pairs == {0}


def test_keep_gives_only_those_that_have_none(desk: Desk, udp: socket.socket) -> None:
    desk.give(udp, "out bypass")
    assert desk.give(udp, OUT, keep=True) == 0
    assert desk.get(udp, 2) == "out bypass"
    with socket.socket() as other:
        assert desk.give(other, OUT, keep=True) == 1


def test_a_mark_of_the_programs_own_leaves_the_pair(desk: Desk, udp: socket.socket) -> None:
    desk.give(udp, OUT)
    desk.mark(udp, 0x4C000007)
    assert mark_of(udp) == 0x50000007
    desk.give(udp)
    desk.mark(udp, 0x51000008)
    assert mark_of(udp) == 8


def test_udp_encap_is_in_the_mark_and_stands_beside_policies(
    desk: Desk, udp: socket.socket
) -> None:
    assert not desk.is_encap(udp)
    alone = desk.encapsulate(udp, True)
    assert mark_of(udp) == Marks().socket(alone)
    assert desk.is_encap(udp)
    assert desk.get(udp, 2) == "out entrust"
    both = desk.give(udp, OUT)
    assert desk.is_encap(udp)
    assert desk.get(udp, 2) == OUT
    assert desk.pairs == {both}
    assert desk.encapsulate(udp, False) == desk.encapsulate(udp, False)
    assert desk.get(udp, 2) == OUT
    assert not desk.is_encap(udp)
    desk.start()
    assert desk.get(udp, 2) == OUT


def test_udp_encap_is_for_udp(desk: Desk) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw,
    ):
        for sock in (tcp, raw):
            with pytest.raises(RpcError, match="for UDP") as refused:
                desk.encapsulate(sock, True)
            assert refused.value.data == {"errno": errno.ENOPROTOOPT}


def test_keep_does_not_keep_what_is_no_policy_or_a_users(desk: Desk, udp: socket.socket) -> None:
    """Neither takes a socket away from what root gave to all of a program's."""
    desk.encapsulate(udp, True)
    desk.give(udp, OUT, keep=True)
    assert (desk.get(udp, 2), desk.is_encap(udp)) == (OUT, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        desk.give(other, "out ipsec esp/transport//use", uid=1000)
        desk.give(other, OUT, keep=True)
        assert desk.get(other, 2) == OUT


def test_without_policies_the_spd_is_asked(desk: Desk, udp: socket.socket) -> None:
    assert desk.get(udp, 1) == "in entrust"
    with pytest.raises(RpcError) as refused:
        desk.get(udp, 3)
    assert refused.value.data == {"errno": errno.EINVAL}


# ---------------------------------------------------------------- what cannot be asked


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("set", {"policies": None}),
        ("set", {"policies": "00"}),
        ("set", {"policies": [7]}),
        ("set", {"policies": ["0"]}),
        ("set", {"policies": [""]}),
        ("set", {"policies": ["00" * 4097]}),
        ("set", {"policies": [""] * 9}),
        ("set", {"policies": [], "uid": -1}),
        ("set", {"policies": [], "uid": True}),
        ("set", {"policies": [], "uid": "root"}),
        ("set", {"policies": [], "keep": 1}),
        ("get", {}),
        ("get", {"direction": True}),
        ("get", {"direction": "in"}),
        ("mark", {}),
        ("mark", {"mark": -1}),
        ("mark", {"mark": 1 << 32}),
        ("mark", {"mark": False}),
        ("group", {"policies": []}),
    ],
)
def test_parameters_are_of_their_kinds(
    desk: Desk, udp: socket.socket, method: str, params: dict[str, Any]
) -> None:
    with pytest.raises(RpcError) as refused:
        desk.do(lambda: getattr(desk.sockets, method)(udp.fileno(), params))
    assert refused.value.code == INVALID_PARAMS
    assert not desk.commits


@pytest.mark.parametrize("method", ["set", "get", "mark", "group"])
def test_a_descriptor_is_needed_and_of_its_kind(desk: Desk, method: str, tmp_path: Path) -> None:
    params = {"policies": octets(OUT), "uid": None, "direction": 1, "mark": 1}
    read, write = os.pipe()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for fd in (None, read, directory):
            with pytest.raises(RpcError) as refused:
                desk.do(lambda fd=fd: getattr(desk.sockets, method)(fd, params))  # type: ignore[misc]
            assert refused.value.code == INVALID_PARAMS
    finally:
        for fd in (read, write, directory):
            os.close(fd)
    if method != "group":
        for family in (socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                with pytest.raises(RpcError) as refused:
                    desk.do(lambda s=sock: getattr(desk.sockets, method)(s.fileno(), params))  # type: ignore[misc]
                assert refused.value.code == REFUSED
                assert refused.value.data == {"errno": errno.EOPNOTSUPP}


# ---------------------------------------------------------------- numbers run out


def test_numbers_come_back_when_sockets_are_long_gone(desk: Desk) -> None:
    """Nobody tells when a socket ends; the kernel's lists do, when there is need."""
    held = []
    for number in range(PAIRS_MAX):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert desk.give(sock, distinct(number + 1)) == number
        if number < 2:
            sock.bind(("127.0.0.1", 0))
            held.append(sock)
        else:
            sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        with pytest.raises(RpcError) as refused:
            desk.give(one, OUT)
        assert refused.value.data == {"errno": errno.ENOBUFS}
        assert mark_of(one) == 0
        desk.now = FORGET_SECONDS
        assert desk.give(one, OUT) == 2
        assert desk.pairs == {0, 1, 2}
        assert desk.get(held[1], 2) == distinct(2)
    for sock in held:
        sock.close()


def full(desk: Desk) -> None:
    """Use up all numbers that are left."""
    for number in range(PAIRS_MAX - len(desk.pairs)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            desk.give(sock, distinct(1000 + number))


def test_a_raw_socket_is_known_by_its_inode(desk: Desk, udp: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        assert desk.give(raw, OUT) == 0
        full(desk)
        desk.now = FORGET_SECONDS
        desk.give(udp, "out bypass")
        assert 0 in desk.pairs
    full(desk)
    desk.now *= 2
    desk.give(udp, "out discard")
    assert len(desk.pairs) == 1


def test_what_no_list_shows_keeps_its_number(desk: Desk, udp: socket.socket) -> None:
    ping = os.getegid()
    ranges = Path("/proc/sys/net/ipv4/ping_group_range")
    before = ranges.read_text()
    ranges.write_text(f"{ping} {ping}")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            assert desk.give(sock, OUT) == 0
    finally:
        ranges.write_text(before)
    full(desk)
    desk.now = FORGET_SECONDS
    desk.give(udp, "out bypass")
    assert 0 in desk.pairs


def test_more_sockets_than_are_told_apart(desk: Desk) -> None:
    many = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(KNOWN_MAX + 1)]
    for sock in many:
        desk.give(sock, OUT)
    for sock in many:
        desk.give(sock)
        sock.close()
    assert desk.pairs == {0}  # one is not known, so nobody is sure
    desk.now = FORGET_SECONDS
    full(desk)
    with socket.socket() as sock:
        assert desk.give(sock, "out bypass") == 0


# ---------------------------------------------------------------- successors


def test_a_successor_finds_the_pairs_of_the_sockets(desk: Desk, udp: socket.socket) -> None:
    desk.give(udp, OUT, IN)
    desk.start()
    pairs, groups = desk.restored
    assert [pair.number for pair in pairs] == [0]
    assert groups == ()
    assert desk.get(udp, 2) == OUT
    desk.give(udp, "out bypass")
    assert desk.pairs == {0, 1}  # others may have had it before our time


def test_the_file_is_for_the_owner_alone(desk: Desk, udp: socket.socket) -> None:
    desk.give(udp, OUT)
    assert desk.left.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in desk.left.path.parent.iterdir()] == ["left"]


def test_a_file_that_cannot_be_written_is_a_refusal(desk: Desk, udp: socket.socket) -> None:
    desk.left.path.mkdir()
    with pytest.raises(RpcError, match="Is a directory") as refused:
        desk.give(udp, OUT)
    assert refused.value.data == {"errno": errno.EOPNOTSUPP}
    assert mark_of(udp) == 0
    assert desk.pairs == set()


GOOD = '"pairs": [{"number": 0, "uid": null, "given": ["' + octets(OUT)[0] + '"]}], "groups": []'


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (f'{{"cookie": {netns_cookie()}, {GOOD}}}', {0}),
        (f'{{"cookie": {netns_cookie() + 1}, {GOOD}}}', set()),
        ("", set()),
        ("[]", set()),
        ("\xff", set()),
        (f'{{"cookie": {netns_cookie()}}}', set()),
        (f'{{"cookie": {netns_cookie()}, "pairs": 7, "groups": []}}', set()),
        (f'{{"cookie": {netns_cookie()}, "pairs": [7], "groups": []}}', set()),
        (f'{{"cookie": {netns_cookie()}, "pairs": [], "groups": [{{"policies": 5}}]}}', set()),
        (f'{{"cookie": {netns_cookie()}, "pairs": [], "groups": [{{"policies": ["0"]}}]}}', set()),
    ],
)
def test_a_file_is_believed_as_far_as_it_goes(desk: Desk, said: str, found: set[int]) -> None:
    desk.left.path.write_text(said, encoding="latin-1")
    desk.start()
    assert desk.pairs == found


# ---------------------------------------------------------------- groups


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own, taken away in the end."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    path = Path(next(m[1] for m in mounts if m[2] == "cgroup2")) / f"pfkey-test-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        if path.exists():
            path.rmdir()


def give(desk: Desk, group: Path, *policies: str, uid: int | None = None) -> int:
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        params = {"policies": octets(*policies), "uid": uid}
        answer = desk.do(lambda: desk.sockets.group(fd, params))
        return int(answer["pair"])
    finally:
        os.close(fd)


def look(desk: Desk, seconds: float) -> None:
    """Have it look for empty groups once."""

    async def main() -> None:
        desk.now += seconds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.sockets.run)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(5.1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


def test_a_group_is_known_by_its_directory(desk: Desk, group: Path) -> None:
    assert give(desk, group, OUT) == 0
    pairs, (made,) = desk.commits[-1]
    assert (pairs, made.pair) == ({0}, 0)
    assert made.level == 1
    assert os.path.samefile(Path("/sys/fs/cgroup") / made.path, group)
    again = len(desk.commits)
    assert give(desk, group, OUT) == 0
    assert len(desk.commits) == again  # nothing has changed
    assert give(desk, group, "out bypass") == 1
    assert [one.pair for one in desk.commits[-1][1]] == [1]


def test_a_group_is_held_before_it_is_entered_and_forgotten_afterwards(
    desk: Desk, group: Path
) -> None:
    give(desk, group, OUT)
    look(desk, 59)
    assert len(desk.commits[-1][1]) == 1
    look(desk, 2)
    assert desk.commits[-1][1] == []


def test_a_group_that_was_used_is_forgotten_at_once(desk: Desk, group: Path) -> None:
    give(desk, group, OUT)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    (group / "cgroup.procs").write_text(str(child))
    look(desk, 1)
    assert len(desk.commits[-1][1]) == 1
    for end in (write, read):
        os.close(end)
    os.waitpid(child, 0)
    look(desk, 1)
    assert desk.commits[-1][1] == []


def test_a_group_that_is_taken_away_is_forgotten(desk: Desk, group: Path) -> None:
    give(desk, group, OUT)
    group.rmdir()
    look(desk, 1)
    assert desk.commits[-1][1] == []


def test_a_successor_finds_the_groups_that_are_still_there(desk: Desk, group: Path) -> None:
    give(desk, group, OUT, IN)
    desk.start()
    pairs, groups = desk.restored
    assert [one.pair for one in groups] == [0]
    assert len(pairs) == 1
    group.rmdir()
    desk.start()
    assert desk.restored[1] == ()


def test_a_groups_pair_is_not_given_up_with_a_socket(
    desk: Desk, group: Path, udp: socket.socket
) -> None:
    give(desk, group, OUT)
    desk.give(udp, OUT)
    desk.give(udp)
    assert desk.pairs == {0}
    desk.now = FORGET_SECONDS
    full(desk)
    desk.now *= 3
    desk.give(udp, "out bypass")
    assert 0 in desk.pairs


def test_a_user_has_its_own_groups_only_and_not_many(desk: Desk, group: Path) -> None:
    with pytest.raises(RpcError, match="is not user 65534's") as refused:
        give(desk, group, OUT, uid=65534)
    assert refused.value.data == {"errno": errno.EPERM}
    os.chown(group, 65534, 65534)
    below = [group / str(number) for number in range(17)]
    for path in below:
        path.mkdir()
        os.chown(path, 65534, 65534)
    try:
        for path in below[:16]:
            assert give(desk, path, OUT, uid=65534) == 0
        with pytest.raises(RpcError, match="too many groups") as refused:
            give(desk, below[16], OUT, uid=65534)
        assert refused.value.data == {"errno": errno.ENOBUFS}
        assert give(desk, below[0], OUT, uid=65534) == 0  # it is one of them
        assert give(desk, below[16], OUT) == 1  # root's are not counted
    finally:
        for path in below:
            path.rmdir()


@pytest.mark.parametrize(
    ("policies", "number"), [(("out entrust",), errno.EINVAL), ((), errno.EINVAL)]
)
def test_a_group_needs_policies(
    desk: Desk, group: Path, policies: tuple[str, ...], number: int
) -> None:
    with pytest.raises(RpcError) as refused:
        give(desk, group, *policies)
    assert refused.value.data == {"errno": number}


def test_a_group_that_nft_refuses_is_none(desk: Desk, group: Path, udp: socket.socket) -> None:
    desk.give(udp, OUT)
    desk.fails = True
    with pytest.raises(RpcError, match="nft refused"):
        give(desk, group, OUT)
    desk.fails = False
    desk.give(udp, "out bypass")
    assert desk.commits[-1][1] == []
