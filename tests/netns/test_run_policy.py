"""`pfkey run --policy`: every socket of a program has the policies, whatever made it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.support.socket_hosts import (
    BYPASS,
    ESP,
    IN,
    OUT,
    UDP,
    WORD,
    Two,
    ports,
)
from tests.support.supervised import BIN
from tests.support.system import AUTHENTIC_KEYS, A, B, require, until
from tests.support.wire import in_host

pytestmark = [pytest.mark.root, pytest.mark.slow]

CGROUPS = next(
    Path(line.split()[1])
    for line in Path("/proc/mounts").read_text().splitlines()
    if line.split()[2] == "cgroup2"
)
POLICY = ("--policy", OUT, "--policy", IN)
PYTHON = (sys.executable, "-I", "-S", "-c")
BEGIN = "import socket, sys, os, struct, ctypes\n"
SERVE = (
    BEGIN
    + """
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    accepted, _ = listener.accept()
    accepted.sendall(accepted.recv(100).upper())
    accepted.close()
"""
)
ASK = (
    BEGIN
    + """
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
client.sendall(b"a word")
print(client.recv(100).decode())
"""
)
SEND = """
sock.sendto(b"a datagram", (sys.argv[1], int(sys.argv[2])))
"""


class Under(Two):
    """Programs of these hosts under `pfkey run --policy`."""

    def words(self, *program: str, policy: tuple[str, ...] = POLICY) -> list[str]:
        return [str(BIN / "pfkey"), "run", *policy, "--", *program]

    def run(
        self, host: Host, *program: str, policy: tuple[str, ...] = POLICY,
        prefix: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (),
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """To its end; its output is looked at."""
        words = [*host.enter, *prefix, *self.words(*program, policy=policy)]
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60, pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def groups(self) -> list[Path]:
        """Those of programs here that run, or have ended just now."""
        logged = self.da.log + self.db.log
        found = CGROUPS.rglob("pfkey-run-*")
        return [path for path in found if path.is_dir() and f"path={path}\n" in logged]

    def send(self, script: str) -> str:
        """Run a script in a with b's address and the port of a socket there that asks for ESP.

        What it printed, after what it sent has arrived in ESP and nothing else has.
        """
        receiver = self.open(self.b, IN, port=next(ports))
        port = str(receiver.getsockname()[1])
        done = self.run(self.a, *PYTHON, BEGIN + script, B, port)
        assert (done.stderr, done.returncode) == ("", 0)
        assert receiver.recv(100) == WORD
        self.wire(ESP)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Under]:
    with Net() as net:
        made = Under(net, tmp_path_factory.mktemp("groups"))
        yield made
        made.da.stop()
        made.db.stop()


@pytest.fixture
def two(stand: Under) -> Iterator[Under]:
    with stand.watched():
        stand.begin()
        yield stand
    until(lambda: not stand.groups(), what="the groups are taken away")


@pytest.fixture
def server(two: Under) -> Iterator[int]:
    """A server under policies in b; its port."""
    port = next(ports)
    made = two.b.start(*two.words(*PYTHON, SERVE, str(port)), stdout=subprocess.PIPE)
    try:
        assert made.stdout is not None
        assert made.stdout.readline() == "listening\n"
        yield port
    finally:
        made.kill()
        made.wait()


# ---------------------------------------------------------------- what the wire sees


def test_a_server_and_its_client_speak_esp_only(two: Under, server: int) -> None:
    back = two.watch_back()
    with back:
        done = two.run(two.a, *PYTHON, ASK, B, str(server))
        assert done.stdout == "A WORD\n"
        two.wire(ESP)
        assert set(back.protocols(B, A)) == {ESP}


def test_a_client_without_policies_is_not_answered(two: Under, server: int) -> None:
    back = two.watch_back()
    with back, two.open(two.a, kind=socket.SOCK_STREAM) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.connect((B, server))
        assert two.grew("ipsec", "in_polvio") >= 1
    assert not back.packets


def test_the_server_answers_a_policy_of_the_system_as_well(two: Under, server: int) -> None:
    """It is the packet that must be protected, not by whose wish it was."""
    two.da.setkey(require(A, B))
    with two.open(two.a, kind=socket.SOCK_STREAM) as client:
        client.connect((B, server))
        client.sendall(b"a word")
        assert client.recv(100) == b"A WORD"


def test_the_rest_of_the_host_is_not_concerned(two: Under, server: int) -> None:
    two.pair((), ())
    two.wire(UDP)


# ---------------------------------------------------------------- no way around


def test_a_datagram_and_what_a_child_sends(two: Under) -> None:
    two.send("sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)" + SEND)
    two.begin()
    two.send(
        "if os.fork():\n    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)" + SEND
    )


def test_the_other_system_calls_of_the_machine(two: Under, tmp_path: Path) -> None:
    """What makes a socket does not matter: i386's calls, where the machine has them."""
    if os.uname().machine != "x86_64":
        two.send("sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)" + SEND)
        return
    cc = shutil.which("cc") or shutil.which("gcc")
    assert cc, "no C compiler: apt-get install gcc libc6-dev"
    made = tmp_path / "i386_sender"
    source = Path(__file__).with_name("i386_sender.c")
    subprocess.run([cc, "-O1", "-Wall", "-Wextra", "-Werror", "-o", made, source], check=True)
    assert two.send(f"os.execv({str(made)!r}, ['i386_sender', *sys.argv[1:]])") == "sent"


def test_io_uring_is_none_of_its_system_calls(two: Under) -> None:
    """A ring begins connections where no filter sees it."""
    script = (
        BEGIN
        + """
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(425, 4, 0), os.strerror(ctypes.get_errno()))
"""
    )
    done = two.run(two.a, *PYTHON, script)
    assert done.stdout == "-1 Function not implemented\n"


def test_a_socket_that_it_inherits_has_them_too(two: Under) -> None:
    inherited = two.open(two.a)
    receiver = two.open(two.b, IN, port=next(ports))
    script = f"{BEGIN}sock = socket.socket(fileno={inherited.fileno()}){SEND}"
    port = str(receiver.getsockname()[1])
    done = two.run(two.a, *PYTHON, script, B, port, pass_fds=(inherited.fileno(),))
    assert (done.stderr, done.returncode) == ("", 0)
    assert receiver.recv(100) == WORD
    two.wire(ESP)


def test_packet_sockets_are_of_no_family(two: Under) -> None:
    """They send beside nft."""
    script = (
        BEGIN
        + """
for family, kind in ((17, 2), (17, 3), (44, 3), (2, 10), (2, 10 | 0o2000000)):
    try:
        socket.socket(family, kind, 0x300)
    except OSError as error:
        print(error.strerror)
"""
    )
    done = two.run(two.a, *PYTHON, script)
    assert done.stdout.splitlines() == ["Address family not supported by protocol"] * 5
    with in_host(two.a, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)) as packets:
        done = two.run(two.a, "echo", "ran", pass_fds=(packets.fileno(),))
        wanted = f"descriptor {packets.fileno()}: a packet socket obeys no policy"
    assert (done.returncode, done.stdout) == (1, "")
    assert wanted in done.stderr


def test_a_mark_of_its_own_changes_nothing(two: Under) -> None:
    two.send(
        "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for mark in (0x4C000000, 7, 0):\n"
        "    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)\n"
        "print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))" + SEND
    )


def test_the_first_segment_of_a_fast_open_has_them(two: Under, server: int) -> None:
    script = (
        BEGIN
        + """
client = socket.socket()
client.sendto(b"a word", 0x20000000, (sys.argv[1], int(sys.argv[2])))
print(client.recv(100).decode(), client.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) >> 24 >= 0x50)
"""
    )
    done = two.run(two.a, *PYTHON, script, B, str(server))
    assert (done.stdout, done.stderr) == ("A WORD True\n", "")
    two.wire(ESP)


BYPASSES = """
import errno
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def bypass():
    for direction in (1, 2):
        octets = struct.pack("=HHHBxII", 2, 18, 4, direction, 0, 0)
        try:
            sock.setsockopt(socket.SOL_IP, 16, octets)
            print("done")
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


def test_a_program_without_privileges_cannot_have_others(two: Under) -> None:
    """What root gave, a user does not take away; what root runs as itself is root's affair."""
    said = two.send(BYPASSES + "os.setuid(65534)\nbypass()" + SEND)
    assert said.split() == ["EPERM", "EPERM"]


STRANGER = """
import json
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect({path!r})
os.setuid(65534)
esp = struct.pack("=HHHBxII", 4, 18, 2, 2, 0, 0) + struct.pack("=HHBBHII", 16, 50, 1, 1, 0, 0, 0)
params = {{"policies": [esp.hex()], "uid": 65534, "keep": False}}
call = {{"jsonrpc": "2.0", "id": 1, "method": "set_policy", "params": params}}
socket.send_fds(control, [json.dumps(call).encode()], [sock.fileno()])
print("pair" in json.loads(control.recv(4096))["result"])
"""


def test_no_mark_that_is_weaker_takes_a_socket_out_of_it(two: Under) -> None:
    """UDP_ENCAP is no policy; a user's own, asked for at pfkeyd itself, is not root's."""
    encap = "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    assert two.send(encap + "print(sock.setsockopt(17, 100, 2))" + SEND) == "None"
    two.begin()
    two.da.setkey("flush;")  # nothing to protect it with: its own policy would let it out in clear
    receiver = two.open(two.b, port=next(ports))
    script = BEGIN + encap + STRANGER.format(path=f"{two.da.socket}.ctl") + SEND
    port = str(receiver.getsockname()[1])
    done = two.run(two.a, *PYTHON, script, B, port)
    assert done.stdout == "True\n", done.stderr
    two.load(two.da, AUTHENTIC_KEYS)
    two.pair((), ())
    two.wire(UDP)
    receiver.settimeout(0)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_a_privileged_program_in_it_has_its_own_policies(two: Under) -> None:
    receiver = two.open(two.b, port=next(ports))
    port = str(receiver.getsockname()[1])
    done = two.run(two.a, *PYTHON, BEGIN + BYPASSES + "bypass()" + SEND, B, port)
    assert (done.stdout.split(), done.stderr) == (["done", "done"], "")
    assert receiver.recv(100) == WORD
    two.wire(UDP)


def test_bypass_lets_a_whole_program_out_of_the_spd(two: Under) -> None:
    two.da.setkey(f"spdadd {A} {B} udp -P out discard;")
    receiver = two.open(two.b, port=next(ports))
    port = str(receiver.getsockname()[1])
    script = BEGIN + "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)" + SEND
    policy = ("--policy", BYPASS[0], "--policy", BYPASS[1])
    assert two.run(two.a, *PYTHON, script, B, port).returncode == 0  # in ESP
    done = two.run(two.a, *PYTHON, script, B, port, policy=policy)
    assert (done.stderr, done.returncode) == ("", 0)
    until(lambda: two.seen() == {ESP, UDP})
    assert two.run(two.a, *PYTHON, script, B, port, policy=()).returncode == 1


# ---------------------------------------------------------------- users


def test_a_user_in_a_group_that_was_delegated(two: Under) -> None:
    """No rights at all: a directory of its own, and the control socket that is open to all."""
    home = CGROUPS / f"delegated-{os.getpid()}"
    home.mkdir()
    try:
        os.chown(home, 65534, 65534)
        os.chown(home / "cgroup.procs", 65534, 65534)
        enter = ("sh", "-c", f'echo 0 > {home}/cgroup.procs && exec "$@"', "sh")
        user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        receiver = two.open(two.b, IN, port=next(ports))
        script = f"id -u; printf 'a datagram' > /dev/udp/{B}/{receiver.getsockname()[1]}"
        done = two.run(two.a, "bash", "-c", script, prefix=(*enter, *user))
        assert (done.stderr, done.stdout) == ("", "65534\n")
        assert receiver.recv(100) == WORD
        two.wire(ESP)
        policy = ("--policy", "out bypass")
        done = two.run(two.a, "echo", "ran", prefix=(*enter, *user), policy=policy)
        assert (done.stdout, done.returncode) == ("", 1)
        assert "takes privileges" in done.stderr
        until(lambda: not two.groups())
    finally:
        home.rmdir()


# ---------------------------------------------------------------- ends


def test_the_group_is_forgotten_when_its_last_process_has_ended(two: Under, server: int) -> None:
    (group,) = two.groups()
    assert f"path={group}" in two.db.log
    listed = ("nft", "list", "chain", "inet", "pfkey", "socket_group")
    assert group.name in two.b.run(*listed).stdout
    pids = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    for pid in pids:
        os.kill(pid, 9)
    until(lambda: not group.exists())
    until(lambda: group.name not in two.b.run(*listed).stdout, 15)


def test_a_pfkeyd_that_was_killed_is_missed_and_its_successor_told(two: Under) -> None:
    script = (
        BEGIN
        + """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while sys.stdin.readline():
    try:
        sock.sendto(b"a datagram", (sys.argv[1], int(sys.argv[2])))
        print("sent", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    )
    receiver = two.open(two.b, IN, port=next(ports))
    words = two.words(*PYTHON, script, B, str(receiver.getsockname()[1]))
    program = two.a.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    to, said = program.stdin, program.stdout
    assert to is not None
    assert said is not None

    def sends() -> str:
        to.write("\n")
        to.flush()
        return str(said.readline().strip())

    try:
        assert sends() == "sent"
        assert receiver.recv(100) == WORD
        two.da.kill()
        until(lambda: "pfkey" not in two.a.run("ip", "-br", "link").stdout)
        assert sends() == "No route to host"
        two.da.start()
        two.da.setkey(AUTHENTIC_KEYS)
        assert sends() == "sent"
        assert receiver.recv(100) == WORD
        two.da.stop()
        two.da.start()
        two.da.setkey(AUTHENTIC_KEYS)
        assert sends() == "sent"
        assert receiver.recv(100) == WORD
        two.wire(ESP)
    finally:
        program.kill()
        program.wait()


# ---------------------------------------------------------------- refusals


def test_who_cannot_be_supervised_leaves_its_group_again(two: Under) -> None:
    """It is in its own by then, and nobody can take away a group with somebody in it."""
    before = len(set(CGROUPS.rglob("pfkey-run-*")))
    script = f"import glob; print(len(glob.glob('{CGROUPS}/**/pfkey-run-*', recursive=True)))"
    done = two.run(two.a, "/bin/sh", "-c", f'"$@"; exec {sys.executable} -I -c "$0"', script,
                   *two.words("/bin/true"))  # fmt: skip
    assert "supervised already" in done.stderr
    assert done.stdout == f"{before + 1}\n", "that of the outer program alone"


def test_without_a_group_of_ones_own_nothing_is_run(two: Under) -> None:
    read_only = f'mount -o bind,ro {CGROUPS} {CGROUPS} && exec "$@"'
    done = two.run(two.a, "/bin/echo", "ran", prefix=("unshare", "-m", "sh", "-c", read_only, "sh"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pfkey run: ")
    assert "Read-only file system" in done.stderr
    assert "a writable cgroup2 is needed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("policy", "status", "said"),
    [
        ("out ipsec", 2, "argument --policy: "),
        ("fwd ipsec esp/transport//require", 1, "in is 1, out 2"),
        ("out entrust", 1, "ask for nothing"),
    ],
)
def test_a_policy_that_cannot_be_kept_runs_nothing(
    two: Under, policy: str, status: int, said: str
) -> None:
    done = two.run(two.a, "/bin/echo", "ran", policy=("--policy", policy))
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_pfkeyd_nothing_is_run(net: Net) -> None:
    host = net.host("alone")
    before = set(CGROUPS.rglob("pfkey-run-*"))
    done = host.run(str(BIN / "pfkey"), "run", *POLICY, "--", "/bin/echo", "ran", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pfkeyd" in done.stderr
    # others' programs that began meanwhile end, too; a group that was left would stay
    until(lambda: not set(CGROUPS.rglob("pfkey-run-*")) - before, 30)
