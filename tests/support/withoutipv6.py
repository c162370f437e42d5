"""Run a program as on a kernel without IPv6: `withoutipv6.py PROGRAM ARGUMENT…`.

A seccomp filter answers socket(AF_INET6, …) with EAFNOSUPPORT, as such a kernel does, here and
in everything that is started from here.
"""

import ctypes
import os
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
_AF_INET6, _EAFNOSUPPORT = 10, 97
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
PROGRAM = (
    (_LOAD, 0, 0, 0),  # the call's number
    (_IF_EQUAL, 0, 3, _SOCKET),
    (_LOAD, 0, 0, 16),  # its first argument
    (_IF_EQUAL, 0, 1, _AF_INET6),
    (_RETURN, 0, 0, _ERRNO | _EAFNOSUPPORT),
    (_RETURN, 0, 0, _ALLOW),
)


def main(argv: list[str]) -> None:
    """Set the filter and become the program."""
    octets = b"".join(struct.pack("=HBBI", *one) for one in PROGRAM)
    program = ctypes.create_string_buffer(octets, len(octets))
    head = struct.pack("@HP", len(PROGRAM), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
