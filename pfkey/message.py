"""A whole PF_KEY message (RFC 2367 sections 2.1 and 3.1), in any dialect.

`decode` is strict about structure and says nothing about sense: what a type must carry is a
matter of whoever answers it (specs/tables/messages.toml). Types, algorithms and the like are our
numbers for names (`pfkey.const`), whatever the dialect's own are.
"""

from dataclasses import dataclass, field
from typing import Self

from pfkey.base import Header, Unknown, encode_header, error_reply, header, walk
from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX, Dialect, is_own
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported
from pfkey.ext_x_linux import Filter, SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.extensions import BY_DIALECT, DECODERS, Extension

__all__ = ["DECODERS", "Extension", "Header", "Message", "error_reply", "header"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as values.

    A decoded one keeps its `octets` and the `dialect` they are in; one that was changed has none.
    """

    type: int
    satype: int = 0
    errno: int = 0
    seq: int = 0
    pid: int = 0
    reserved: int = 0
    extensions: tuple[Extension, ...] = ()
    octets: bytes | None = field(default=None, init=False, compare=False, repr=False)
    dialect: Dialect = field(default=LINUX, init=False, compare=False, repr=False)
    _by_type: dict[int, Extension] | None = field(
        default=None, init=False, compare=False, repr=False
    )

    @classmethod
    def decode(cls, octets: bytes, dialect: Dialect = LINUX, *, is_request: bool = False) -> Self:
        """Read one record. On Linux, extensions of unknown types are kept and mean nothing.

        `is_request` also refuses what the system refuses in requests only: a reserved field that
        is not zero (Linux, OpenBSD), extensions that are never taken, too many octets (the BSDs).

        Raises:
            WireError: what is wrong, in which extension, at which offset. Its errno is EMSGSIZE
                on Linux for lengths of the base header and EINVAL for all else.
        """
        base = header(octets, dialect, is_request=is_request)
        decoders = BY_DIALECT[dialect.name]
        inside = dialect if dialect is LINUX else dialect.of_satype(base.satype)
        extensions: list[Extension] = []
        for number, start, end in walk(octets, dialect, is_request=is_request):
            decoder = decoders.get(number, Unknown.decode)
            extensions.append(decoder(octets[start:end], start, inside))
        message = cls(
            type=base.type, satype=base.satype, errno=base.errno, seq=base.seq, pid=base.pid,
            reserved=base.reserved, extensions=tuple(extensions),
        )  # fmt: skip
        object.__setattr__(message, "octets", octets)
        if dialect is not LINUX:
            object.__setattr__(message, "dialect", dialect)
        return message

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """The octets as they came, if in this dialect, or the canonical ones of the values.

        Raises:
            WireError: a value does not fit its field, the dialect cannot say it, or the message
                is too long.
        """
        if self.octets is not None and self.dialect is dialect:
            return self.octets
        inside = dialect if dialect is LINUX else dialect.of_satype(self.satype)
        body = b"".join(extension.encode(inside) for extension in self.extensions)
        length = (HEADER_OCTETS + len(body)) // UNIT_OCTETS
        if length > 0xFFFF:
            raise WireError("sadb_msg", f"{length} words do not fit a message")
        errno = self.errno if dialect is LINUX else dialect.errnos.theirs(self.errno)
        head = encode_header(
            self.type, errno, self.satype, length, self.reserved, self.seq, self.pid, dialect
        )
        return head + body

    @property
    def uses_own(self) -> bool:
        """Whether it has an extension of our own: then its sender knows of them."""
        return any(is_own(extension.exttype) for extension in self.extensions)

    def ext(self, exttype: int) -> Extension | None:
        """The extension of a type, or None."""
        by_type = self._by_type
        if by_type is None:
            by_type = {one.exttype: one for one in reversed(self.extensions)}
            object.__setattr__(self, "_by_type", by_type)  # looked at a score of times
        return by_type.get(exttype)

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
