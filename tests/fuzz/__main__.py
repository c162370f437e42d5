"""`make fuzz`: mutates what the targets read, for as long as one likes.

What raises is made as small as it goes and kept below `tests/fuzz/corpus`, where `make test` finds
it. What something new came of is kept in `.fuzz`, for the next time.
"""

import argparse
import hashlib
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Hashable
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
TURN_SECONDS = 2.0
KNOWN_MAX = 500  # octets of which something new came, for each target
_SMALLER_SECONDS = 20.0


def fault(target: Target, octets: bytes) -> BaseException | None:
    """What the octets raise, if anything."""
    try:
        target.run(octets)
    except Exception as error:
        return error
    return None


def place(error: BaseException) -> tuple[str, str, int]:
    """Where it was raised: one fault is told once."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, last.filename, last.lineno or 0


def smaller(octets: bytes, is_same: Callable[[bytes], bool]) -> bytes:
    """The octets without what makes no difference."""
    deadline = time.monotonic() + _SMALLER_SECONDS
    size = max(1, len(octets) // 2)
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(octets) and time.monotonic() < deadline:
            less = octets[:at] + octets[at + size :]
            if is_same(less):
                octets = less
            else:
                at += size
        size //= 2
    return octets


class Hunt:
    """One target, what is known of it, and what was found."""

    def __init__(self, target: Target, kept: Path, dice: random.Random) -> None:
        self.target = target
        self.runs = 0
        self.found: list[Path] = []
        self._kept = kept / target.name
        self._dice = dice
        self._outcomes: set[Hashable] = set()
        self._places: set[tuple[str, str, int]] = set()
        self._known = list(target.seeds)
        for folder in (CORPUS / target.name, self._kept):
            paths = sorted(folder.glob("*.bin"))[:KNOWN_MAX]
            self._known += (path.read_bytes() for path in paths)
        for octets in tuple(self._known):
            self._try(octets)

    def turn(self, until: float) -> None:
        """Go on for a while."""
        while time.monotonic() < until:
            start = self._dice.choice(self._known)
            words = self.target.words
            others = words if words and self._dice.random() < 0.5 else self._known
            self._try(mutated(self._dice, start, others, self.target.ways))

    def _try(self, octets: bytes) -> None:
        self.runs += 1
        try:
            outcome = self.target.run(octets)
        except Exception as error:
            self._keep_fault(octets, error)
            return
        if outcome in self._outcomes or len(self._outcomes) >= KNOWN_MAX:
            return
        self._outcomes.add(outcome)
        self._known.append(octets)
        _write(self._kept, octets)

    def _keep_fault(self, octets: bytes, error: Exception) -> None:
        where = place(error)
        if where in self._places:
            return
        self._places.add(where)

        def is_same(less: bytes) -> bool:
            other = fault(self.target, less)
            return other is not None and place(other) == where

        path = _write(CORPUS / self.target.name, smaller(octets, is_same))
        self.found.append(path)
        shown = "".join(traceback.format_exception(error)[-3:])
        sys.stdout.write(f"{self.target.name}: {path}\n{shown}")
        sys.stdout.flush()


def _write(folder: Path, octets: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(octets).hexdigest()[:16]}.bin"
    path.write_bytes(octets)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Hunt in turns; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; 0: for ever")
    parser.add_argument("--seed", type=int, default=None, help="repeat the same numbers")
    parser.add_argument("--kept", type=Path, default=Path(".fuzz"), help="what is new goes there")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    start = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    names = options.targets or list(TARGETS)
    print(f"seed {start}, {options.seconds or 'no end of'} seconds: {', '.join(names)}", flush=True)
    hunts = [Hunt(TARGETS[name], options.kept, random.Random(f"{start} {name}")) for name in names]
    turn = min(TURN_SECONDS, max(0.1, (options.seconds or 60.0) / len(hunts)))
    end = time.monotonic() + (options.seconds or float("inf"))
    logging.disable()
    try:
        while time.monotonic() < end:
            for hunt in hunts:
                hunt.turn(min(end, time.monotonic() + turn))
    except KeyboardInterrupt:
        print()
    finally:
        logging.disable(logging.NOTSET)
    for hunt in hunts:
        print(f"{hunt.target.name}: {hunt.runs} runs, {len(hunt.found)} faults")
    return int(any(hunt.found for hunt in hunts))


if __name__ == "__main__":
    sys.exit(main())
