"""How each system behaves over PF_KEY, beyond its numbers and layouts (`pfkey.dialect`).

One row a system. `Clients` asks it who hears what, `records` and `answers` what they are told, the
handlers what a request may ask; nobody else compares dialects. Held to `specs/tables/manners.toml`,
which says where each column comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from errno import (
    EBUSY,
    EEXIST,
    EINVAL,
    ENOBUFS,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    ESRCH,
)

from pfkey.base import SADB_MSG
from pfkey.const import (
    PF_KEY_V2,
    PROTO_OF_SATYPE,
    UNIT_OCTETS,
    ExtType,
    MsgType,
    SaFlag,
    SaType,
)
from pfkey.dialect import FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import SadbError
from pfkey.message import Message


class Kin(StrEnum):
    """Whose code a system's key engine is: what its answers consist of."""

    LINUX = "linux"  # an answer tells all that is known of the object
    KAME = "kame"  # an answer to a change repeats parts of the request
    OPENBSD = "openbsd"  # it repeats the request, in the order of the extensions' numbers


class Count(StrEnum):
    """The sequence numbers of a dump's records; the last one has 0."""

    UP = "up"  # from 1
    DOWN = "down"  # from how many there are, less one
    ASKED = "asked"  # all others have the request's


Refusals = Mapping[tuple[int | None, int], int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Manners:
    """One system's behaviour.

    Attributes:
        refusals: what a refusal has for errno instead of Linux's, by message type (None: any) and
            that errno.
        counts: the sequence numbers of a dump.
        wraps: a promiscuous client's copies have a header of their own before them.
        copies_requests: it is shown requests as well, not only what goes out.
        hears_all: every answer goes to every client, also those that only tell.
        by_satype: an ACQUIRE goes to who registered for its SA type; else for any.
        expires_to_all: an EXPIRE goes to every client; else to who registered.
        tells_hard_end: whether the end of an SA is told.
        tells_larval_end: whether that of a larval one is.
        shows_last_use: the time of use in a record is that of the last use; else of the first.
        registers_again: a second registration for an SA type is no mistake.
        flush_ends_flows: FLUSH of all SA types ends all policies as well.
        deletes_all: DELETE without an SPI ends all SAs between two addresses.
        has_deflevs: level `default` means what knobs say (net.inet.ipsec.esp_trans_deflev, ...).
        spi_min: SPIs below are refused for AH and ESP.
        getspi_min: GETSPI gives out none below, and refuses a range that ends there.
        keeps_keys: an UPDATE of an SA that has keys brings none.
        knows_own: it is told by extensions of our own what its dialect cannot say.
        takes: what requests may carry beside what Linux takes, by message type.
    """

    dialect: Dialect
    kin: Kin
    refusals: Refusals = field(default_factory=dict)
    counts: Count = Count.UP
    wraps: bool = False
    copies_requests: bool = True
    hears_all: bool = False
    by_satype: bool = False
    expires_to_all: bool = False
    tells_hard_end: bool = True
    tells_larval_end: bool = False
    shows_last_use: bool = False
    registers_again: bool = False
    flush_ends_flows: bool = False
    deletes_all: bool = False
    has_deflevs: bool = False
    spi_min: int = 1
    getspi_min: int = 0
    keeps_keys: bool = False
    knows_own: bool = False
    takes: Mapping[int, frozenset[ExtType]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<manners of {self.dialect.name}>"

    def twin(self) -> "Manners":
        """The same system's, for clients that have used an extension of our own."""
        return self if self.knows_own else _TWINS[self.dialect.name]

    def errno(self, type: int, errno: int) -> int:
        """What this system says for a refusal of the engine's."""
        found = self.refusals.get((type, errno))
        return self.refusals.get((None, errno), errno) if found is None else found

    def wrapped(self, octets: bytes, seq: int = 0) -> bytes:
        """A copy for a promiscuous client, behind a header of its own where the system does so."""
        if not self.wraps:
            return octets
        head = SADB_MSG.build(
            version=PF_KEY_V2, type=int(MsgType.X_PROMISC), errno=0, satype=0,
            len=2 + len(octets) // UNIT_OCTETS, reserved=0, seq=seq, pid=0,
        )  # fmt: skip
        return head + octets

    def check(self, message: Message) -> None:
        """What the system refuses whatever the request is.

        Raises:
            SadbError: an SA type that the message cannot have; on NetBSD and FreeBSD two protocols
                in its addresses; on OpenBSD the flag PFS, which says nothing about an SA.
        """
        if self.kin is Kin.KAME:
            self._check_kame(message)
        elif self.kin is Kin.OPENBSD and message.type in _MAKE:
            if message.satype not in PROTO_OF_SATYPE:
                raise SadbError(EOPNOTSUPP, f"no SA is of SA type {message.satype}")
            if message.sa is not None and message.sa.flags & SaFlag.PFS:
                raise SadbError(EOPNOTSUPP, "the flag PFS (1) is for key managers to agree on")

    def _check_kame(self, message: Message) -> None:
        satype, type = message.satype, message.type
        if satype in _NO_IPSEC:
            raise SadbError(EOPNOTSUPP, f"SA type {satype} is none of IPsec")
        if satype == SaType.UNSPEC and type in _NEED_SATYPE:
            raise SadbError(EINVAL, "this message needs an SA type")
        if satype != SaType.UNSPEC and type in _OF_POLICIES:
            raise SadbError(EINVAL, f"SA type {satype} in a message about policies")
        if satype not in self.dialect.satypes and type not in self.dialect.not_satypes:
            raise SadbError(EINVAL, f"no SA type {satype}")
        src, dst = message.src, message.dst
        if src is not None and dst is not None and src.proto != dst.proto:
            raise SadbError(EINVAL, "ADDRESS_SRC and ADDRESS_DST are of two protocols")


_NO_IPSEC = frozenset((SaType.RSVP, SaType.OSPFV2, SaType.RIPV2, SaType.MIP))
_NEED_SATYPE = frozenset((
    MsgType.GETSPI, MsgType.UPDATE, MsgType.ADD, MsgType.DELETE, MsgType.GET, MsgType.ACQUIRE,
    MsgType.EXPIRE,
))  # fmt: skip
_MAKE = frozenset((MsgType.GETSPI, MsgType.ADD, MsgType.UPDATE))
_OF_POLICIES = frozenset((
    MsgType.X_SPDADD, MsgType.X_SPDDELETE, MsgType.X_SPDGET, MsgType.X_SPDFLUSH,
    MsgType.X_SPDSETIDX, MsgType.X_SPDUPDATE, MsgType.X_SPDDELETE2,
))  # fmt: skip
# Types that a client does not send: no row in KAME's table of functions.
_NO_FUNCTION: dict[tuple[int | None, int], int] = {
    (type, EOPNOTSUPP): EINVAL
    for type in (MsgType.EXPIRE, MsgType.X_PCHANGE, MsgType.X_SPDACQUIRE, MsgType.X_SPDEXPIRE)
}
_KAME_REFUSALS: dict[tuple[int | None, int], int] = _NO_FUNCTION | {
    (None, ENOSYS): EINVAL,  # an algorithm is unknown
    (None, EBUSY): ENOBUFS,  # the queue still holds another dump
    (MsgType.X_SPDDELETE, ENOENT): EINVAL,
    (MsgType.X_SPDDELETE2, ENOENT): EINVAL,
}
_FLOW = frozenset((
    ExtType.X_SRC_FLOW, ExtType.X_SRC_MASK, ExtType.X_DST_FLOW, ExtType.X_DST_MASK,
    ExtType.X_PROTOCOL, ExtType.X_FLOW_TYPE, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST,
    ExtType.IDENTITY_SRC, ExtType.IDENTITY_DST,
))  # fmt: skip

LINUX_MANNERS = Manners(
    dialect=LINUX, kin=Kin.LINUX, tells_larval_end=True,
)  # fmt: skip
NETBSD_MANNERS = Manners(
    dialect=NETBSD, kin=Kin.KAME, counts=Count.DOWN, wraps=True, copies_requests=False,
    tells_hard_end=False, shows_last_use=True, deletes_all=True, has_deflevs=True,
    spi_min=0x100,
    refusals=_KAME_REFUSALS | {
        (MsgType.GETSPI, ENOENT): EINVAL,  # no SPI of the range is free
        (MsgType.UPDATE, ESRCH): ENOENT,
        (MsgType.DELETE, ESRCH): ENOENT,
        (MsgType.GET, ESRCH): ENOENT,
    },
)  # fmt: skip
FREEBSD_MANNERS = Manners(
    dialect=FREEBSD, kin=Kin.KAME, counts=Count.DOWN, wraps=True, copies_requests=False,
    deletes_all=True, has_deflevs=True, spi_min=0x100, keeps_keys=True,
    refusals=_KAME_REFUSALS | {
        (MsgType.GETSPI, ENOENT): EEXIST,
        (MsgType.UPDATE, ESRCH): EINVAL,
    },
)  # fmt: skip
OPENBSD_MANNERS = Manners(
    dialect=OPENBSD, kin=Kin.OPENBSD, counts=Count.ASKED, wraps=True, hears_all=True,
    by_satype=True, expires_to_all=True, registers_again=True, flush_ends_flows=True,
    getspi_min=0x100, keeps_keys=True,
    refusals={
        (None, ENOSYS): EINVAL,
        (None, EBUSY): ENOBUFS,
        (MsgType.GETSPI, ENOENT): EEXIST,
        (MsgType.X_DELFLOW, ENOENT): ESRCH,
    },
    takes={
        MsgType.X_ADDFLOW: _FLOW, MsgType.X_DELFLOW: _FLOW,
        MsgType.X_ASKPOLICY: frozenset((ExtType.X_OPENBSD_POLICY,)),
        MsgType.X_GRPSPIS: frozenset((
            ExtType.SA, ExtType.ADDRESS_DST, ExtType.X_OPENBSD_SA2, ExtType.X_DST2,
            ExtType.X_SATYPE2,
        )),
    },
)  # fmt: skip
MANNERS: Mapping[str, Manners] = {
    row.dialect.name: row
    for row in (LINUX_MANNERS, NETBSD_MANNERS, FREEBSD_MANNERS, OPENBSD_MANNERS)
}
_TWINS: Mapping[str, Manners] = {
    name: replace(row, knows_own=True) for name, row in MANNERS.items()
}
