"""Hosts as network namespaces: unique names, always torn down, several nets side by side.

    with Net() as net:
        a, b = net.host("a"), net.host("b")
        net.link(a, "10.1.1.1/32", b, "20.1.1.1/32")
        a.run("ping", "-c1", "20.1.1.1")

A host's name is `pk<pid>x<number><name>`: what a killed run leaves behind is recognised by its
dead pid and swept by the next `Net`. A `Net` with a prefix of its own is never swept: that is for
hosts that outlive the program. Needs iproute2, and CAP_NET_ADMIN where it runs.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pfkey.errors import ShellError

_NETNS = Path("/run/netns")
_RUN = Path("/run/pfkey")
_NAME = re.compile(r"pk(\d+)x\d+\w*")
_numbers = itertools.count()


def ip(*args: str, trace: Callable[[str], None] | None = None) -> str:
    """Run iproute2's `ip` and return what it printed."""
    if trace:
        trace("ip " + " ".join(args))
    try:
        done = subprocess.run(("ip", *args), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ShellError("the command ip is missing", "apt-get install iproute2") from None
    if done.returncode:
        raise ShellError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace. `run` and `start` are programs in it; what `start` began ends with it."""

    def __init__(self, net: "Net", name: str, netns: str) -> None:
        self.net = net
        self.name = name
        self.netns = netns
        self._running: list[subprocess.Popen[str]] = []

    @property
    def enter(self) -> list[str]:
        """The words before a command that put it into this host."""
        return ["nsenter", f"--net={_NETNS / self.netns}"]

    @property
    def inode(self) -> int:
        """The inode of the namespace, which names pfkeyd's default socket."""
        return (_NETNS / self.netns).stat().st_ino

    def ip(self, *args: str) -> str:
        """`ip` in this namespace."""
        return ip("-n", self.netns, *args, trace=self.net.trace)

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; with `check`, an exit status other than 0 is an error."""
        done = subprocess.run(
            [*self.enter, *argv], input=stdin, capture_output=True, text=True, check=False,
            timeout=timeout, env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else None,
        )  # fmt: skip
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ShellError(f"{self.name}: {' '.join(argv)} ended with {done.returncode}: {said}")
        return done

    def start(
        self,
        *argv: str,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        new_session: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a program; it is ended with the net unless it ended before.

        In a session of its own it hears nothing of the terminal: no interrupt, no hang-up.
        """
        process = subprocess.Popen(
            [*self.enter, *argv], stdin=stdin, stdout=stdout, stderr=stderr, text=True,
            env={**os.environ, **(env or {})}, start_new_session=new_session,
        )  # fmt: skip
        self._running.append(process)
        return process

    def stop(self, process: "subprocess.Popen[str]", timeout: float = 10) -> int:
        """End a program that `start` began: TERM, then KILL; its exit status."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process in self._running:
            self._running.remove(process)
        return process.returncode

    def close(self) -> None:
        """End all programs and delete the namespace."""
        for process in reversed(self._running[:]):
            self.stop(process)
        delete(self.netns)


class Net:
    """A set of hosts and links. Use it as a context manager; `keep()` leaves all standing."""

    def __init__(
        self, trace: Callable[[str], None] | None = None, *, prefix: str | None = None
    ) -> None:
        self.trace = trace
        self.hosts: dict[str, Host] = {}
        self._prefix = prefix or f"pk{os.getpid()}x{next(_numbers)}"
        self._kept = False

    def __enter__(self) -> Self:
        sweep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._kept:
            for host in reversed(list(self.hosts.values())):
                host.close()

    def keep(self) -> None:
        """Leave hosts and programs standing when the context ends."""
        self._kept = True

    def host(self, name: str, *, ipv6: bool = False) -> Host:
        """Make a namespace with its loopback up; IPv6 is off unless asked for."""
        netns = self._prefix + name
        ip("netns", "add", netns, trace=self.trace)
        host = self.hosts[name] = Host(self, name, netns)
        _forget(host.inode)
        host.ip("link", "set", "lo", "up")
        if not ipv6:
            host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1",
                     "net.ipv6.conf.default.disable_ipv6=1")  # fmt: skip
        return host

    def link(
        self, a: Host, a_address: str, b: Host, b_address: str, *, mtu: int = 1500
    ) -> tuple[str, str]:
        """Join two hosts by a veth pair; each gets a route to the other's address.

        The device is called after the host at its other end, as `to<name>`.
        """
        a_dev, b_dev = f"to{b.name}", f"to{a.name}"
        ip("-n", a.netns, "link", "add", a_dev, "mtu", str(mtu), "type", "veth",
           "peer", "name", b_dev, "mtu", str(mtu), "netns", b.netns, trace=self.trace)  # fmt: skip
        for host, dev, own in ((a, a_dev, a_address), (b, b_dev, b_address)):
            # an IPv6 address that is still being asked about is no source for a route
            host.ip("addr", "add", own, "dev", dev, *(["nodad"] if ":" in own else []))
            host.ip("link", "set", dev, "up")
        for host, dev, own, other in (
            (a, a_dev, a_address, b_address), (b, b_dev, b_address, a_address),
        ):  # fmt: skip
            there = other.split("/")[0]
            host.ip("route", "replace", there, "dev", dev, "src", own.split("/")[0])
        return a_dev, b_dev


def sweep() -> None:
    """Delete namespaces that a killed run of this program left behind."""
    if not _NETNS.is_dir():
        return
    for path in _NETNS.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            delete(path.name)


def delete(netns: str) -> None:
    """Delete a namespace, and what pfkeyd kept for it."""
    with contextlib.suppress(ShellError, FileNotFoundError):
        inode = (_NETNS / netns).stat().st_ino
        ip("netns", "del", netns)
        _forget(inode)


def _forget(inode: int) -> None:
    """Remove pfkeyd's files of a namespace that is gone: another one gets its inode."""
    for left in _RUN.glob(f"{inode}.sock*"):
        left.unlink(missing_ok=True)
