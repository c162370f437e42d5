"""The Proposal extension, sadb_prop and its combinations (RFC 2367 section 2.3.7).

Byte order: host. Key lengths are in bits, lifetimes in octets and seconds.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import R16, R24, R32, U8, U16, U32, U64, Format
from pfkey.const import UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError

SADB_PROP = Format("sadb_prop", "len" / U16, "exttype" / U16, "replay" / U8, "reserved" / R24)
SADB_PROP_OPENBSD = Format(
    "sadb_prop", "len" / U16, "exttype" / U16, "num" / U8, "replay" / U8, "reserved" / R16,
    variant="openbsd",
)  # fmt: skip
SADB_COMB = Format(
    "sadb_comb",
    "auth" / U8,
    "encrypt" / U8,
    "flags" / U16,
    "auth_minbits" / U16,
    "auth_maxbits" / U16,
    "encrypt_minbits" / U16,
    "encrypt_maxbits" / U16,
    "reserved" / R32,
    "soft_allocations" / U32,
    "hard_allocations" / U32,
    "soft_bytes" / U64,
    "hard_bytes" / U64,
    "soft_addtime" / U64,
    "hard_addtime" / U64,
    "soft_usetime" / U64,
    "hard_usetime" / U64,
)
_TYPES = frozenset({int(ExtType.PROPOSAL)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comb:
    """One combination that the key manager may choose."""

    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    auth_minbits: int = 0
    auth_maxbits: int = 0
    encrypt_minbits: int = 0
    encrypt_maxbits: int = 0
    soft_allocations: int = 0
    hard_allocations: int = 0
    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_addtime: int = 0
    hard_addtime: int = 0
    soft_usetime: int = 0
    hard_usetime: int = 0


_COMB_FIELDS = tuple(Comb.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What an ACQUIRE offers, best first. `replay` is a window in packets."""

    exttype: ClassVar[ExtType] = ExtType.PROPOSAL
    replay: int = 0
    combs: tuple[Comb, ...] = ()

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read the proposal.

        Raises:
            WireError: the rest is no whole number of combinations.
        """
        check_extension(SADB_PROP, octets, at, _TYPES, dialect)
        replay = (SADB_PROP_OPENBSD if dialect.proposal else SADB_PROP).parse(octets, at)["replay"]
        if (len(octets) - SADB_PROP.size) % SADB_COMB.size:
            raise WireError(
                "sadb_prop (PROPOSAL)",
                f"{len(octets) - SADB_PROP.size} octets are no whole number of"
                f" {SADB_COMB.size}-octet combinations",
                at,
            )
        combs = []
        for start in range(SADB_PROP.size, len(octets), SADB_COMB.size):
            comb = SADB_COMB.parse(octets[start : start + SADB_COMB.size], at + start)
            values = {name: comb[name] for name in _COMB_FIELDS}
            if dialect is not LINUX:
                values["auth"] = dialect.auth.ours(values["auth"])
                values["encrypt"] = dialect.encrypt.ours(values["encrypt"])
            combs.append(Comb(**values))
        return cls(replay=replay, combs=tuple(combs))

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the extension. What does not fit or has no number raises WireError."""
        size = SADB_PROP.size + SADB_COMB.size * len(self.combs)
        fields = {
            "len": size // UNIT_OCTETS, "exttype": dialect.exttype(self.exttype),
            "replay": self.replay,
        }  # fmt: skip
        if dialect.proposal:
            head = SADB_PROP_OPENBSD.build(**fields, num=len(self.combs))
        else:
            head = SADB_PROP.build(**fields)
        return head + b"".join(SADB_COMB.build(**_values(comb, dialect)) for comb in self.combs)


def _values(comb: Comb, dialect: Dialect) -> dict[str, int]:
    values: dict[str, int] = asdict(comb)
    if dialect is not LINUX:
        values["auth"] = dialect.auth.theirs(comb.auth)
        values["encrypt"] = dialect.encrypt.theirs(comb.encrypt)
    return values
