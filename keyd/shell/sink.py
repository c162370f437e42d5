"""A UDP port that is ours, at which nobody reads: ESP in UDP ends there, after the workers' copies.

Without it the kernel would answer "port unreachable".
"""

import ctypes
import socket
import struct

from pfkey.errors import ShellError

_SO_ATTACH_FILTER = 26
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF: return 0


def open_sink() -> socket.socket:
    """A socket at a port that the system chose, for both IP versions where there are both.

    Raises:
        ShellError: no port is free.
    """
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
    except OSError:  # no IPv6 here
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(("", 0))
        except OSError as error:
            sock.close()
            raise ShellError(f"no UDP port is free: {error.strerror}") from None
    program = ctypes.create_string_buffer(_NOTHING, len(_NOTHING))
    head = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    return sock
