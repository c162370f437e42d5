"""libipsec's PF_KEY socket: open, send and receive whole messages, close."""

import errno
import os
import socket
from pathlib import Path
from typing import TypeAlias

from pfkey.base import SADB_MSG
from pfkey.const import HEADER_OCTETS, UNIT_OCTETS
from pfkey.errors import MisuseError, ShellError, WireError
from pfkey.libipsec.errors import (
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_MAX,
    EIPSEC_SYSTEM_ERROR,
    IpsecError,
    reports,
)
from pfkey.link import connected
from pfkey.message import Message
from pfkey.transport import Transport, attempt

Octets: TypeAlias = bytes | Message
_KIB = 1024
_INT_MAX = 0x7FFFFFFF


@reports
def pfkey_open(
    path: Path | None = None, *, transport: Transport = "unix", timeout: float | None = None
) -> socket.socket:
    """A PF_KEY socket: pfkeyd's, or with transport `af_key` the kernel's. Sends nothing.

    It blocks; `timeout` limits each wait in seconds, as SO_RCVTIMEO does in C. On AF_KEY the queues
    are made 128 KiB to send and up to 2 MiB to receive; those of pfkeyd are its own.
    """
    try:
        so = connected(lambda: attempt(transport, path))
    except (ShellError, MisuseError) as error:
        raise IpsecError(EIPSEC_SYSTEM_ERROR, str(error)) from error
    so.settimeout(timeout)
    return so


@reports
def pfkey_close(so: socket.socket) -> None:
    """Close. What was registered ends. Sends nothing."""
    so.close()


@reports
def pfkey_set_buffer_size(so: socket.socket, size: int) -> int:
    """Ask for a receive queue of at least `size` KiB; 0 asks for none. Returns what it has, in KiB.

    Never makes it smaller. The queue from pfkeyd is pfkeyd's, 8 MiB, whatever is asked here.
    """
    there = so.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if size * _KIB > _INT_MAX:
        raise IpsecError(EIPSEC_SYSTEM_ERROR, os.strerror(errno.EINVAL))
    if size > 0 and there < size * _KIB:
        try:
            so.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size * _KIB)
        except OSError as error:
            raise IpsecError(EIPSEC_SYSTEM_ERROR, _text(error)) from error
    return so.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _KIB


@reports
def pfkey_send(so: socket.socket, msg: Octets) -> int:
    """Send a message of your own making, as it is; returns its length in octets."""
    return send(so, msg)


def send(so: socket.socket, msg: Octets) -> int:
    """`pfkey_send` within another function."""
    try:
        octets = msg.encode() if isinstance(msg, Message) else msg
        return so.send(octets, socket.MSG_NOSIGNAL)
    except WireError as error:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, str(error)) from error
    except OSError as error:
        raise IpsecError(EIPSEC_SYSTEM_ERROR, _text(error)) from error


@reports
def pfkey_recv(so: socket.socket) -> bytes:
    """Receive one message, whatever it is: a reply, an event, somebody else's.

    Looks at the header first and then takes as many octets as it says. A record that is no message
    is taken and refused: EIPSEC_MAX when shorter than a header, EIPSEC_SYSTEM_ERROR when shorter
    than its header says. The end of the connection, which a kernel's PF_KEY does not know, is
    EIPSEC_SYSTEM_ERROR.
    """
    return recv(so)


def recv(so: socket.socket) -> bytes:
    """`pfkey_recv` within another function."""
    try:
        head = so.recv(HEADER_OCTETS, socket.MSG_PEEK)
        if not head:
            raise IpsecError(EIPSEC_SYSTEM_ERROR, "pfkeyd closed the connection; open anew")
        if len(head) < HEADER_OCTETS:
            so.recv(HEADER_OCTETS)
            raise IpsecError(EIPSEC_MAX, f"{len(head)} octets have no header")
        length = SADB_MSG.parse(head)["len"] * UNIT_OCTETS
        octets = so.recv(max(length, 1))
    except OSError as error:
        raise IpsecError(EIPSEC_SYSTEM_ERROR, _text(error)) from error
    if length < HEADER_OCTETS or len(octets) != length:
        raise IpsecError(
            EIPSEC_SYSTEM_ERROR, f"a message of {length} octets came with {len(octets)}"
        )
    return octets


def _text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return os.strerror(errno.EAGAIN)  # as SO_RCVTIMEO ends in C
    return error.strerror or str(error)
