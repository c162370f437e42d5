"""setkey's command line: short options in clusters (-DP, -FP, -Dv), long ones too."""

import getopt
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from pfkey.dialect import DIALECTS, LINUX, Dialect

USAGE = """\
usage: setkey [-knrv] [--socket PATH] -c
       setkey [-knrv] [--socket PATH] -f FILE
       setkey [-alPpv] [--json] [--socket PATH] -D
       setkey [-Pv] [--socket PATH] -F
       setkey [-H] [--socket PATH] -x
       setkey [-p] [--dialect SYSTEM] FILE...
       setkey -h | -V
"""

HELP = (
    USAGE
    + """
Read and write the security association database (SAD) and the security policy database (SPD).

what to do
  -c, --stdin          take statements from standard input, each as soon as its ; is there
  -f, --file FILE      take statements from FILE (- is standard input); it is read whole first
  -D, --dump           print the SAD, with -P the SPD
  -F, --flush          empty the SAD, with -P the SPD
  -x, --monitor        print every PF_KEY message as it passes, until interrupted
  FILE...              decode files of raw PF_KEY messages, --dialect says whose
  -h, --help           print this
  -V, --version        print the version

how
  -P, --policy         the policies (SPD), not the SAs (SAD)
  -a, --all            with -D: dead SAs too
  -p, --ports          with -D: ports too
  -l, --loop           with -D: a line for each SA, again every second
      --json           with -D: JSON (schemas sad.json and spd.json of the package)
      --show-keys      with --json: keys too
  -H, --hexdump        with -x: the octets too
  -n, --check          with -c and -f: only check what is there; asks and changes nothing
  -r, --rfc            an `in` policy also becomes a `fwd` policy, as on Linux with its own IPsec
  -k, --kernel         an `in` policy stays one policy (the default here)
  -v, --verbose        print the messages that are sent and received
      --dialect SYSTEM whose raw messages a file has: linux (the default), netbsd, freebsd, openbsd
      --socket PATH    pfkeyd's socket; else $PFKEY_SOCKET, else this network namespace's

examples
  setkey -f /etc/pfkey/ipsec.conf       load a file
  setkey -D; setkey -DP                 what is there
  setkey -F; setkey -FP                 away with it
  setkey -n -f new.conf                 is this file right?
  echo 'spdadd 10.1.1.1 20.1.1.1 any -P out ipsec esp/transport//require;' | setkey -c

exit status: 0 done, 1 refused or failed (a part of it too), 2 this usage.
The language is in setkey(8).
"""
)

_SHORT = "acDFf:hHklnpPrvVx"
_LONG = {
    "stdin": "-c",
    "file=": "-f",
    "dump": "-D",
    "flush": "-F",
    "monitor": "-x",
    "help": "-h",
    "version": "-V",
    "policy": "-P",
    "all": "-a",
    "ports": "-p",
    "loop": "-l",
    "json": "--json",
    "show-keys": "--show-keys",
    "hexdump": "-H",
    "check": "-n",
    "rfc": "-r",
    "kernel": "-k",
    "verbose": "-v",
    "socket=": "--socket",
    "dialect=": "--dialect",
}


class Mode(Enum):
    """What is to be done."""

    STDIN = "-c"
    FILE = "-f"
    DUMP = "-D"
    FLUSH = "-F"
    MONITOR = "-x"
    DECODE = "FILE..."
    HELP = "-h"
    VERSION = "-V"


class UsageError(Exception):
    """A command line that is none; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A command line that makes sense."""

    mode: Mode
    file: str = ""
    files: tuple[str, ...] = ()
    socket: str | None = None
    dialect: Dialect = LINUX
    flags: frozenset[str] = field(default_factory=frozenset)

    def has(self, flag: str) -> bool:
        """Whether a flag such as `-P` was given, in whatever form."""
        return flag in self.flags


# Which flags go with which modes; -v and --socket go with all that talk.
_GOES_WITH = {
    "-P": {Mode.DUMP, Mode.FLUSH},
    "-a": {Mode.DUMP},
    "-p": {Mode.DUMP, Mode.DECODE, Mode.STDIN, Mode.FILE},
    "-l": {Mode.DUMP},
    "--json": {Mode.DUMP},
    "--show-keys": {Mode.DUMP},
    "-H": {Mode.MONITOR},
    "--dialect": {Mode.DECODE},
    "-n": {Mode.STDIN, Mode.FILE},
    "-r": {Mode.STDIN, Mode.FILE},
    "-k": {Mode.STDIN, Mode.FILE},
}
_EXCLUDE = (("-r", "-k"), ("--json", "-l"))


def parse(arguments: Sequence[str]) -> Options:
    """Read the arguments after the program's name.

    Raises:
        UsageError: they make no sense.
    """
    try:
        found, files = getopt.gnu_getopt(list(arguments), _SHORT, list(_LONG))
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from None
    modes: list[Mode] = []
    flags: set[str] = set()
    file, socket, dialect = "", None, LINUX
    by_option = {mode.value: mode for mode in Mode}
    for name, value in found:
        option = name
        if name.startswith("--"):
            long = name[2:]
            option = _LONG[long] if long in _LONG else _LONG[f"{long}="]
        if option == "--socket":
            if not value:
                raise UsageError("--socket is empty")
            socket = value
        elif option == "--dialect":
            if value not in DIALECTS:
                raise UsageError(f"--dialect {value} is none of {', '.join(DIALECTS)}")
            dialect = DIALECTS[value]
            flags.add(option)
        elif option in by_option:
            mode = by_option[option]
            if mode in (Mode.HELP, Mode.VERSION):
                return Options(mode=mode)
            if mode not in modes:
                modes.append(mode)
            elif mode == Mode.FILE:
                raise UsageError("one -f at a time")
            if mode == Mode.FILE:
                if not value:
                    raise UsageError("-f is empty; - is standard input")
                file = value
        else:
            flags.add(option)
    if files:
        modes.append(Mode.DECODE)
    if len(modes) > 1:
        raise UsageError(f"{modes[0].value} and {modes[1].value} exclude each other")
    if not modes:
        raise UsageError("one of -c, -f FILE, -D, -F, -x or a file to decode is needed")
    mode = modes[0]
    for flag in sorted(flags & _GOES_WITH.keys()):
        if mode not in _GOES_WITH[flag]:
            raise UsageError(f"{flag} does not go with {mode.value}")
    for one, other in _EXCLUDE:
        if one in flags and other in flags:
            raise UsageError(f"{one} and {other} exclude each other")
    if "-P" in flags and "-l" in flags:
        raise UsageError("-l does not go with -P")
    if "--show-keys" in flags and "--json" not in flags:
        raise UsageError("--show-keys goes with --json; the text of -D shows keys anyway")
    return Options(
        mode=mode, file=file, files=tuple(files), socket=socket, dialect=dialect,
        flags=frozenset(flags),
    )  # fmt: skip
