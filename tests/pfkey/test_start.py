"""How the commands begin."""

import signal
import subprocess
import sys
from importlib.metadata import distribution

import pytest

# The signal comes while the module is read: this importer sends it when the module is asked for.
INTERRUPTED = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["command", "--version"]
from {start} import {command}
sys.exit({command}())
"""
COMMANDS = {
    "pfkeyd": ("keyd.start", "keyd.shell.main"),
    "setkey": ("pfkey.start", "pfkey.setkey.main"),
    "pfkey": ("pfkey.start", "pfkey.cli"),
}


def test_the_commands_are_these() -> None:
    scripts = distribution("pfkey").entry_points.select(group="console_scripts")
    assert {s.name: s.value for s in scripts} == {
        name: f"{start}:{name}" for name, (start, _) in COMMANDS.items()
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shell", ['exec "$@"', "trap '' INT; exec \"$@\""])
def test_an_interrupt_while_modules_are_read_shows_no_traceback(command: str, shell: str) -> None:
    start, module = COMMANDS[command]
    code = INTERRUPTED.format(command=command, start=start, module=module)
    done = subprocess.run(
        ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == (0 if "trap" in shell else -signal.SIGINT)
    assert bool(done.stdout) == ("trap" in shell)
