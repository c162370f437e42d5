"""The policy extension of KAME and Linux: sadb_x_policy and its sadb_x_ipsecrequests.

A request has 16 octets before its addresses on Linux, and on the BSDs 8, with 16 bits for the
request id. Byte order: host, network inside sockaddrs. The extension's length counts 64-bit words,
that of a request counts octets. The pair of sockaddrs of a request is padded at its end only.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension, extension_header, pad, words
from pfkey.codec import R8, R16, R32, U8, U16, U32, Format
from pfkey.const import UNIT_OCTETS, ExtType, Mode
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.sockaddr import decode_pair, encode_pair, octets_in

SADB_X_POLICY = Format(
    "sadb_x_policy",
    "len" / U16,
    "exttype" / U16,
    "type" / U16,
    "dir" / U8,
    "reserved" / R8,
    "id" / U32,
    "priority" / U32,
)
SADB_X_POLICY_BSD = Format(
    "sadb_x_policy",
    "len" / U16,
    "exttype" / U16,
    "type" / U16,
    "dir" / U8,
    "scope" / U8,
    "id" / U32,
    "priority" / U32,
    variant="bsd",
)
SADB_X_IPSECREQUEST = Format(
    "sadb_x_ipsecrequest",
    "len" / U16,
    "proto" / U16,
    "mode" / U8,
    "level" / U8,
    "reserved1" / R16,
    "reqid" / U32,
    "reserved2" / R32,
)
SADB_X_IPSECREQUEST_BSD = Format(
    "sadb_x_ipsecrequest",
    "len" / U16,
    "proto" / U16,
    "mode" / U8,
    "level" / U8,
    "reqid" / U16,
    variant="bsd",
)
_REQUESTS = {"": SADB_X_IPSECREQUEST, "bsd": SADB_X_IPSECREQUEST_BSD}
_TYPES = frozenset({int(ExtType.X_POLICY)})


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecRequest:
    """One step of a policy. `src` and `dst` are a tunnel's end points, packed, or None.

    Linux ignores the addresses of other modes; they are kept here when they are well formed.
    """

    proto: int
    mode: int
    level: int
    reqid: int = 0
    src: bytes | None = None
    dst: bytes | None = None
    src_port: int = 0
    dst_port: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read one request of exactly these octets.

        Raises:
            WireError: a tunnel without two addresses of one family.
        """
        fmt = _REQUESTS[dialect.request]
        raw = fmt.parse(octets, at)
        start = fmt.size
        src = dst = None
        src_port = dst_port = 0
        mode = raw["mode"] if dialect is LINUX else dialect.modes.ours(raw["mode"])
        if mode == Mode.TUNNEL or octets_in(octets, start, dialect):
            try:
                src, dst, src_port, dst_port = decode_pair(
                    octets[start:], fmt.name, at + start, dialect
                )
            except WireError:
                if mode == Mode.TUNNEL:
                    raise
        return cls(
            proto=raw["proto"], mode=mode, level=raw["level"], reqid=raw["reqid"],
            src=src, dst=dst, src_port=src_port, dst_port=dst_port,
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the request, padded to 64-bit words.

        Raises:
            WireError: one address without the other, or a tunnel without both.
        """
        if self.src is not None and self.dst is not None:
            pair = encode_pair(self.src, self.dst, self.src_port, self.dst_port, dialect)
        elif self.src is None and self.dst is None and self.mode != Mode.TUNNEL:
            pair = b""
        else:
            raise WireError(SADB_X_IPSECREQUEST.name, "a tunnel takes two end points")
        fmt = _REQUESTS[dialect.request]
        mode = self.mode if dialect is LINUX else dialect.modes.theirs(self.mode)
        head = fmt.build(
            len=fmt.size + len(pair), proto=self.proto, mode=mode, level=self.level,
            reqid=self.reqid,
        )  # fmt: skip
        return head + pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy: `type` is a PolicyType, `dir` a Dir; a lower `priority` is asked first.

    `scope` is FreeBSD's Scope, or NetBSD's flags, of which 0x80 says that the kernel made it.
    """

    exttype: ClassVar[ExtType] = ExtType.X_POLICY
    type: int
    dir: int
    id: int = 0
    priority: int = 0
    requests: tuple[IpsecRequest, ...] = ()
    scope: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the policy and its requests; `at` is the offset in the message.

        Raises:
            WireError: a request shorter than its header, past the end, or octets left over.
        """
        check_extension(SADB_X_POLICY, octets, at, _TYPES, dialect)
        raw = (SADB_X_POLICY_BSD if dialect.has_scope else SADB_X_POLICY).parse(octets, at)
        requests = []
        start, total = SADB_X_POLICY.size, len(octets)
        fmt = _REQUESTS[dialect.request]
        least = fmt.size
        while total - start >= UNIT_OCTETS:
            if total - start < least:
                raise WireError(
                    fmt.name, f"{total - start} octets, the least is {least}", at + start
                )
            size, _ = extension_header(octets[start:])  # two fields of 16 bits begin both
            if not least <= size <= total - start:
                raise WireError(
                    fmt.name,
                    f"length of {size} octets, must be {least} to {total - start}",
                    at + start,
                )
            request = IpsecRequest.decode(octets[start : start + size], at + start, dialect)
            requests.append(request)
            start += size
        if dialect is LINUX:
            return cls(
                type=raw["type"], dir=raw["dir"], id=raw["id"], priority=raw["priority"],
                requests=tuple(requests),
            )  # fmt: skip
        return cls(
            type=raw["type"], dir=dialect.dirs.ours(raw["dir"]), id=raw["id"],
            priority=raw["priority"] if dialect.has_priority else 0, requests=tuple(requests),
            scope=raw["scope"],
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension.

        Raises:
            WireError: a field out of range, or a priority or scope that the dialect has not.
        """
        body = b"".join(request.encode(dialect) for request in self.requests)
        number = dialect.exttype(self.exttype)
        length = words(SADB_X_POLICY.size + len(body))
        if dialect is LINUX:
            head = SADB_X_POLICY.build(
                len=length, exttype=number, type=self.type, dir=self.dir, id=self.id,
                priority=self.priority,
            )  # fmt: skip
        else:
            if self.priority and not dialect.has_priority:
                raise WireError(
                    SADB_X_POLICY.name, f"a priority, {self.priority:#x}, cannot be said"
                )
            head = SADB_X_POLICY_BSD.build(
                len=length, exttype=number, type=self.type, dir=dialect.dirs.theirs(self.dir),
                id=self.id, priority=self.priority, scope=self.scope,
            )  # fmt: skip
        if self.scope and not dialect.has_scope:
            raise WireError(SADB_X_POLICY.name, f"a scope, {self.scope}, cannot be said")
        return pad(head + body)
