"""A whole system in hosts: pfkeyd started and asked, setkey fed, workers found."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfkey.control import control_call
from pfkey.lab.hosts import Host

BIN = Path(sys.executable).parent
A, B = "10.1.1.1", "20.1.1.1"
A6, B6 = "2001:db8:1::1", "2001:db8:2::1"
ENDS = {4: (A, B), 6: (A6, B6)}
versions = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])

KEYS = f"""
add {A} {B} esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";
add {B} {A} esp 10000 -E 3des-cbc 0xdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef;
"""
AUTHENTIC_KEYS = f"""
add {A} {B} esp 9876 -r 32 -E aes-cbc "hogehogehogehoge"
    -A hmac-sha2-256 "0123456789abcdef0123456789abcdef";
add {B} {A} esp 10000 -r 32 -E aes-cbc 0xdeadbeefdeadbeefdeadbeefdeadbeef
    -A hmac-sha1 "0123456789abcdef0123";
"""


def over(version: int, text: str) -> str:
    """The same commands, between the addresses of an IP version."""
    for four, other in zip(ENDS[4], ENDS[version], strict=True):
        text = text.replace(four, other)
    return text


def require(own: str, other: str, upper: str = "any") -> str:
    """Both directions under `require`, as seen from `own`."""
    return f"""
spdadd {own} {other} {upper} -P out ipsec esp/transport//require;
spdadd {other} {own} {upper} -P in ipsec esp/transport//require;
"""


def until(claim: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Wait for something that other processes bring about; the only waiting tests may do."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"did not come true in {seconds} s: {what or claim}"
        time.sleep(0.02)


def nft(host: Host, rules: str) -> None:
    """Load a file of nft's language in a host."""
    host.run("nft", "-f", "-", stdin=rules)


class Daemon:
    """pfkeyd in a host."""

    def __init__(self, host: Host, tmp: Path, *options: str) -> None:
        self.host = host
        self.socket = Path(f"/run/pfkey/{host.inode}.sock")
        self.log_path = tmp / f"{host.netns}.log"
        # a file of the machine that the tests run on has no place in them
        self._options = options if "--load" in options else (*options, "--no-load")
        self.start()

    def command(self) -> tuple[str, ...]:
        """The words that start it."""
        return (str(BIN / "pfkeyd"), *self._options)

    def start(self) -> None:
        """Start (again) and wait until it is ready."""
        with self.log_path.open("a") as log:
            where = log.tell()
            self.process = self.host.start(*self.command(), stdout=log, stderr=log)

        def ready() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            return "ready socket=" in self.log_path.read_text()[where:]

        until(ready, 20, "pfkeyd is ready")

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self.log_path.read_text()

    def control(self, method: str, **params: Any) -> Any:
        """A JSON-RPC call to its control socket."""
        return control_call(self.socket, method, **params)

    def counter(self, group: str, name: str) -> int:
        """One counter's value now."""
        return int(self.control("counters")["counters"][group][name])

    def workers(self) -> dict[str, int]:
        """The pid of each data-path worker by its role."""
        return {w["role"]: w["pid"] for w in self.control("status")["workers"]}

    def setkey(self, text: str, *options: str, check: bool = True) -> str:
        """Feed setkey on standard input; what it printed."""
        done = self.host.run(
            str(BIN / "setkey"), *(options or ("-f", "-")), stdin=text, check=check
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        """A plain stop."""
        assert self.host.stop(self.process) == 0, self.log

    def kill(self) -> None:
        """SIGKILL to the control process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
