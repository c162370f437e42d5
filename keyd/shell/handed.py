"""Descriptors that come by the control socket: checked to be what a method is for."""

import ctypes
import os
import socket
import stat
import struct
from errno import EINVAL, EOPNOTSUPP

from keyd.shell.paths import netns_cookie
from keyd.shell.rpc import INVALID_PARAMS, REFUSED, RpcError

SO_MARK = 36
_SO_DOMAIN, _SO_NETNS_COOKIE = 39, 71
_CGROUP2_MAGIC = 0x63677270
_OCTETS_MAX = 4096  # Linux takes no longer policy than a page
_POLICIES_MAX = 8

_libc = ctypes.CDLL(None, use_errno=True)


def refused(number: int, why: str) -> RpcError:
    """A refusal that tells the caller's errno."""
    return RpcError(REFUSED, why, {"errno": number})


def inet_socket(fd: int | None) -> socket.socket:
    """A socket of this namespace that may have policies, from a copy of the descriptor.

    Raises:
        RpcError: there is none, or it is something else.
    """
    if fd is None:
        raise RpcError(INVALID_PARAMS, "a descriptor is needed, as SCM_RIGHTS")
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise RpcError(INVALID_PARAMS, "the descriptor is no socket")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=os.dup(fd))
    try:
        if option(sock, _SO_DOMAIN) not in (socket.AF_INET, socket.AF_INET6):
            raise refused(EOPNOTSUPP, "a socket of that family has no policies")
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        if struct.unpack("=Q", cookie)[0] != netns_cookie():
            raise refused(EINVAL, "the socket is of another network namespace")
    except BaseException:
        sock.close()
        raise
    return sock


def option(sock: socket.socket, name: int) -> int:
    """An option of level SOL_SOCKET, of 32 bits."""
    return sock.getsockopt(socket.SOL_SOCKET, name) & 0xFFFFFFFF


def is_cgroup(fd: int) -> bool:
    """Whether a descriptor is a directory of the unified cgroup hierarchy."""
    found = ctypes.create_string_buffer(256)
    if not stat.S_ISDIR(os.fstat(fd).st_mode) or _libc.fstatfs(fd, found):
        return False
    return bool(struct.unpack_from("=l", found.raw)[0] == _CGROUP2_MAGIC)


def policies(given: object) -> list[bytes]:
    """Octets of policies, as a list of hexadecimal texts.

    Raises:
        RpcError: it is something else.
    """
    if not isinstance(given, list) or len(given) > _POLICIES_MAX:
        raise RpcError(INVALID_PARAMS, f"policies must be a list of {_POLICIES_MAX} at most")
    try:
        found = [bytes.fromhex(one) for one in given]
    except (TypeError, ValueError):
        found = [b""]
    if not all(0 < len(octets) <= _OCTETS_MAX for octets in found):
        raise RpcError(INVALID_PARAMS, "a policy must be octets in hexadecimal")
    return found


def user(given: object) -> int | None:
    """Who has no privileges; None: the caller has them.

    Raises:
        RpcError: it is something else.
    """
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 0):
        return given
    raise RpcError(INVALID_PARAMS, "uid must be a user's number, or null")
