"""The state file: what must outlive a worker, a crash and a restart of the daemon.

A memory-mapped file beside the socket, mode 0600, that holds no key:

    page 0            magic, version, how many records are in use, salt, digest of counter names
    page 1, page 2    the counters of `out`, the counters of `in`: one u64 each
    page 3 and on     records of 192 octets, one per SA

A record has three parts, each with one writer: what the control process says (digest, state,
age), what the outbound worker did, what the inbound worker did. So nothing needs a lock, and
each u64 is stored by one machine instruction.

An SA finds its record by a keyed BLAKE2 digest over destination, SPI, algorithms and keys, so the
same manual key continues its sequence numbers however often its file is loaded. Records of
removed SAs stay; when more than `REMOVED_MAX` are there the oldest is forgotten.

A lock on the open file is held by whoever can still write: the control process and, through the
descriptor they inherit, its workers. A successor waits for it, so no number is given out twice.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Self

from keyd.model import SaSpec, Usage
from keyd.packet import counters
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS, SA_WORDS
from pfkey.errors import ShellError

RECORDS = 1 << 17
REMOVED_MAX = 1 << 16
LOCK_SECONDS = 3.0

_MAGIC = b"pfkeyst\n"
_VERSION = 1
_PAGE = 4096
_HEADER = struct.Struct("=8sIIQ16s16s")  # magic, version, record octets, in use, salt, names
_USED = 2  # index of "in use" as a u64
_RECORD = 192
_WORDS = _RECORD // 8
_FIRST = 3 * _PAGE
_SIZE = _FIRST + RECORDS * _RECORD

# u64 words of a record
_DIGEST = 0  # and 1
_STATE = 2  # 0 free, 1 in use, 2 removed
_SINCE = 3  # microseconds of the wall clock when it was last bound, or removed
_BASE_PACKETS = 4  # what both workers had counted then: an SA's life begins at nought
_BASE_OCTETS = 5
OUT, IN = 8, 16  # where the workers' parts begin

_FREE, _BOUND, _REMOVED = 0, 1, 2
_BASE = {"out": OUT, "in": IN}


class StateFile:
    """The mapped file. The control process binds records; a worker uses `counters_of` and `part`.

    Made by `open` (control process) or `attach` (worker).
    """

    def __init__(self, fd: int, path: str = "") -> None:
        self.fd = fd
        self.path = path
        self._map = mmap.mmap(fd, _SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._salt = bytes(self._map[24:40])
        self._records: dict[bytes, int] = {}
        self._removed: dict[int, bytes] = {}  # oldest first
        self._slots: dict[int, int] = {}
        self._owner: dict[int, int] = {}

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open or make the file, and wait until nobody of an earlier daemon can write to it.

        A file that is none of ours, or of another version, is begun anew.

        Raises:
            ShellError: it cannot be made, or the workers of another daemon still use it.
        """
        path = os.fspath(path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ShellError(f"cannot open the state file {path}: {error.strerror}") from None
        try:
            _lock(fd, path)
            os.fchmod(fd, 0o600)
            if not _is_ours(fd):
                _begin(fd)
        except BaseException:
            os.close(fd)
            raise
        self = cls(fd, path)
        self._take_over()
        return self

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map the file that the control process opened."""
        return cls(fd)

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._words.release()
        with contextlib.suppress(BufferError):  # a view is still out: it closes with the last one
            self._map.close()
        with contextlib.suppress(OSError):
            os.close(self.fd)

    # ---------------------------------------------------------------- control process

    def bind(self, slot: int, spec: SaSpec) -> int:
        """The record for an SA, found again by its key or new; from now on `slot` means it.

        Raises:
            ShellError: all records are in use by live SAs, or the file system is full.
        """
        digest = self.digest(spec)
        record = self._records.get(digest)
        held = self._slots.get(slot)
        if held is not None and held != record:
            self.release(slot)
        if record is None:
            record = self._fresh(digest)
        elif held == record:
            return record
        base = self._base(record)
        out, into = self.part(record, "out"), self.part(record, "in")
        self._words[base + _BASE_PACKETS] = out[PACKETS] + into[PACKETS]
        self._words[base + _BASE_OCTETS] = out[OCTETS] + into[OCTETS]
        self._words[base + _SINCE] = time.time_ns() // 1000
        self._words[base + _STATE] = _BOUND
        self._removed.pop(record, None)
        self._slots[slot] = record
        self._owner[record] = slot
        return record

    def move(self, slot: int, spec: SaSpec) -> None:
        """The slot's SA has another destination, and is known by that from now on.

        Raises:
            ShellError: its key was used there before, so the numbers would come twice.
        """
        record = self._slots.get(slot)
        digest = self.digest(spec)
        if record is None or self._records.get(digest) == record:
            return
        if digest in self._records:
            raise ShellError("its key was in use between the new addresses before", "renew the key")
        del self._records[self._digest_at(record)]
        self._records[digest] = record
        self._name(record, digest)

    def release(self, slot: int) -> None:
        """The slot's SA is gone; what its key has used stays known."""
        record = self._slots.pop(slot, None)
        if record is None or self._owner.get(record) != slot:
            return
        del self._owner[record]
        base = self._base(record)
        self._words[base + _STATE] = _REMOVED
        self._words[base + _SINCE] = time.time_ns() // 1000
        self._removed[record] = self._digest_at(record)

    def usage(self, slot: int) -> Usage:
        """What both workers did with the slot's SA since it was bound."""
        record = self._slots.get(slot)
        if record is None:
            return Usage()
        packets, octets, since = self.since(record)
        parts = (self.part(record, "out"), self.part(record, "in"))
        return Usage(
            packets=sum(part[PACKETS] for part in parts) - packets,
            octets=sum(part[OCTETS] for part in parts) - octets,
            first_use=min((p[FIRST_USE] for p in parts if p[FIRST_USE] >= since), default=0) / 1e6,
            last_use=max((p[LAST_USE] for p in parts if p[LAST_USE] >= since), default=0) / 1e6,
        )

    def counters(self) -> dict[str, dict[str, int]]:
        """All counters by group and name, both workers together."""
        out, into = self.counters_of("out"), self.counters_of("in")
        return counters.grouped([a + b for a, b in zip(out, into, strict=True)])

    def digest(self, spec: SaSpec) -> bytes:
        """What an SA is recognised by: 16 octets that tell nothing without the salt's file."""
        material = struct.pack(
            "!BIBBHH", spec.proto, spec.spi, spec.auth, spec.encrypt,
            len(spec.auth_key), len(spec.encrypt_key),
        )  # fmt: skip
        parts = (material, spec.dst, spec.auth_key, spec.encrypt_key)
        return hashlib.blake2b(b"".join(parts), digest_size=16, key=self._salt).digest()

    # ---------------------------------------------------------------- workers

    def counters_of(self, role: str) -> memoryview:
        """The role's counters as u64s, to be changed by that role's worker alone."""
        base = _PAGE * (1 if role == "out" else 2) // 8
        return self._words[base : base + len(counters.ROWS)]

    def part(self, record: int, role: str) -> memoryview:
        """The role's part of a record: EDGE to LAST_USE of `keyd.packet.counters`."""
        base = self._base(record) + _BASE[role]
        return self._words[base : base + SA_WORDS]

    def since(self, record: int) -> tuple[int, int, int]:
        """When the record was bound: (packets, octets) counted until then, and the time in µs."""
        base = self._base(record)
        return (
            self._words[base + _BASE_PACKETS],
            self._words[base + _BASE_OCTETS],
            self._words[base + _SINCE],
        )

    def is_record_of(self, record: int, spec: SaSpec) -> bool:
        """Whether the record belongs to this SA: the belt to the control process's braces."""
        if not 0 <= record < RECORDS:
            return False
        return self._digest_at(record) == self.digest(spec)

    # ---------------------------------------------------------------- inside

    def _base(self, record: int) -> int:
        return _FIRST // 8 + record * _WORDS

    def _digest_at(self, record: int) -> bytes:
        base = self._base(record)
        return struct.pack("=QQ", self._words[base + _DIGEST], self._words[base + _DIGEST + 1])

    def _take_over(self) -> None:
        """Read what a predecessor left: all its SAs count as removed."""
        left = []
        for record in range(self._words[_USED]):
            base = self._base(record)
            if self._words[base + _STATE] == _FREE:
                continue
            self._words[base + _STATE] = _REMOVED
            digest = self._digest_at(record)
            self._records[digest] = record
            left.append((self._words[base + _SINCE], record, digest))
        self._removed = {record: digest for _, record, digest in sorted(left)}

    def _fresh(self, digest: bytes) -> int:
        used = int(self._words[_USED])
        if used < RECORDS and len(self._removed) < REMOVED_MAX:
            record = used
            _reserve(self.fd, 8 * self._base(record), _RECORD)
            self._words[_USED] = used + 1
        elif self._removed:
            record = next(iter(self._removed))
            del self._records[self._removed.pop(record)]
        else:
            raise ShellError(f"the state file holds {RECORDS} live SAs and no more")
        base = self._base(record)
        for word in range(_WORDS):
            self._words[base + word] = 0
        self._words[base + OUT + EDGE] = 1
        self._name(record, digest)
        self._records[digest] = record
        return record

    def _name(self, record: int, digest: bytes) -> None:
        base = self._base(record)
        low, high = struct.unpack("=QQ", digest)
        self._words[base + _DIGEST] = low
        self._words[base + _DIGEST + 1] = high


def _lock(fd: int, path: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ShellError(
                    f"the state file {path} is in use by the workers of another pfkeyd",
                    f"fuser {path} shows them",
                ) from None
            time.sleep(0.02)
        else:
            return


def _reserve(fd: int, at: int, octets: int) -> None:
    """Have the file system set room aside: a write to mapped memory can only be killed for want."""
    try:
        os.posix_fallocate(fd, at, octets)
    except OSError as error:
        raise ShellError(
            f"no room for the state file: {error.strerror}", "df shows which file system is full"
        ) from None


def _names() -> bytes:
    rows = "\n".join(f"{group} {name}" for group, name in counters.ROWS)
    return hashlib.blake2b(rows.encode(), digest_size=16).digest()


def _is_ours(fd: int) -> bool:
    if os.fstat(fd).st_size != _SIZE:
        return False
    magic, version, record, used, _, names = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
    if magic != _MAGIC or version != _VERSION or record != _RECORD or used > RECORDS:
        return False
    if names != _names():  # another version's counters: begin to count anew, keep the records
        os.pwrite(fd, bytes(2 * _PAGE), _PAGE)
        os.pwrite(fd, _names(), _HEADER.size - 16)
    return True


def _begin(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.ftruncate(fd, _SIZE)
    _reserve(fd, 0, _FIRST)
    head = _HEADER.pack(_MAGIC, _VERSION, _RECORD, 0, os.urandom(16), _names())
    os.pwrite(fd, head, 0)
