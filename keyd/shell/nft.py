"""nftables through libnftables (ctypes), and tables that belong to one netlink socket.

A context is one netlink socket and must be used by one thread at a time. `own` makes a table that
obeys this socket alone and outlives it (flags owner and persist of Linux 6.9): libnftables 1.0
knows no such flags, so the one message is packed by hand and sent on the context's own descriptor.
Netlink's numbers are in host order; nfnetlink's res_id and attributes' values are big-endian.
"""

import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import struct
from typing import Any, Self

from pfkey.errors import ShellError

_LIBRARY = "libnftables.so.1"
_REMEDY = "apt-get install libnftables1"
_OUTPUT_JSON = 1 << 4
_OUTPUT_HANDLE = 1 << 3

_NETLINK_NETFILTER = 12
_NFPROTO_INET = 1
_SUBSYS_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE = _SUBSYS_NFTABLES << 8
_NEWRULE, _GETRULE = _SUBSYS_NFTABLES << 8 | 6, _SUBSYS_NFTABLES << 8 | 7
_GETGEN, _NEWGEN = _SUBSYS_NFTABLES << 8 | 16, _SUBSYS_NFTABLES << 8 | 15
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_DUMP, _DUMP_INTERRUPTED = 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ATTR_TABLE_NAME, _ATTR_TABLE_FLAGS, _ATTR_GEN_ID = 1, 2, 1
_ATTR_RULE_TABLE, _ATTR_RULE_CHAIN, _ATTR_RULE_HANDLE = 1, 2, 3
_FLAG_OWNER, _FLAG_PERSIST = 2, 4
_GROUP_NFTABLES = 7
_ANSWER_SECONDS = 10.0


class NftError(ShellError):
    """A refusal by nftables; nothing of the transaction took effect."""


class OwnerlessError(NftError):
    """This kernel has no owned and persistent tables, or the table already is a plain one."""


def _load() -> ctypes.CDLL:
    """The library with its prototypes."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise ShellError(f"{_LIBRARY} cannot be loaded: {error}", _REMEDY) from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", pointer, (ctypes.c_uint32,)),
        ("nft_ctx_free", None, (pointer,)),
        ("nft_ctx_buffer_output", ctypes.c_int, (pointer,)),
        ("nft_ctx_buffer_error", ctypes.c_int, (pointer,)),
        ("nft_ctx_get_output_buffer", text, (pointer,)),
        ("nft_ctx_get_error_buffer", text, (pointer,)),
        ("nft_ctx_output_set_flags", None, (pointer, ctypes.c_uint)),
        ("nft_run_cmd_from_buffer", ctypes.c_int, (pointer, text)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _netfilter_sockets() -> dict[int, str]:
    """Descriptors of this process that are netfilter netlink sockets, with their identity."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
            if not link.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if (
                    copy.family == socket.AF_NETLINK
                    and copy.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == _NETLINK_NETFILTER
                ):
                    found[int(name)] = link
        except OSError:
            continue  # closed meanwhile by another thread
    return found


def _message(kind: int, flags: int, seq: int, family: int, res_id: int, body: bytes = b"") -> bytes:
    payload = struct.pack("=BB", family, 0) + struct.pack(">H", res_id) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, seq, 0) + payload


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class Nft:
    """One libnftables context.

    Raises:
        ShellError: no library, or no right to talk to nftables; with the remedy.
    """

    def __init__(self) -> None:
        self._library = _load()
        before = _netfilter_sockets()
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise ShellError("libnftables gives no context", "is nf_tables in this kernel?")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        new = [fd for fd, link in _netfilter_sockets().items() if before.get(fd) != link]
        if len(new) != 1:
            self.close()
            raise ShellError(f"libnftables opened {len(new)} netlink sockets where 1 was expected")
        self.fd = new[0]
        fcntl.fcntl(self.fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        self._seq = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the context back; a table owned by it becomes an orphan for a successor."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> str:
        """Run nft commands as one transaction; what they printed.

        Raises:
            NftError: nft refused; nothing has changed.
        """
        if self._context is None:
            raise ShellError("the nft context is closed")
        done = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        said: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if done:
            raise _refusal(complaint.decode(errors="replace"))
        return said.decode(errors="replace")

    def run_json(self, commands: str) -> list[dict[str, Any]]:
        """Run listing commands; the objects listed, without the leading metainfo."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON | _OUTPUT_HANDLE)
        try:
            text = self.run(commands)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        if not text.strip():
            return []
        return [o for o in json.loads(text)["nftables"] if "metainfo" not in o]

    def own(self, table: str) -> None:
        """Make `table inet NAME` ours alone, or take over the orphan of that name with its rules.

        Raises:
            OwnerlessError: the kernel cannot, or the table is a plain one.
            NftError: a living process owns the table, or we lack the right.
        """
        self._seq += 3
        seq = self._seq
        body = _attribute(_ATTR_TABLE_NAME, table.encode() + b"\0") + _attribute(
            _ATTR_TABLE_FLAGS, struct.pack(">I", _FLAG_OWNER | _FLAG_PERSIST)
        )
        batch = (
            _message(_BATCH_BEGIN, _REQUEST, seq, 0, _SUBSYS_NFTABLES)
            + _message(_NEWTABLE, _REQUEST | _ACK | _CREATE, seq + 1, _NFPROTO_INET, 0, body)
            + _message(_BATCH_END, _REQUEST, seq + 2, 0, _SUBSYS_NFTABLES)
        )
        os.write(self.fd, batch)
        error = self._answer(seq)
        if error in (errno.EOPNOTSUPP, errno.EINVAL):
            raise OwnerlessError(f"table inet {table} cannot be owned: {os.strerror(error)}")
        if error == errno.EPERM and os.geteuid() == 0:
            raise NftError(
                f"table inet {table} belongs to another process, or CAP_NET_ADMIN is missing",
                "stop the other pfkeyd of this network namespace, or add CAP_NET_ADMIN",
            )
        if error:
            raise _refusal(f"table inet {table}: {os.strerror(error)}")

    def _answer(self, seq: int) -> int:
        """The errno that the kernel answers to the batch that began with `seq`; 0: done."""
        while True:
            if not select.select([self.fd], [], [], _ANSWER_SECONDS)[0]:
                raise NftError("nftables gave no answer")
            octets = os.read(self.fd, 65536)
            offset = 0
            while offset + 16 <= len(octets):
                length, kind, _flags, number, _port = struct.unpack_from("=IHHII", octets, offset)
                if kind == _NLMSG_ERROR and seq <= number <= seq + 2:
                    return -int(struct.unpack_from("=i", octets, offset + 16)[0])
                offset += (length + 3) & ~3


def _refusal(text: str) -> NftError:
    """nft's complaint as our error; its last line is a row of carets."""
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    if "Operation not permitted" in text:
        return NftError(
            f"nftables: {first}", "run as root, or with CAP_NET_ADMIN in this network namespace"
        )
    remedy = ""
    if "not supported" in text:
        remedy = "this kernel lacks nf_tables or a part of it: modprobe nf_tables nft_fib_inet"
    return NftError(f"nftables: {first}", remedy)


def generation() -> int:
    """The number of the ruleset's generation in this thread's network namespace.

    Every transaction, anybody's, makes a new one.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(_ANSWER_SECONDS)
        link.sendto(_message(_GETGEN, _REQUEST, 1, 0, 0), (0, 0))
        octets = link.recv(65536)
    kind = struct.unpack_from("=H", octets, 4)[0]
    value = _find(octets, 20, len(octets), _ATTR_GEN_ID) if kind == _NEWGEN else b""
    if len(value) != 4:
        raise NftError("nftables does not tell its generation")
    return int.from_bytes(value, "big")


def rule_handles(table: str, chain: str) -> list[int]:
    """The handles of a chain's rules in their order; empty if the chain changed meanwhile.

    Asked for directly: libnftables would decode each rule only to give its number.
    """
    body = _attribute(_ATTR_RULE_TABLE, table.encode() + b"\0") + _attribute(
        _ATTR_RULE_CHAIN, chain.encode() + b"\0"
    )
    handles: list[int] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(_ANSWER_SECONDS)
        link.sendto(_message(_GETRULE, _REQUEST | _DUMP, 1, _NFPROTO_INET, 0, body), (0, 0))
        while True:
            octets = link.recv(1 << 17)
            offset = 0
            while offset + 16 <= len(octets):
                length, kind, flags = struct.unpack_from("=IHH", octets, offset)
                if kind == _NLMSG_ERROR or flags & _DUMP_INTERRUPTED:
                    return []
                if kind == _NLMSG_DONE:
                    return handles
                if kind == _NEWRULE:
                    value = _find(octets, offset + 20, offset + length, _ATTR_RULE_HANDLE)
                    handles.append(int.from_bytes(value, "big"))
                offset += (length + 3) & ~3


def _find(octets: bytes, offset: int, end: int, wanted: int) -> bytes:
    """The value of the first attribute of this kind between two offsets; empty if none."""
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", octets, offset)
        if kind == wanted:
            return octets[offset + 4 : offset + length]
        offset += (max(length, 4) + 3) & ~3
    return b""


def event_socket() -> socket.socket:
    """A socket that becomes readable when anybody changes the ruleset of this namespace."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    link.setblocking(False)
    link.bind((0, 1 << (_GROUP_NFTABLES - 1)))
    return link
