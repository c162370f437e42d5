"""The Association extension, sadb_sa (RFC 2367 section 2.3.1).

Byte order: host, except the SPI, which is in network order.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension
from pfkey.codec import BE32, U8, U16, U32, Format
from pfkey.const import ExtType, SaState
from pfkey.dialect import LINUX, Dialect

SADB_SA = Format(
    "sadb_sa",
    "len" / U16,
    "exttype" / U16,
    "spi" / BE32,
    "replay" / U8,
    "state" / U8,
    "auth" / U8,
    "encrypt" / U8,
    "flags" / U32,
)
_TYPES = frozenset({int(ExtType.SA), int(ExtType.X_OPENBSD_SA2)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sa:
    """What sadb_sa says. `replay` is the window in packets.

    The registries are open: `auth` and `encrypt` (the transform of IPComp) are any number, and
    so is `state`, which Linux ignores in requests. NetBSD and FreeBSD count the window in octets
    of its bitmap: what is no multiple of 8 packets is made one.
    """

    spi: int
    replay: int = 0
    state: int = SaState.LARVAL
    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    exttype: int = ExtType.SA

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 16 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_SA, octets, at, _TYPES, dialect, is_fixed=True)
        raw = SADB_SA.parse(octets, at)
        if dialect is LINUX:
            return cls(
                spi=raw["spi"], replay=raw["replay"], state=raw["state"], auth=raw["auth"],
                encrypt=raw["encrypt"], flags=raw["flags"], exttype=exttype,
            )  # fmt: skip
        return cls(
            spi=raw["spi"], replay=raw["replay"] * dialect.window_unit, state=raw["state"],
            auth=dialect.auth.ours(raw["auth"]), encrypt=dialect.encrypt.ours(raw["encrypt"]),
            flags=dialect.flags_in(raw["flags"]), exttype=exttype,
        )  # fmt: skip

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 16 octets. What does not fit or has no number raises WireError."""
        if dialect is LINUX:
            return SADB_SA.build(
                len=2, exttype=dialect.exttype(self.exttype), spi=self.spi, replay=self.replay,
                state=self.state, auth=self.auth, encrypt=self.encrypt, flags=self.flags,
            )  # fmt: skip
        return SADB_SA.build(
            len=2, exttype=dialect.exttype(self.exttype), spi=self.spi,
            replay=-(-self.replay // dialect.window_unit), state=self.state,
            auth=dialect.auth.theirs(self.auth), encrypt=dialect.encrypt.theirs(self.encrypt),
            flags=dialect.flags_out(self.flags),
        )  # fmt: skip
