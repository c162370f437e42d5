"""Where the commands begin. An interrupt while their modules are being read just ends them."""

import signal
from collections.abc import Callable

Program = Callable[[], int]


def quietly(load: Callable[[], Program]) -> int:
    """Load a program and run it; until it runs, ^C has its plain effect, and no traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where ^C is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = load()
    signal.signal(signal.SIGINT, before)
    return program()


def setkey() -> int:
    """The command setkey."""

    def load() -> Program:
        from pfkey.setkey.main import main

        return main

    return quietly(load)


def pfkey() -> int:
    """The command pfkey."""

    def load() -> Program:
        from pfkey.cli import main

        return main

    return quietly(load)
