"""Shell: a command line's help and mistakes, as all our commands print them."""

import argparse
import sys
from typing import TYPE_CHECKING, Never

from pfkey import streams

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong (2), and whether its help could not be written (1)."""

    def error(self, message: str) -> Never:
        """End the program with the status of wrong usage."""
        self.exit(2, f"{self.prog}: {message}\ntry: {self.prog} --help\n")

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        """Argparse goes on in silence when its help and version cannot be written."""
        if file is not sys.stdout:
            super()._print_message(message, file)
            return
        try:
            streams.write_out(message)
        except OSError as error:
            streams.give_up_output()
            is_enough = isinstance(error, BrokenPipeError)  # who reads us has had what it wants
            why = "" if is_enough else f"{self.prog}: standard output: {error.strerror}\n"
            self.exit(1, why)
