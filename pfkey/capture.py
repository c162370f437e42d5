"""`pfkey capture`: what is inside and what is on the wire, in one file, matched by comments.

Shell: one packet socket for all devices. Packets of pfkey0 are those inside; of other devices only
what is sealed is taken. The keys of the SAs, asked for as they are needed, say which belongs to
which; they go nowhere unless `secrets` is given.
"""

import contextlib
import ctypes
import math
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pfkey import pcapng, peel
from pfkey.blocking import Client
from pfkey.const import SaState
from pfkey.entries import SadEntry
from pfkey.errors import ShellError
from pfkey.peel import Peeled, Peeler
from pfkey.pieces import Pieces

DEVICE = "pfkey"  # what the names of our devices begin with
_ETH_P_ALL, _OUTGOING = 3, 4
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_OCTETS = 32 << 20
_PACKET_OCTETS_MAX = 1 << 17
_RECENT = 512  # packets that a later one may belong to
_IDLE_SECONDS = 0.2
_ASK_SECONDS = 1.0  # between two looks at the SAs

# Classic BPF: (code, jump if true, jump if false, operand). All of a device without link headers,
# as a TUN is; of others what may be sealed, or be a piece of it. The rest decides `Peeler`.
_LOAD, _LOAD_OCTET, _AND, _EQUAL, _RETURN = 0x20, 0x30, 0x54, 0x15, 0x06
_HARDWARE, _NO_HEADERS = 0xFFFFF000 + 28, 0xFFFE
_FOUR = (50, 51, 108, 17)
_SIX = (*_FOUR, 44, 0, 43, 60)


def _program() -> bytes:
    take = 4 + len(_FOUR) + len(_SIX) + 5  # where the last instruction stands
    steps = [(_LOAD, 0, 0, _HARDWARE), (_EQUAL, take - 2, 0, _NO_HEADERS), (_LOAD_OCTET, 0, 0, 0),
             (_AND, 0, 0, 0xF0), (_EQUAL, len(_FOUR) + 2, 0, 0x60)]  # fmt: skip
    for at, protocols in ((9, _FOUR), (6, _SIX)):
        steps.append((_LOAD_OCTET, 0, 0, at))
        for proto in protocols:
            steps.append((_EQUAL, take - len(steps) - 1, 0, proto))
        steps.append((_RETURN, 0, 0, 0))
    steps.append((_RETURN, 0, 0, _PACKET_OCTETS_MAX))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@dataclass(slots=True)
class Seen:
    """A packet that others may be matched with."""

    number: int
    peeled: Peeled


class Matcher:
    """Comments for packets in the order of the file; numbers count from 1, as Wireshark does."""

    def __init__(self, entries: Callable[[], list[SadEntry]]) -> None:
        self._ask = entries
        self._peeler = Peeler(entries())
        self._asked = float("-inf")
        self._number = 0
        self._inside: deque[Seen] = deque(maxlen=_RECENT)  # going out, not sealed yet
        self._sealed: deque[Seen] = deque(maxlen=_RECENT)  # come in, not opened yet
        self._pieces = Pieces()

    def inside(self, packet: bytes, *, is_inbound: bool) -> str:
        """The comment of a packet of pfkey0."""
        self._number += 1
        peeled = Peeler().peel(packet)
        if peeled is None:
            return "inside"
        if not is_inbound:
            self._inside.append(Seen(self._number, peeled))
            return "inside, before it is sealed"
        found = [one for one in self._sealed if one.peeled.carries(peeled)]
        for one in found:
            self._sealed.remove(one)
        if not found:
            return "inside, of a packet that was not seen"
        numbers = ", ".join(str(one.number) for one in found)
        return f"inside packet {numbers}: {_layers(found[0].peeled)}"

    def sealed(self, packet: bytes, *, is_inbound: bool, now: float) -> str | None:
        """The comment of a packet of the wire; None for one that has no layer of ours."""
        whole = self._pieces.add(packet) or packet  # the last piece speaks for all
        peeled = self._peeler.peel(whole)
        if peeled is not None and not peeled.is_open and now - self._asked >= _ASK_SECONDS:
            self._asked = now
            self._peeler = Peeler(self._ask())
            peeled = self._peeler.peel(whole)
        if peeled is None or not (
            peeled.layers or self._peeler.is_piece(peeled, self._pieces.start(packet))
        ):
            return None
        self._number += 1
        what = _layers(peeled)
        if is_inbound:
            self._sealed.append(Seen(self._number, peeled))
            return what
        for one in reversed(self._inside):
            if peeled.carries(one.peeled):
                return f"{what}; inside: packet {one.number}"
        return what


def _layers(peeled: Peeled) -> str:
    return ", ".join(map(str, peeled.layers)) or "a piece"


def tap() -> socket.socket:
    """A packet socket for all devices of this namespace.

    Raises:
        ShellError: only root may have one.
    """
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    except PermissionError:
        raise ShellError("only root may capture packets", "sudo pfkey capture FILE") from None
    octets = _program()
    program = ctypes.create_string_buffer(octets, len(octets))
    head = struct.pack("@HP", len(octets) // 8, ctypes.addressof(program))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    with contextlib.suppress(OSError):  # in a user namespace: what net.core allows
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_OCTETS)
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    made.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # what came before there was a filter
        while True:
            made.recv(1)
    made.settimeout(_IDLE_SECONDS)
    return made


def private(path: Path) -> BinaryIO:
    """A file to write that nobody else may read, also where it was there before.

    Raises:
        ShellError: it is another user's, who could read it again.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file = os.fdopen(fd, "wb")
    known = os.fstat(fd)
    if stat.S_ISREG(known.st_mode):  # a device or a pipe is not ours to change
        if known.st_uid != os.geteuid():
            file.close()
            raise ShellError(f"{path}: belongs to another user", "remove it, or name another FILE")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
    return file


class Capture:
    """One capture: `run` until `stop`, or until `most` packets are written.

    Args:
        path: the socket of pfkeyd.
        tap: from `tap`.
        program: who writes the file.
        secrets: where the keys go, if they may.

    Raises:
        ShellError: no pfkeyd.
    """

    def __init__(
        self, path: Path, tap: socket.socket, out: BinaryIO, program: str,
        secrets: Path | None = None,
    ) -> None:  # fmt: skip
        self._path, self._out, self._secrets = path, out, secrets
        self._entries: dict[tuple[int, str, str, int], SadEntry] = {}
        self._tap = tap
        self._interfaces: dict[str, int] = {}
        self.lost = 0
        self._stopped_at = math.inf
        self._written: str | None = None  # of secrets
        self._matcher = Matcher(self._sas)
        out.write(pcapng.section(program))
        out.flush()

    def _sas(self) -> list[SadEntry]:
        """The SAs that are or were there; a new one's keys are kept where they may be."""
        with Client(self._path) as engine:
            found = list(engine.dump())
        # a larval SA has no keys yet
        named = {(e.satype, e.src, e.dst, e.spi): e for e in found if e.state != SaState.LARVAL}
        self._entries |= named
        entries = list(self._entries.values())
        secrets = peel.wireshark(entries)
        if self._secrets is not None and secrets != self._written:
            with private(self._secrets) as file:
                file.write(secrets.encode())
            self._written = secrets
        return entries

    def stop(self) -> None:
        """Have `run` end with the packets that came before; may be called by a signal's handler."""
        self._stopped_at = min(self._stopped_at, time.time())

    def run(self, most: int | None = None) -> None:
        """Write packets as they come."""
        written = 0
        while most is None or written < most:
            try:
                octets, ancillary, _, address = self._tap.recvmsg(_PACKET_OCTETS_MAX, 64)
            except TimeoutError:
                self._out.flush()
                if self._stopped_at < math.inf:
                    return
                continue
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
            at = seconds + nanoseconds / 1e9
            if at > self._stopped_at:
                return
            written += self._write(octets, address[0], at, is_inbound=address[2] != _OUTGOING)

    def _write(self, octets: bytes, device: str, at: float, *, is_inbound: bool) -> bool:
        comment: str | None
        if device.startswith(DEVICE):
            comment = self._matcher.inside(octets, is_inbound=is_inbound)
        else:
            comment = self._matcher.sealed(octets, is_inbound=is_inbound, now=time.monotonic())
        if comment is None:
            return False
        if device not in self._interfaces:
            what = "what is inside" if device.startswith(DEVICE) else "what is sealed"
            self._interfaces[device] = len(self._interfaces)
            self._out.write(pcapng.interface(device, what))
        self._out.write(
            pcapng.packet(
                octets, at=at, is_inbound=is_inbound, comment=comment, lost=self._missed(),
                interface=self._interfaces[device],
            )
        )  # fmt: skip
        return True

    def _missed(self) -> int:
        """How many packets passed too fast since the last call."""
        statistics = self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        missed: int = struct.unpack("=II", statistics)[1]
        self.lost += missed
        return missed

    def close(self) -> None:
        """End it; what was written is in the file."""
        self._missed()
        with contextlib.suppress(BrokenPipeError):
            self._out.flush()
