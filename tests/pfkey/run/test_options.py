"""Policies of sockets by setsockopt(2): what Linux and NetBSD say to each, and hostile callers."""

import os
import subprocess
from pathlib import Path

import pytest

from pfkey.run.filter import native
from tests.pfkey.run.test_confined import doctor, forbidding
from tests.support.shell import Process, control
from tests.support.supervised import Program, descriptors, ended, run, supervisors
from tests.support.system import until

pytestmark = pytest.mark.root
ABI = native(os.uname().machine)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def test_options_are_what_they_are_on_linux_and_netbsd(
    daemon: Process, client: Path, static_client: Path
) -> None:
    for program in (client, static_client):
        assert run(daemon.socket, program, "options").stdout.splitlines() == [
            "four 0 0",
            "six 0 0",
            "equal 1",
            "mark 0 1",
            "get 0 16 octets type 4 dir 2",
            "other family EOPNOTSUPP EOPNOTSUPP",
            "short EINVAL long EMSGSIZE none EMSGSIZE",
            "address EFAULT",
            "kernel EFAULT",
            "closed EBADF pipe ENOTSOCK",
            "unix EOPNOTSUPP",
            "type EINVAL dir EINVAL",
            "cleared 0 1",
            "xfrm 0 type 4",
            "xfrm get ENOPROTOOPT",
        ]


def test_a_user_may_what_netbsd_allows(daemon: Process, client: Path) -> None:
    """discard, none, ipsec, entrust, bypass; then Linux's own option, and a mark."""
    assert run(daemon.socket, *NOBODY, client, "user").stdout == (
        "EPERM EPERM 0 0 EPERM xfrm EPERM mark EPERM\n"
    )
    assert run(daemon.socket, client, "user").stdout == "0 0 0 0 0 xfrm 0 mark 0\n"


ENCAP = [
    "at first 0",
    "esp in udp 0 2",
    "of old drafts ENOPROTOOPT 2",
    "l2tp 0 3",
    "none 0 0",
    "unknown ENOPROTOOPT",
    "tcp ENOPROTOOPT",
    "closed EBADF pipe ENOTSOCK",
    "short EINVAL address EFAULT",
    "room 0 2 1",
    "after a mark 2",
]


def test_udp_encap_is_what_it_is_on_linux(daemon: Process, client: Path) -> None:
    """Of everybody, and on a kernel without XFRM as well: that is not asked."""
    assert run(daemon.socket, client, "encap").stdout.splitlines() == ENCAP
    assert run(daemon.socket, *NOBODY, client, "encap").stdout.splitlines() == ENCAP


def test_udp_encap_is_the_kernels_where_pfkeyd_cannot_do_it(daemon: Process, client: Path) -> None:
    """As under a container's profile without pidfd_getfd(2)."""
    kernels = subprocess.run([client, "encap"], capture_output=True, text=True, check=True).stdout
    prefix = forbidding(ABI.pidfd_getfd)
    assert run(daemon.socket, client, "encap", prefix=prefix).stdout == kernels


def test_what_another_thread_changes_meanwhile_gains_nothing(daemon: Process, client: Path) -> None:
    assert run(daemon.socket, client, "flips").stdout == "nothing strange, some refused\n"
    assert control(daemon.socket, "status")["result"]["policies"] == 0


def test_callers_that_die_leave_nothing(daemon: Process, client: Path) -> None:
    with Program(daemon.socket, "/bin/sh") as shell:
        shell.tell(f"{client} killed-options")
        assert shell.line() == "0"
        (pid,) = supervisors(daemon.socket)
        before = descriptors(pid)
        shell.tell(f"{client} killed-options")
        assert shell.line() == "0"
        until(lambda: descriptors(pid) <= before)
        assert shell.finish() == 0
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    assert run(daemon.socket, client, "killed-options").stdout == "0\n"
    until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before)


def test_where_descriptors_cannot_be_taken_pf_key_works_and_options_do_not(
    daemon: Process, client: Path
) -> None:
    """As under a container's profile without pidfd_getfd(2)."""
    prefix = forbidding(ABI.pidfd_getfd)
    assert run(daemon.socket, client, "peek", prefix=prefix).stdout.startswith("peek 16")
    assert run(daemon.socket, client, "user", prefix=prefix).stdout.startswith("EPERM EPERM EPERM")
    ended(daemon.socket)
    found = doctor(*prefix)
    assert found["ok"] is True
    assert "no policies of sockets" in str(found["seen"])
