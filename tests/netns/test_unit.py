"""The systemd unit and the example of its file, as far as they can be tried without systemd."""

import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.shell import privilege
from pfkey.control import control_call
from pfkey.lab.hosts import Net
from tests.support.system import BIN, Daemon

pytestmark = [pytest.mark.root, pytest.mark.slow]

SYSTEM = Path(__file__).parents[2] / "system"
UNIT = (SYSTEM / "pfkeyd.service").read_text()
CONF = (SYSTEM / "ipsec.conf").read_text()
# what a process looks up in /etc, besides the file
ETC = ("passwd", "group", "nsswitch.conf", "services", "protocols", "hosts", "ld.so.cache")


def values(name: str) -> list[str]:
    """What the unit says of a directive, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)


def filled_in(conf: str) -> str:
    """The example with its lines taken in and keys in the places of the words."""
    bits = {"1": 16, "2": 32, "3": 16, "4": 32}
    conf = re.sub(r"^#(add|spdadd)", r"\1", conf, flags=re.M)
    return re.sub(r"0xKEY(\d)", lambda word: f"0x{bytes(range(bits[word[1]])).hex()}", conf)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    made = tmp_path / "etc"
    (made / "pfkey").mkdir(parents=True)
    for name in ETC:
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), made / name)
    conf = made / "pfkey" / "ipsec.conf"
    conf.write_text(filled_in(CONF))
    conf.chmod(0o600)
    return made


def words(line: str, etc: Path) -> list[str]:
    """A command of the unit, with this /etc, its rights, and our commands before others."""
    names = " ".join(values("CapabilityBoundingSet")).lower().replace("cap_", "+").split()
    enter = f'mount --bind {etc} /etc && exec "$@"'
    command, *arguments = shlex.split(line)
    return [
        "unshare", "--mount", "sh", "-c", enter, "sh", "setpriv", "--no-new-privs",
        f"--bounding-set=-all,{','.join(names)}", str(BIN / command), *arguments,
    ]  # fmt: skip


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(20)
        yield made


def test_the_unit_starts_it_with_the_file_in_force_and_reloads_it(
    net: Net, etc: Path, tmp_path: Path, manager: socket.socket
) -> None:
    host = net.host("u")
    (start,) = values("ExecStart")
    check, reload = values("ExecReload")
    assert values("Type") == ["notify"]
    process = host.start(*words(start, etc), env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.recv(100) == b"READY=1", process.communicate()
    path = Path(f"/run/pfkey/{host.inode}.sock")
    assert (status(path)["policies"], status(path)["sas"], status(path)["hold"]) == (2, 2, True)
    assert len(control_call(path, "status")["workers"]) == 2
    conf = etc / "pfkey" / "ipsec.conf"
    for text, code in ((filled_in(CONF) + "spdad;", 1), (CONF, 0)):
        conf.write_text(text)
        assert host.run(*words(check, etc), check=False).returncode == code
    assert reload == "kill -HUP $MAINPID"
    process.send_signal(signal.SIGHUP)
    assert manager.recv(100).startswith(b"RELOADING=1")
    assert manager.recv(100) == b"READY=1"
    assert status(path)["policies"] == 0
    assert host.stop(process) == 0
    assert manager.recv(100) == b"STOPPING=1"


def status(path: Path) -> dict[str, int]:
    found: dict[str, int] = control_call(path, "status")
    return found


def test_its_rights_are_those_that_pfkeyd_keeps() -> None:
    names = " ".join(values("CapabilityBoundingSet")).removeprefix("CAP_").split(" CAP_")
    assert {getattr(privilege, name) for name in names} == {
        *privilege.KEPT, privilege.DAC_OVERRIDE,
    }  # fmt: skip


def test_a_stop_with_hold_is_closed_and_one_without_policies_is_open(
    net: Net, tmp_path: Path
) -> None:
    assert "setkey -FP, then stop" in UNIT
    conf = tmp_path / "conf"
    conf.write_text(filled_in(CONF))
    host, other = net.host("u"), net.host("o")
    net.link(host, "192.0.2.1/24", other, "192.0.2.2/24")
    for is_flushed in (False, True):
        daemon = Daemon(host, tmp_path, "--hold", "--load", str(conf))
        if is_flushed:
            host.run(str(BIN / "setkey"), "-FP")
        daemon.stop()
        ping = host.run("ping", "-c1", "-W1", "192.0.2.2", check=False)
        assert (ping.returncode == 0) == is_flushed


def test_the_example_is_right_as_it_is_and_filled_in(tmp_path: Path) -> None:
    for text, policies in ((CONF, 0), (filled_in(CONF), 2)):
        assert text.count("\nspdadd") == policies
        conf = tmp_path / "conf"
        conf.write_text(text)
        done = subprocess.run(
            [BIN / "pfkeyd", "--no-dataplane", "-n", "--socket", tmp_path / "s", "--load", conf],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
