"""Shell: standard input, output and error of a command, also where its caller closed them."""

import os
import sys

# A read-only descriptor refuses writes as a closed one does, and takes the number, so that no
# socket opened later becomes standard output.
_STREAMS = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def stand_in() -> None:
    """Fill the places of closed standard streams: reading and writing there fails with EBADF.

    What is written to a standard error that was closed is lost: there is nobody to tell.
    """
    for name, flags, mode in _STREAMS:
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)  # the lowest number that is free: the one closed
            stream = open(fd, mode, errors="replace", closefd=False)  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def write_out(text: str) -> None:
    """Write to standard output, at once.

    Raises:
        OSError: it takes nothing more.
    """
    sys.stdout.write(text)
    sys.stdout.flush()


def give_up_output() -> None:
    """Nobody takes our output: whatever Python still holds of it goes nowhere, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
