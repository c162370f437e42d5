"""A whole PF_KEY message (RFC 2367 sections 2.1 and 3.1), Linux numbering.

`decode` is strict about structure and says nothing about sense: what a type must carry is a
matter of whoever answers it (specs/tables/messages.toml).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from pfkey.base import (
    EXT_MAX,
    SADB_MSG,
    Header,
    Unknown,
    error_reply,
    header,
    walk,
)
from pfkey.const import HEADER_OCTETS, PF_KEY_V2, UNIT_OCTETS, ExtType
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2

__all__ = ["DECODERS", "Extension", "Header", "Message", "error_reply", "header"]

Extension: TypeAlias = (
    Sa | Lifetime | Address | Key | Ident | Sensitivity | Proposal | Supported | SpiRange
    | KmPrivate | Policy | Sa2 | NatTType | NatTPort | SecCtx | KmAddress | Filter | Unknown
)  # fmt: skip

DECODERS: dict[int, Callable[[bytes, int], Extension]] = {
    ExtType.SA: Sa.decode,
    ExtType.LIFETIME_CURRENT: Lifetime.decode,
    ExtType.LIFETIME_HARD: Lifetime.decode,
    ExtType.LIFETIME_SOFT: Lifetime.decode,
    ExtType.ADDRESS_SRC: Address.decode,
    ExtType.ADDRESS_DST: Address.decode,
    ExtType.ADDRESS_PROXY: Address.decode,
    ExtType.KEY_AUTH: Key.decode,
    ExtType.KEY_ENCRYPT: Key.decode,
    ExtType.IDENTITY_SRC: Ident.decode,
    ExtType.IDENTITY_DST: Ident.decode,
    ExtType.SENSITIVITY: Sensitivity.decode,
    ExtType.PROPOSAL: Proposal.decode,
    ExtType.SUPPORTED_AUTH: Supported.decode,
    ExtType.SUPPORTED_ENCRYPT: Supported.decode,
    ExtType.SPIRANGE: SpiRange.decode,
    ExtType.X_KMPRIVATE: KmPrivate.decode,
    ExtType.X_POLICY: Policy.decode,
    ExtType.X_SA2: Sa2.decode,
    ExtType.X_NAT_T_TYPE: NatTType.decode,
    ExtType.X_NAT_T_SPORT: NatTPort.decode,
    ExtType.X_NAT_T_DPORT: NatTPort.decode,
    ExtType.X_NAT_T_OA: Address.decode,
    ExtType.X_SEC_CTX: SecCtx.decode,
    ExtType.X_KMADDRESS: KmAddress.decode,
    ExtType.X_FILTER: Filter.decode,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as values. A decoded one keeps its `octets`; one that was changed has none."""

    type: int
    satype: int = 0
    errno: int = 0
    seq: int = 0
    pid: int = 0
    reserved: int = 0
    extensions: tuple[Extension, ...] = ()
    octets: bytes | None = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def decode(cls, octets: bytes, *, is_request: bool = False) -> Self:
        """Read one record. Extension types above 26 are kept as Unknown and mean nothing.

        `is_request` also refuses a reserved field that is not zero, as Linux does.

        Raises:
            WireError: what is wrong, in which extension, at which offset. Its errno is EMSGSIZE
                for lengths of the base header and EINVAL for all else.
        """
        base = header(octets, is_request=is_request)
        extensions: list[Extension] = []
        for exttype, start, end in walk(octets):
            decoder = DECODERS[exttype] if exttype <= EXT_MAX else Unknown.decode
            extensions.append(decoder(octets[start:end], start))
        message = cls(
            type=base.type, satype=base.satype, errno=base.errno, seq=base.seq, pid=base.pid,
            reserved=base.reserved, extensions=tuple(extensions),
        )  # fmt: skip
        object.__setattr__(message, "octets", octets)
        return message

    def encode(self) -> bytes:
        """The octets as they came, or the canonical ones of the values.

        Raises:
            WireError: a value does not fit its field, or the message is too long.
        """
        if self.octets is not None:
            return self.octets
        body = b"".join(extension.encode() for extension in self.extensions)
        length = (HEADER_OCTETS + len(body)) // UNIT_OCTETS
        if length > 0xFFFF:
            raise WireError("sadb_msg", f"{length} words do not fit a message")
        head = SADB_MSG.build(
            version=PF_KEY_V2, type=self.type, errno=self.errno, satype=self.satype, len=length,
            reserved=self.reserved, seq=self.seq, pid=self.pid,
        )  # fmt: skip
        return head + body

    def ext(self, exttype: int) -> Extension | None:
        """The extension of a type, or None."""
        for extension in self.extensions:
            if extension.exttype == exttype:
                return extension
        return None

    @property
    def sa(self) -> Sa | None:
        """SADB_EXT_SA."""
        found = self.ext(ExtType.SA)
        return found if isinstance(found, Sa) else None

    @property
    def sa2(self) -> Sa2 | None:
        """SADB_X_EXT_SA2."""
        found = self.ext(ExtType.X_SA2)
        return found if isinstance(found, Sa2) else None

    def _address(self, exttype: int) -> Address | None:
        found = self.ext(exttype)
        return found if isinstance(found, Address) else None

    @property
    def src(self) -> Address | None:
        """SADB_EXT_ADDRESS_SRC."""
        return self._address(ExtType.ADDRESS_SRC)

    @property
    def dst(self) -> Address | None:
        """SADB_EXT_ADDRESS_DST."""
        return self._address(ExtType.ADDRESS_DST)

    @property
    def proxy(self) -> Address | None:
        """SADB_EXT_ADDRESS_PROXY."""
        return self._address(ExtType.ADDRESS_PROXY)

    @property
    def nat_t_oa(self) -> Address | None:
        """SADB_X_EXT_NAT_T_OA."""
        return self._address(ExtType.X_NAT_T_OA)

    def _key(self, exttype: int) -> Key | None:
        found = self.ext(exttype)
        return found if isinstance(found, Key) else None

    @property
    def key_auth(self) -> Key | None:
        """SADB_EXT_KEY_AUTH."""
        return self._key(ExtType.KEY_AUTH)

    @property
    def key_encrypt(self) -> Key | None:
        """SADB_EXT_KEY_ENCRYPT."""
        return self._key(ExtType.KEY_ENCRYPT)

    def _lifetime(self, exttype: int) -> Lifetime | None:
        found = self.ext(exttype)
        return found if isinstance(found, Lifetime) else None

    @property
    def hard(self) -> Lifetime | None:
        """SADB_EXT_LIFETIME_HARD."""
        return self._lifetime(ExtType.LIFETIME_HARD)

    @property
    def soft(self) -> Lifetime | None:
        """SADB_EXT_LIFETIME_SOFT."""
        return self._lifetime(ExtType.LIFETIME_SOFT)

    @property
    def current(self) -> Lifetime | None:
        """SADB_EXT_LIFETIME_CURRENT."""
        return self._lifetime(ExtType.LIFETIME_CURRENT)

    @property
    def policy(self) -> Policy | None:
        """SADB_X_EXT_POLICY."""
        found = self.ext(ExtType.X_POLICY)
        return found if isinstance(found, Policy) else None

    @property
    def proposal(self) -> Proposal | None:
        """SADB_EXT_PROPOSAL."""
        found = self.ext(ExtType.PROPOSAL)
        return found if isinstance(found, Proposal) else None

    def _supported(self, exttype: int) -> Supported | None:
        found = self.ext(exttype)
        return found if isinstance(found, Supported) else None

    @property
    def supported_auth(self) -> Supported | None:
        """SADB_EXT_SUPPORTED_AUTH."""
        return self._supported(ExtType.SUPPORTED_AUTH)

    @property
    def supported_encrypt(self) -> Supported | None:
        """SADB_EXT_SUPPORTED_ENCRYPT."""
        return self._supported(ExtType.SUPPORTED_ENCRYPT)

    @property
    def spirange(self) -> SpiRange | None:
        """SADB_EXT_SPIRANGE."""
        found = self.ext(ExtType.SPIRANGE)
        return found if isinstance(found, SpiRange) else None

    def _ident(self, exttype: int) -> Ident | None:
        found = self.ext(exttype)
        return found if isinstance(found, Ident) else None

    @property
    def ident_src(self) -> Ident | None:
        """SADB_EXT_IDENTITY_SRC."""
        return self._ident(ExtType.IDENTITY_SRC)

    @property
    def ident_dst(self) -> Ident | None:
        """SADB_EXT_IDENTITY_DST."""
        return self._ident(ExtType.IDENTITY_DST)

    @property
    def nat_t_type(self) -> NatTType | None:
        """SADB_X_EXT_NAT_T_TYPE."""
        found = self.ext(ExtType.X_NAT_T_TYPE)
        return found if isinstance(found, NatTType) else None

    def _port(self, exttype: int) -> NatTPort | None:
        found = self.ext(exttype)
        return found if isinstance(found, NatTPort) else None

    @property
    def nat_t_sport(self) -> NatTPort | None:
        """SADB_X_EXT_NAT_T_SPORT."""
        return self._port(ExtType.X_NAT_T_SPORT)

    @property
    def nat_t_dport(self) -> NatTPort | None:
        """SADB_X_EXT_NAT_T_DPORT."""
        return self._port(ExtType.X_NAT_T_DPORT)

    @property
    def sec_ctx(self) -> SecCtx | None:
        """SADB_X_EXT_SEC_CTX."""
        found = self.ext(ExtType.X_SEC_CTX)
        return found if isinstance(found, SecCtx) else None

    @property
    def filter(self) -> Filter | None:
        """SADB_X_EXT_FILTER."""
        found = self.ext(ExtType.X_FILTER)
        return found if isinstance(found, Filter) else None
