"""Logging to standard error: one line an event, key=value, and never a wait for the reader."""

import logging
import os
import select
import time
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
_LINE_OCTETS = 4000  # below PIPE_BUF, so that a writable pipe takes the whole line


class Lines(logging.Handler):
    """Writes to a descriptor, and drops what a stopped reader does not take; drops are told."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._lost = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as one line."""
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                self._lost += 1
                return
            lost, self._lost = self._lost, 0
            if lost:
                os.write(self._fd, b"warning log-lost lines=%d\n" % lost)
            os.write(self._fd, self._line(record))
        except (OSError, TypeError, ValueError):  # no line of ours is worth the daemon
            self._lost += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        if not text.isprintable():
            text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
        line = f"{when}.{int(record.msecs):03d}Z {record.levelname.lower()} {text}"
        return line.encode(errors="replace")[:_LINE_OCTETS] + b"\n"


class Limit(logging.Filter):
    """At most `burst` lines at once and `per_second` in the long run; the rest are counted."""

    def __init__(self, burst: int, per_second: float) -> None:
        super().__init__()
        self._burst = self._left = float(burst)
        self._rate = per_second
        self._last = 0.0
        self._muted = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line may pass; errors always may."""
        self._left = min(self._burst, self._left + (record.created - self._last) * self._rate)
        self._last = record.created
        if record.levelno >= logging.ERROR:
            return True
        if self._left < 1:
            self._muted += 1
            return False
        self._left -= 1
        if self._muted:
            record.msg = f"{record.getMessage()} muted-before={self._muted}"
            record.args = ()
            self._muted = 0
        return True


def set_up(level: str, fd: int = 2) -> None:
    """Make the loggers of `keyd` and `pfkey` write to the descriptor."""
    handler = Lines(fd)
    for name in ("keyd", "pfkey"):
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of all our loggers. `level` is one of LEVELS."""
    for name in ("keyd", "pfkey"):
        logging.getLogger(name).setLevel(level.upper())


def current_level() -> str:
    """The level in force."""
    return logging.getLevelName(logging.getLogger("keyd").getEffectiveLevel()).lower()


def limited(name: str, burst: int = 50, per_second: float = 5.0) -> logging.Logger:
    """A logger whose lines a stranger can cause: it is limited."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, Limit) for f in logger.filters):
        logger.addFilter(Limit(burst, per_second))
    return logger


def frames_of(error: BaseException) -> list[dict[str, Any]]:
    """Where an error came from, without any value: for the log at level debug."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append({"file": code.co_filename, "line": trace.tb_lineno, "in": code.co_name})
        trace = trace.tb_next
    return found
