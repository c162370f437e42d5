"""The extensions that only FreeBSD or only OpenBSD has, and that are more than one number.

Byte order: host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from pfkey.base import check_extension, pad, part, words
from pfkey.codec import OCTETS32, R8, R16, R32, R56, U8, U16, U32, U64, Fields, Format
from pfkey.const import UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_fixed import FixedExtension

_LEAD: Fields = ("len" / U16, "exttype" / U16)
SADB_PROTOCOL = Format(
    "sadb_protocol", *_LEAD, "proto" / U8, "direction" / U8, "flags" / U8, "reserved2" / R8
)
SADB_X_CRED = Format("sadb_x_cred", *_LEAD, "type" / U16, "reserved" / R16)
SADB_X_TAG = Format("sadb_x_tag", *_LEAD, "taglen" / U32)
SADB_X_RDOMAIN = Format("sadb_x_rdomain", *_LEAD, "dom1" / U16, "dom2" / U16)
SADB_X_REPLAY = Format("sadb_x_replay", *_LEAD, "reserved" / R32, "count" / U64)
SADB_X_IFACE = Format(
    "sadb_x_iface", *_LEAD, "unit" / U32, "direction" / U8, "reserved" / R56
)  # fmt: skip
_COUNTS = (
    "ipackets", "opackets", "ibytes", "obytes", "idrops", "odrops", "idecompbytes", "ouncompbytes",
)  # fmt: skip
SADB_X_COUNTER = Format(
    "sadb_x_counter", *_LEAD, "pad" / R32, *(name / U64 for name in _COUNTS)
)  # fmt: skip
SADB_X_IF_HW_OFFL = Format("sadb_x_if_hw_offl", *_LEAD, "flags" / U32, "if" / OCTETS32)
_PROTOCOLS = frozenset({int(ExtType.X_PROTOCOL), int(ExtType.X_FLOW_TYPE), int(ExtType.X_SATYPE2)})
_CREDENTIALS = frozenset(
    {
        int(ExtType.X_LOCAL_CREDENTIALS),
        int(ExtType.X_REMOTE_CREDENTIALS),
        int(ExtType.X_LOCAL_AUTH),
        int(ExtType.X_REMOTE_AUTH),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Three uses of OpenBSD's sadb_protocol, by type.

    - X_PROTOCOL: `proto` is the upper protocol of a flow, 0 for any;
    - X_FLOW_TYPE: `proto` is a FlowType (in answers to ASKPOLICY the upper protocol), `direction`
      1 for in, 2 for out, `flags` 1 for a static policy;
    - X_SATYPE2: `proto` is the SaType of the second SA.
    """

    exttype: int
    proto: int
    direction: int = 0
    flags: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 8 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_PROTOCOL, octets, at, _PROTOCOLS, dialect, is_fixed=True)
        raw = SADB_PROTOCOL.parse(octets, at)
        is_satype = exttype == ExtType.X_SATYPE2
        return cls(
            exttype=exttype, direction=raw["direction"], flags=raw["flags"],
            proto=dialect.satypes.ours(raw["proto"]) if is_satype else raw["proto"],
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 8 octets. A field out of range raises WireError."""
        is_satype = self.exttype == ExtType.X_SATYPE2
        return SADB_PROTOCOL.build(
            len=1, exttype=dialect.exttype(self.exttype), direction=self.direction,
            flags=self.flags,
            proto=dialect.satypes.theirs(self.proto) if is_satype else self.proto,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What earlier releases of OpenBSD took along for IKE: certificates, and how to authenticate.

    `kind` of credentials is 1 for X.509, 2 for KeyNote; of the others 1 for a passphrase, 2 for
    an RSA key. `secret` is whole 64-bit words, its padding included; `repr` masks it.
    """

    exttype: int
    kind: int
    secret: bytes = field(default=b"", repr=False)

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Keep the data; `at` is the offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_X_CRED, octets, at, _CREDENTIALS, dialect)
        raw = SADB_X_CRED.parse(octets, at)
        return cls(exttype=exttype, kind=raw["type"], secret=octets[SADB_X_CRED.size :])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension; the secret must be whole 64-bit words."""
        if len(self.secret) % UNIT_OCTETS:
            raise WireError(SADB_X_CRED.name, f"{len(self.secret)} octets are no whole words")
        length = words(SADB_X_CRED.size + len(self.secret))
        head = SADB_X_CRED.build(len=length, exttype=dialect.exttype(self.exttype), type=self.kind)
        return head + self.secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """The pf(4) tag that packets of an SA get, without its NUL."""

    exttype: ClassVar[ExtType] = ExtType.X_TAG
    text: bytes

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the tag.

        Raises:
            WireError: its length is not the extension's, or no NUL ends it.
        """
        check_extension(SADB_X_TAG, octets, at, frozenset({cls.exttype}), dialect)
        raw, where = SADB_X_TAG.parse(octets, at), part(SADB_X_TAG.name, cls.exttype)
        if words(SADB_X_TAG.size + raw["taglen"]) != raw["len"]:
            raise WireError(where, f"a tag of {raw['taglen']} octets in {raw['len']} words", at + 4)
        text, nul, _ = octets[SADB_X_TAG.size : SADB_X_TAG.size + raw["taglen"]].partition(b"\0")
        if not nul:
            raise WireError(where, "the tag does not end with NUL", at + SADB_X_TAG.size)
        return cls(text=text)

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension, the NUL included."""
        if b"\0" in self.text:
            raise WireError(part(SADB_X_TAG.name, self.exttype), "NUL inside the tag")
        taglen = len(self.text) + 1
        head = SADB_X_TAG.build(
            len=words(SADB_X_TAG.size + taglen), exttype=dialect.exttype(self.exttype),
            taglen=taglen,
        )  # fmt: skip
        return pad(head + self.text + b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rdomain(FixedExtension):
    """The routing domains of a packet before and after IPsec. 8 octets."""

    exttype: ClassVar[ExtType] = ExtType.X_RDOMAIN
    layout: ClassVar[Format] = SADB_X_RDOMAIN
    values: ClassVar[Mapping[str, str]] = {"before": "dom1", "after": "dom2"}
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(FixedExtension):
    """The last sequence number that an SA has sent, or the highest that it has seen. 16 octets."""

    exttype: ClassVar[ExtType] = ExtType.X_REPLAY
    layout: ClassVar[Format] = SADB_X_REPLAY
    values: ClassVar[Mapping[str, str]] = {"count": "count"}
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter(FixedExtension):
    """What an SA has done, in and out, octets before and after compression too. 72 octets."""

    exttype: ClassVar[ExtType] = ExtType.X_COUNTER
    layout: ClassVar[Format] = SADB_X_COUNTER
    values: ClassVar[Mapping[str, str]] = {name: name for name in _COUNTS}
    ipackets: int = 0
    opackets: int = 0
    ibytes: int = 0
    obytes: int = 0
    idrops: int = 0
    odrops: int = 0
    idecompbytes: int = 0
    ouncompbytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Iface(FixedExtension):
    """The sec(4) interface that an SA belongs to; `direction` is 1 for in, 2 for out. 16 octets."""

    exttype: ClassVar[ExtType] = ExtType.X_IFACE
    layout: ClassVar[Format] = SADB_X_IFACE
    values: ClassVar[Mapping[str, str]] = {"unit": "unit", "direction": "direction"}
    unit: int
    direction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IfHwOffload:
    """The interface whose hardware does an SA's work on FreeBSD; `name` without its NULs."""

    exttype: ClassVar[ExtType] = ExtType.X_IF_HW_OFFL
    name: bytes
    flags: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 40 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        types = frozenset({cls.exttype})
        check_extension(SADB_X_IF_HW_OFFL, octets, at, types, dialect, is_fixed=True)
        raw = SADB_X_IF_HW_OFFL.parse(octets, at)
        return cls(name=raw["if"].partition(b"\0")[0], flags=raw["flags"])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 40 octets; a name of more than 32 does not fit."""
        if b"\0" in self.name:
            raise WireError(part(SADB_X_IF_HW_OFFL.name, self.exttype), "NUL inside the name")
        name = {"if": self.name.ljust(32, b"\0")}
        return SADB_X_IF_HW_OFFL.build(
            len=5, exttype=dialect.exttype(self.exttype), flags=self.flags, **name
        )
