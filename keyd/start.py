"""Where the command pfkeyd begins."""

from pfkey.start import Program, quietly


def pfkeyd() -> int:
    """The command pfkeyd."""

    def load() -> Program:
        from keyd.shell.main import main

        return main

    return quietly(load)
