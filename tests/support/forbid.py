"""`forbid.py NUMBER -- COMMAND …`: run a command where one system call ends with EPERM.

As the seccomp profiles of container runtimes do.
"""

import ctypes
import os
import struct
import sys

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Install the filter and become the command."""
    number, dashes, *command = sys.argv[1:]
    assert dashes == "--"
    code = b"".join(
        struct.pack("=HBBI", *one)
        for one in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, int(number)),
            (0x06, 0, 0, 0x00050000 | 1),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    octets = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid():
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(octets))
    assert libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, head) == 0, ctypes.get_errno()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
