"""The Association extension, sadb_sa (RFC 2367 section 2.3.1).

Byte order: host, except the SPI, which is in network order.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from pfkey.base import check_extension
from pfkey.codec import BE32, U8, U16, U32, Format
from pfkey.const import ExtType, SaState

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
_TYPES = frozenset({int(ExtType.SA)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sa:
    """What sadb_sa says. `replay` is the window in packets on Linux.

    The registries are open: `auth` and `encrypt` (the transform of IPComp) are any number, and
    so is `state`, which Linux ignores in requests.
    """

    exttype: ClassVar[ExtType] = ExtType.SA
    spi: int
    replay: int = 0
    state: int = SaState.LARVAL
    auth: int = 0
    encrypt: int = 0
    flags: int = 0

    @classmethod
    def decode(cls, octets: bytes, at: int = 0) -> Self:
        """Read exactly 16 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        check_extension(SADB_SA, octets, at, _TYPES, is_fixed=True)
        raw = SADB_SA.parse(octets, at)
        return cls(
            spi=raw["spi"], replay=raw["replay"], state=raw["state"], auth=raw["auth"],
            encrypt=raw["encrypt"], flags=raw["flags"],
        )  # fmt: skip

    def encode(self) -> bytes:
        """Build the 16 octets. A field out of range raises WireError."""
        return SADB_SA.build(
            len=2, exttype=self.exttype, spi=self.spi, replay=self.replay, state=self.state,
            auth=self.auth, encrypt=self.encrypt, flags=self.flags,
        )  # fmt: skip
