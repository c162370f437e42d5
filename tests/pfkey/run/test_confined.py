"""Containers: fewer rights, fewer system calls, other namespaces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from pfkey.run.filter import native
from pfkey.run.probe import probe
from tests.support.shell import Process
from tests.support.supervised import BIN, ended, run
from tests.support.system import until

pytestmark = pytest.mark.root
FORBID = Path(__file__).parents[2] / "support" / "forbid.py"
ABI = native(os.uname().machine)

# What container runtimes leave to root, and what pfkeyd's guide has them add.
CONTAINER = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,"
    "sys_chroot,mknod,audit_write,setfcap,net_admin"
)
AS_IN_A_CONTAINER = (
    "setpriv", "--bounding-set", "-all," + ",".join(f"+{c}" for c in CONTAINER.split(",")),
    "--inh-caps=-all",
)  # fmt: skip


def forbidding(number: int) -> tuple[str, ...]:
    return (sys.executable, str(FORBID), str(number), "--")


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("ways", ["6 ways"]),
        ("peek", ["peek 16 of type 7, then all of it"]),
        ("pass", ["peek 16", "second socket EPERM", "child 0"]),
        ("errors", ["stream ESOCKTNOSUPPORT", "protocol EPROTONOSUPPORT"]),
    ],
)
def test_roots_usual_rights_in_a_container_suffice(
    daemon: Process, client: Path, deed: str, said: list[str]
) -> None:
    """Neither CAP_SYS_ADMIN nor CAP_SYS_PTRACE; iked's child is nobody we may look at."""
    done = run(daemon.socket, client, deed, prefix=AS_IN_A_CONTAINER)
    assert done.stdout.splitlines()[: len(said)] == said


def test_a_profile_without_notification_is_named_with_its_remedy(daemon: Process) -> None:
    done = run(daemon.socket, "/bin/true", prefix=forbidding(ABI.seccomp), check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "pfkey run: the seccomp profile here forbids user notification; in a container:"
        " --security-opt seccomp=unconfined, or allow seccomp(2)\n"
    )
    ended(daemon.socket)


def doctor(*prefix: str) -> dict[str, object]:
    shown = subprocess.run(
        [*prefix, BIN / "pfkey", "doctor", "--json"], capture_output=True, text=True, check=False
    ).stdout
    findings = {finding["name"]: finding for finding in json.loads(shown)["findings"]}
    found: dict[str, object] = findings["run"]
    return found


def test_doctor_says_whether_programs_can_be_run() -> None:
    assert probe().gives
    assert doctor()["ok"] is True
    forbidden = doctor(*forbidding(ABI.seccomp))
    assert forbidden["ok"] is False
    assert "forbids user notification" in str(forbidden["seen"])
    assert "--security-opt" in str(forbidden["remedy"])


def pfkeyd_in(host: Host) -> None:
    host.start(str(BIN / "pfkeyd"), "--no-dataplane", stdout=subprocess.DEVNULL,
               stderr=subprocess.DEVNULL)  # fmt: skip
    until(Path(f"/run/pfkey/{host.inode}.sock").exists)


def test_each_network_namespace_has_its_own_pfkeyd(net: Net, client: Path) -> None:
    """A program that enters another one is served there; its supervisor stays where it began."""
    a, b, c = (net.host(name) for name in "abc")
    pfkeyd_in(a)
    pfkeyd_in(b)
    script = f"{client} peek; {' '.join(b.enter)} {client} peek; {' '.join(c.enter)} {client} open"
    done = a.run(str(BIN / "pfkey"), "run", "--", "sh", "-c", script)
    peek = "peek 16 of type 7, then all of it"
    assert done.stdout.splitlines() == [peek, peek, "EAFNOSUPPORT"]
