"""The policy extension of KAME and Linux: sadb_x_policy and its sadb_x_ipsecrequests.

Byte order: host, network inside sockaddrs. The extension's length counts 64-bit words, that of a
request counts octets. The pair of sockaddrs of a request is padded at its end only.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension, decode_pair, encode_pair, pad, words
from pfkey.codec import R8, R16, R32, U8, U16, U32, Format
from pfkey.const import UNIT_OCTETS, ExtType, Mode
from pfkey.errors import WireError

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
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read one request of exactly these octets.

        Raises:
            WireError: a tunnel without two addresses of one family.
        """
        raw = SADB_X_IPSECREQUEST.parse(octets, at)
        start = SADB_X_IPSECREQUEST.size
        src = dst = None
        src_port = dst_port = 0
        try:
            src, dst, src_port, dst_port = decode_pair(
                octets[start:], SADB_X_IPSECREQUEST.name, at + start
            )
        except WireError:
            if raw["mode"] == Mode.TUNNEL:
                raise
        return cls(
            proto=raw["proto"], mode=raw["mode"], level=raw["level"], reqid=raw["reqid"],
            src=src, dst=dst, src_port=src_port, dst_port=dst_port,
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build the request, padded to 64-bit words.

        Raises:
            WireError: one address without the other, or a tunnel without both.
        """
        if self.src is not None and self.dst is not None:
            pair = encode_pair(self.src, self.dst, self.src_port, self.dst_port)
        elif self.src is None and self.dst is None and self.mode != Mode.TUNNEL:
            pair = b""
        else:
            raise WireError(SADB_X_IPSECREQUEST.name, "a tunnel takes two end points")
        head = SADB_X_IPSECREQUEST.build(
            len=SADB_X_IPSECREQUEST.size + len(pair), proto=self.proto, mode=self.mode,
            level=self.level, reqid=self.reqid,
        )  # fmt: skip
        return head + pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy: `type` is a PolicyType, `dir` a Dir; a lower `priority` is asked first."""

    exttype: ClassVar[ExtType] = ExtType.X_POLICY
    type: int
    dir: int
    id: int = 0
    priority: int = 0
    requests: tuple[IpsecRequest, ...] = ()

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read the policy and its requests; `at` is the offset in the message.

        Raises:
            WireError: a request shorter than its header, past the end, or octets left over.
        """
        check_extension(SADB_X_POLICY, octets, at, _TYPES)
        raw = SADB_X_POLICY.parse(octets, at)
        requests = []
        start, total = SADB_X_POLICY.size, len(octets)
        least = SADB_X_IPSECREQUEST.size
        while total - start >= UNIT_OCTETS:
            size = SADB_X_IPSECREQUEST.parse(octets[start:], at + start)["len"]
            if not least <= size <= total - start:
                raise WireError(
                    SADB_X_IPSECREQUEST.name,
                    f"length of {size} octets, must be {least} to {total - start}",
                    at + start,
                )
            requests.append(IpsecRequest.decode(octets[start : start + size], at + start))
            start += size
        return cls(
            type=raw["type"], dir=raw["dir"], id=raw["id"], priority=raw["priority"],
            requests=tuple(requests),
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build the extension. A field out of range raises WireError."""
        body = b"".join(request.encode() for request in self.requests)
        head = SADB_X_POLICY.build(
            len=words(SADB_X_POLICY.size + len(body)), exttype=self.exttype, type=self.type,
            dir=self.dir, id=self.id, priority=self.priority,
        )  # fmt: skip
        return pad(head + body)
