"""How a lab run is told: headings, commands with what they printed, checks with their result."""

import os
import sys
from collections.abc import Callable
from typing import TextIO


def the(host: str) -> str:
    """A host in a sentence: `the leaf`, but `gateway1` and `a`, which are names already."""
    return host if len(host) == 1 or host[-1].isdigit() else f"the {host}"


class Story:
    """Writes as it happens, and counts the checks that failed."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._colour = self._out.isatty() and "NO_COLOR" not in os.environ
        self._step = 0
        self.passed = 0
        self.failed: list[str] = []

    def say(self, text: str = "") -> None:
        """Plain lines."""
        print(text, file=self._out, flush=True)

    def title(self, text: str) -> None:
        """The name of a run; its steps count from 1."""
        self._step = 0
        self.say(self._paint("1", f"== {text}"))

    def step(self, text: str) -> None:
        """A numbered heading."""
        self._step += 1
        self.say()
        self.say(self._paint("1", f"{self._step}. {text}"))

    def note(self, text: str) -> None:
        """What a reader should see in the lines around it."""
        for line in text.splitlines():
            self.say(f"   {line}")

    def command(self, where: str, command: str) -> None:
        """A command as typed on a host; `where` may be empty for this machine."""
        first, *more = command.splitlines()
        self.say(self._paint("36", f"   {where}# {first}"))
        for line in more:
            self.say(self._paint("36", f"   {line}"))

    def output(self, text: str) -> None:
        """What a program printed, indented."""
        for line in text.expandtabs(8).rstrip("\n").splitlines():
            self.say(f"       {line}".rstrip())

    def check(self, claim: str, holds: bool, seen: object = "") -> bool:
        """One claim and whether it holds; `seen` says what was found."""
        found = f" ({seen})" if seen != "" else ""
        if holds:
            self.passed += 1
            self.say(f"   {self._paint('32', 'ok')}      {claim}{found}")
        else:
            self.failed.append(claim)
            self.say(f"   {self._paint('1;31', 'FAILED')}  {claim}{found}")
        return holds

    def tracer(self, where: str = "") -> Callable[[str], None]:
        """For `Net(trace=…)`: shows each command it runs."""
        return lambda command: self.command(where, command)

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text
