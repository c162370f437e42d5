"""pfkeyd and `pfkey run` in containers, with the capabilities and profiles that these have.

a 10.1.1.1, with the container ── 20.1.1.1 b, a host.
"""

import shutil
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.support.container import BEYOND_DOCKER, Container
from tests.support.supervised import BIN, compile_client
from tests.support.system import AUTHENTIC_KEYS, A, B, Daemon, require
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

ADD = ("NET_ADMIN", "NET_RAW")
SCRIPT = f"""
PATH={BIN}:$PATH
pfkeyd --no-load >/run/log 2>&1 &
pfkeyd=$!
for n in $(seq 200); do grep -q 'ready socket' /run/log && break; sleep 0.05; done
pfkey doctor | grep ' run '
pfkey run -- /run/box/client peek
pfkey run -- /run/box/client user
pfkey run -- /run/box/client encap | sed -n 2p
setkey -f /run/box/setkey.conf && ping -c2 -i0.1 -W5 {B} >/run/ping && echo ping
setkey -PF
pfkey run --policy 'out ipsec esp/transport//require' -- ping -c2 -i0.1 -W5 {B} | grep -c ttl=
grep -v ' info ' /run/log
kill $pfkeyd; wait $pfkeyd; echo $?
"""


class Boxed:
    """The two hosts, b with a pfkeyd that wants ESP."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.tmp = tmp
        self.a, self.b = net.host("a"), net.host("b")
        _, self.device = net.link(self.a, f"{A}/24", self.b, f"{B}/24")
        self.a.ip("route", "add", "20.1.1.0/24", "dev", "tob")
        self.b.ip("route", "add", "10.1.1.0/24", "dev", "toa")
        self.db = Daemon(self.b, tmp)
        self.db.setkey(AUTHENTIC_KEYS + require(B, A))

    def run(self, script: str, **kind: object) -> list[str]:
        """What a script said in a container of that kind."""
        box = self.tmp / "box"
        made = Container(self.a, box, **kind)  # type: ignore[arg-type]
        shutil.copy(compile_client(self.tmp, "-static"), box / "client")
        (box / "setkey.conf").write_text(AUTHENTIC_KEYS + require(A, B))
        done = made.run(script)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def boxed(net: Net, tmp_path: Path) -> Boxed:
    return Boxed(net, tmp_path)


def test_all_of_it_works_in_a_container_as_podman_makes_it(boxed: Boxed) -> None:
    """Two capabilities, one device, and control groups of its own for --policy."""
    with Tap(boxed.b, boxed.device) as tap:
        said = boxed.run(SCRIPT, add=ADD, cgroups=True)
    assert said == [
        "ok      run       pfkey run can give programs PF_KEY sockets, and their sockets policies",
        "peek 16 of type 7, then all of it",
        "0 0 0 0 0 xfrm 0 mark 0",
        "esp in udp 0 2",
        "ping",
        "2",
        "0",
    ]
    assert set(tap.protocols(A, B)) == {50}


def test_what_dockers_profile_forbids_is_named_with_its_option(boxed: Boxed) -> None:
    said = boxed.run(SCRIPT, add=ADD, without=BEYOND_DOCKER)
    assert said[:5] == [
        "ok      run       pfkey run can give programs PF_KEY sockets, but no policies of sockets:"
        " pidfd_getfd(2) is forbidden here (Docker: --cap-add SYS_PTRACE)",
        "peek 16 of type 7, then all of it",
        "EPERM EPERM EPERM EPERM EPERM xfrm EPERM mark EPERM",
        "esp in udp 0 2",
        "ping",
    ]
    assert "in a container with --cgroupns private and /sys/fs/cgroup mounted rw" in said[-1]


def test_without_the_capabilities_the_options_are_named_that_add_them(boxed: Boxed) -> None:
    said = boxed.run(f"{BIN}/pfkeyd; {BIN}/pfkey doctor; true", tun=False)
    options = "--cap-add NET_ADMIN --cap-add NET_RAW --device /dev/net/tun"
    assert said[-1].startswith("pfkeyd: ")
    assert said[-1].endswith(f"start the container with {options}")
    for missing in ("tun", "rights"):
        (at,) = (n for n, line in enumerate(said) if line.startswith(f"MISSING {missing}"))
        assert said[at + 1].strip() == f"mend it: start the container with {options}"
