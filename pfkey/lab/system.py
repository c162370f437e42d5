"""One host of a lab as a learner sees it: its pfkeyd, its commands, its counters."""

import os
import sys
import time
from pathlib import Path

from pfkey.control import control_call
from pfkey.errors import ShellError
from pfkey.lab.hosts import Host
from pfkey.lab.story import Story

BIN = Path(sys.executable).parent
MACHINES_FILE = Path("/etc/pfkey/ipsec.conf")  # which is none of a lab's hosts' business
_START_SECONDS = 20
_SETTLE_SECONDS = 2
_LOG_SECONDS = 5

# Whatever else the groups esp and ah have is a reason why a packet was dropped.
_NO_DROP = {"input", "output", "ibytes", "obytes"}


def command_path(name: str) -> Path:
    """An installed command, the one beside this Python."""
    path = BIN / name
    if not path.exists():
        raise ShellError(f"{name} is not installed beside {sys.executable}", "make setup")
    return path


class System:
    """A host with a pfkeyd in it."""

    def __init__(self, host: Host, story: Story, log_path: Path) -> None:
        self.host = host
        self.story = story
        self.log_path = log_path
        self.socket = Path(f"/run/pfkey/{host.inode}.sock")
        self._environment = {"PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}"}

    def start(self, *, keep: bool = False) -> None:
        """Start pfkeyd and wait until it is ready. Unless kept it ends with us, however we end."""
        options = ["--no-load"] if MACHINES_FILE.exists() else []
        self.story.command(self.host.name, " ".join(["pfkeyd", *options, "&"]))
        command = [] if keep else ["setpriv", "--pdeathsig", "TERM"]
        command += [str(command_path("pfkeyd")), *options]
        with self.log_path.open("w") as log:
            self.process = self.host.start(*command, stdout=log, stderr=log, new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while "ready socket=" not in (said := self.log_path.read_text()):
            last = said.strip().splitlines()[-1:] or ["it said nothing"]
            if self.process.poll() is not None:
                raise ShellError(last[0], "pfkey doctor")
            if time.monotonic() > deadline:
                raise ShellError(f"pfkeyd is not ready after {_START_SECONDS} s: {last[0]}")
            time.sleep(0.02)

    def stop(self) -> int:
        """Stop pfkeyd as an operator would; its exit status."""
        return self.host.stop(self.process)

    def shell(self, shown: str, *argv: str, stdin: str | None = None, quiet: bool = False) -> bool:
        """Run a command here, show it and what it printed; whether it succeeded."""
        self.story.command(self.host.name, shown)
        done = self.host.run(*argv, stdin=stdin, check=False, env=self._environment)
        if not quiet or done.returncode:
            self.story.output(done.stdout + done.stderr)
        return done.returncode == 0

    def setkey(self, text: str) -> bool:
        """Give setkey commands on its standard input, as the FAQ's files do."""
        return self.shell(f"setkey -c <<EOF\n{text.rstrip()}\nEOF", "setkey", "-c", stdin=text)

    def counters(self) -> dict[str, dict[str, int]]:
        """All counters, by group and name."""
        answer: dict[str, dict[str, int]] = control_call(self.socket, "counters")["counters"]
        return answer

    def counter(self, group: str, name: str) -> int:
        """One counter."""
        return self.counters()[group][name]

    def settled(self, group: str, name: str, value: int) -> int:
        """A counter once it has reached `value`, or what it is after a while."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (now := self.counter(group, name)) < value and time.monotonic() < deadline:
            time.sleep(0.02)
        return now

    def logged(self, event: str) -> str:
        """The first line of pfkeyd's log about an event, as soon as there is one; else nothing."""
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            found = [one for one in self.log_path.read_text().splitlines() if f" {event} " in one]
            if found or time.monotonic() > deadline:
                return found[0] if found else ""
            time.sleep(0.02)

    def drops(self) -> dict[str, int]:
        """Why packets with ESP or AH were dropped, and how many."""
        counters = self.counters()
        return {
            f"{group} {name}": n
            for group in ("esp", "ah")
            for name, n in counters.get(group, {}).items()
            if n and name not in _NO_DROP
        }
