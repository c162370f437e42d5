"""The one table of what differs between Linux, NetBSD, FreeBSD and OpenBSD in PF_KEY v2.

A `Dialect` turns a system's numbers into ours (`pfkey.const`, `pfkey.algorithms`) and back, and
says which variant of a layout it has. All else knows names only. Where a dialect has no number for
what is to be said, that is a WireError: nothing is said wrongly or left out. The tables in
`specs/tables/` say where each column comes from, `docs/dialects.md` what matters of it.
"""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pfkey import const
from pfkey.const import (
    AF_INET,
    AF_INET6,
    FIELD_MAX,
    OWN_MAX,
    OWN_MIN,
    Dir,
    ExtType,
    IdentType,
    Mode,
    MsgType,
    SaType,
)
from pfkey.errors import WireError

IPV4_OCTETS, IPV6_OCTETS = 4, 16


class Numbers:
    """One registry of one system: its numbers and ours, both ways.

    A number of theirs without a name is theirs plus the system's base here, and so survives.
    """

    __slots__ = ("_base", "_part", "_theirs", "_what", "named")

    def __init__(self, what: str, part: str, base: int, theirs: Mapping[int, int]) -> None:
        self._what = what
        self._part = part
        self._base = base
        self._theirs = {int(name): number for name, number in theirs.items()}
        self.named: Mapping[int, int] = {number: name for name, number in self._theirs.items()}

    @property
    def highest(self) -> int:
        """The largest number of theirs that has a name."""
        return max(self.named)

    def __contains__(self, name: object) -> bool:
        return name in self._theirs

    def ours(self, number: int) -> int:
        """Our number for one of theirs."""
        name = self.named.get(number)
        return self._base + number if name is None else name

    def theirs(self, name: int) -> int:
        """Their number for one of ours.

        Raises:
            WireError: the system has none.
        """
        number = self._theirs.get(name)
        if number is None:
            number = int(name) - self._base
            if not self.says(name):
                raise WireError(self._part, f"{self._what} {digits(name)} is not of this dialect")
        return number

    def says(self, name: int) -> bool:
        """Whether they have a number for one of ours: by name, or because it came from them."""
        number = name - self._base
        return name in self._theirs or (0 <= number <= FIELD_MAX and number not in self.named)


def digits(number: int) -> str:
    """One of our numbers that has no name, as the system that said it counts."""
    return str(number & FIELD_MAX if number > 0 else number)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Dialect:
    """One system's PF_KEY.

    Attributes:
        sockaddr, address, request, proposal: variants of `sockaddr_in` and `sockaddr_in6`,
            `sadb_address`, `sadb_x_ipsecrequest`, `sadb_prop`; '' is Linux's.
        families: address families by an address's octets.
        flags: bits of sadb_sa_flags that mean the same everywhere; others are moved up.
        window_unit: packets that one unit of sadb_sa_replay stands for.
        reqid_max: the largest request id of a policy.
        has_policies, has_priority, has_scope: X_POLICY, its priority, its octet 7.
        checks_reserved: the base header's reserved field must be zero in a request.
        skips_unknown: an extension without a name says nothing; else it is refused.
        never: extensions that have a number and are refused all the same.
        length_errno, family_errno: of a message whose length, an address whose family is wrong.
        longest: octets of the longest request, and the errno of a longer one; 0 for no bound.
        echoes_request: a refusal repeats all of the request, not only its header.
        not_satypes: messages whose SA type field says something else.
    """

    name: str
    base: int
    messages: Numbers
    extensions: Numbers
    satypes: Numbers
    auth: Numbers
    encrypt: Numbers
    compress: Numbers
    idents: Numbers
    modes: Numbers
    dirs: Numbers
    errnos: Numbers
    families: Mapping[int, int]
    flags: int
    sockaddr: str = ""
    address: str = ""
    request: str = ""
    proposal: str = ""
    window_unit: int = 1
    reqid_max: int = 0xFFFF_FFFF
    has_policies: bool = True
    has_priority: bool = True
    has_scope: bool = False
    checks_reserved: bool = False
    skips_unknown: bool = False
    never: frozenset[int] = frozenset()
    length_errno: int = errno.EINVAL
    family_errno: int = errno.EINVAL
    longest: tuple[int, int] = (0, 0)
    echoes_request: bool = False
    not_satypes: frozenset[int] = frozenset({MsgType.X_PROMISC})  # 1 is on, 0 off

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def window_max(self) -> int:
        """The largest window, in packets, that sadb_sa_replay can say."""
        return 0xFF * self.window_unit

    def exttype(self, exttype: int) -> int:
        """Their number of an extension; WireError where they have none."""
        return self.extensions.theirs(exttype)

    def of_satype(self, satype: int) -> "Dialect":
        """The same, with sadb_sa_encrypt as an SA of this type has it: IPComp's transforms."""
        return _IPCOMP[self.name] if satype == SaType.X_IPCOMP else self

    def flags_in(self, flags: int) -> int:
        """Our flags for theirs."""
        return flags & self.flags | (flags & ~self.flags) << (self.base >> 16) * 32

    def flags_out(self, flags: int) -> int:
        """Their flags for ours.

        Raises:
            WireError: one of them has no bit in this dialect.
        """
        shift = (self.base >> 16) * 32
        theirs = flags & self.flags | (flags >> shift) & ~self.flags & 0xFFFF_FFFF
        if self.flags_in(theirs) != flags:
            raise WireError("sadb_sa", f"flags {flags:#x} are not of this dialect")
        return theirs

    def flags_sayable(self, flags: int) -> int:
        """Those of our flags that this dialect has."""
        theirs = ~self.flags & 0xFFFF_FFFF
        return flags & (self.flags | theirs << (self.base >> 16) * 32)


def is_own(exttype: int) -> bool:
    """Whether an extension is of our own making: sent only to clients that used one."""
    return OWN_MIN <= exttype <= OWN_MAX


# What follows are the tables: our number of a name, and a system's.


def _row(first: int, *names: int) -> dict[int, int]:
    """Names in the order of their numbers, which begin with `first`."""
    return {name: first + at for at, name in enumerate(names)}


def _same(names: Iterable[int], highest: int = 255) -> dict[int, int]:
    """Those that have Linux's number on a system, up to its highest."""
    return {int(name): int(name) for name in names if name <= highest}


_E = ExtType
_OWN = {_E.X_REPLAY_WINDOW: OWN_MIN}
_LINUX_EXTENSIONS = _same(_E, _E.X_FILTER) | _OWN
_NETBSD_EXTENSIONS = _same(_E, _E.X_NAT_T_DPORT) | _OWN | _row(
    23, _E.X_NAT_T_OAI, _E.X_NAT_T_OAR, _E.X_NAT_T_FRAG,
)  # fmt: skip
_FREEBSD_EXTENSIONS = _NETBSD_EXTENSIONS | _row(
    26, _E.X_SA_REPLAY, _E.X_NEW_ADDRESS_SRC, _E.X_NEW_ADDRESS_DST, _E.X_LFT_CUR_SW_OFFL,
    _E.X_LFT_CUR_HW_OFFL, _E.X_IF_HW_OFFL,
)  # fmt: skip
_OPENBSD_EXTENSIONS = _same(_E, _E.SPIRANGE) | _OWN | _row(
    17, _E.X_SRC_MASK, _E.X_DST_MASK, _E.X_PROTOCOL, _E.X_FLOW_TYPE, _E.X_SRC_FLOW, _E.X_DST_FLOW,
    _E.X_OPENBSD_SA2, _E.X_DST2, _E.X_OPENBSD_POLICY, _E.X_LOCAL_CREDENTIALS,
    _E.X_REMOTE_CREDENTIALS, _E.X_LOCAL_AUTH, _E.X_REMOTE_AUTH, _E.X_SUPPORTED_COMP, _E.X_UDPENCAP,
    _E.X_LIFETIME_LASTUSE, _E.X_TAG, _E.X_TAP, _E.X_SATYPE2, _E.X_COUNTER, _E.X_RDOMAIN, _E.X_MTU,
    _E.X_REPLAY, _E.X_IFACE,
)  # fmt: skip
_OPENBSD_MESSAGES = _same(MsgType, MsgType.X_PROMISC) | _row(
    12, MsgType.X_ADDFLOW, MsgType.X_DELFLOW, MsgType.X_GRPSPIS, MsgType.X_ASKPOLICY,
    MsgType.X_SPDDUMP,
)  # fmt: skip
_KAME_SATYPES = _same(SaType, SaType.X_IPCOMP) | {SaType.X_TCPSIGNATURE: 11}
_OPENBSD_SATYPES = _row(
    0, SaType.UNSPEC, SaType.AH, SaType.ESP, SaType.RSVP, SaType.OSPFV2, SaType.RIPV2, SaType.MIP,
    SaType.X_IPIP, SaType.X_TCPSIGNATURE, SaType.X_IPCOMP,
)  # fmt: skip
_IDENTS = _same(IdentType, IdentType.USERFQDN)
_KAME_MODES = _same(Mode, Mode.TUNNEL) | {const.MODE_TCPMD5: 3}
_KAME_DIRS = _same(Dir, Dir.OUT)

# Algorithms by our number (pfkey.algorithms); 0 is none of them.
_HMACS = (0, 2, 3, 5, 6, 7, 8)
_KAME_AUTH = _same((*_HMACS, 9, 11, 12, 13, 249, 250, 251, 252))
_KAME_ENCRYPT = _same((0, 2, 3, 6, 7, 11, 12, 13, 18, 19, 20, 22, 23))

# The numbers of 4.4BSD for what Linux has a name for. Up to 34 they are Linux's, but for 11.
_BSD_ERRNOS = _same(number for number in range(35) if number != errno.EAGAIN) | _row(
    35, errno.EAGAIN, errno.EINPROGRESS, errno.EALREADY, errno.ENOTSOCK, errno.EDESTADDRREQ,
    errno.EMSGSIZE, errno.EPROTOTYPE, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT, errno.EOPNOTSUPP, errno.EPFNOSUPPORT, errno.EAFNOSUPPORT,
    errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET,
    errno.ECONNABORTED, errno.ECONNRESET, errno.ENOBUFS, errno.EISCONN, errno.ENOTCONN,
    errno.ESHUTDOWN, errno.ETOOMANYREFS, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTEMPTY,
) | {
    errno.EDEADLK: 11, errno.EUSERS: 68, errno.EDQUOT: 69, errno.ESTALE: 70, errno.EREMOTE: 71,
    errno.ENOLCK: 77, errno.ENOSYS: 78,
}  # fmt: skip

_messages = partial(Numbers, "message type", "sadb_msg")
_extensions = partial(Numbers, "extension", "sadb_ext")
_satypes = partial(Numbers, "SA type", "sadb_msg")
_auth = partial(Numbers, "authenticator", "sadb_sa")
_encrypt = partial(Numbers, "cipher", "sadb_sa")
_compress = partial(Numbers, "compression", "sadb_sa")
_idents = partial(Numbers, "identity type", "sadb_ident")
_modes = partial(Numbers, "mode", "sadb_x_sa2")
_dirs = partial(Numbers, "direction", "sadb_x_policy")
_errnos = partial(Numbers, "errno", "sadb_msg")

LINUX = Dialect(
    name="linux", base=0, messages=_messages(0, _same(MsgType, MsgType.X_MIGRATE)),
    extensions=_extensions(0, _LINUX_EXTENSIONS), satypes=_satypes(0, _same(SaType)),
    auth=_auth(0, _same((*_HMACS, 9, 10, 251))),
    encrypt=_encrypt(
        0, _same((0, 2, 3, 6, 7, *range(11, 17), 18, 19, 20, *range(22, 26), 252, 253))
    ),
    compress=_compress(0, _same(range(5))), idents=_idents(0, _IDENTS),
    modes=_modes(0, _same(Mode)), dirs=_dirs(0, _same(Dir)), errnos=_errnos(0, {}),
    families={IPV4_OCTETS: AF_INET, IPV6_OCTETS: AF_INET6}, flags=0xFFFF_FFFF,
    checks_reserved=True, skips_unknown=True, length_errno=errno.EMSGSIZE,
)  # fmt: skip
NETBSD = Dialect(
    name="netbsd", base=const.NETBSD,
    messages=_messages(const.NETBSD, _same(MsgType, MsgType.X_NAT_T_NEW_MAPPING)),
    extensions=_extensions(const.NETBSD, _NETBSD_EXTENSIONS),
    satypes=_satypes(const.NETBSD, _KAME_SATYPES), auth=_auth(const.NETBSD, _KAME_AUTH),
    encrypt=_encrypt(const.NETBSD, _KAME_ENCRYPT | {250: 250}),
    compress=_compress(const.NETBSD, _same(range(4))),
    idents=_idents(const.NETBSD, _IDENTS | {IdentType.X_ADDR: 4}),
    modes=_modes(const.NETBSD, _KAME_MODES), dirs=_dirs(const.NETBSD, _KAME_DIRS),
    errnos=_errnos(const.NETBSD, _BSD_ERRNOS),
    families={IPV4_OCTETS: AF_INET, IPV6_OCTETS: 24}, flags=0x1FFF_FFFF, sockaddr="bsd",
    request="bsd", window_unit=8, reqid_max=0xFFFF, has_priority=False, has_scope=True,
    never=frozenset({_E.X_KMPRIVATE}), family_errno=errno.EAFNOSUPPORT,
    longest=(2048, errno.ENOBUFS), echoes_request=True,
)  # fmt: skip
FREEBSD = replace(
    NETBSD, name="freebsd", base=const.FREEBSD,
    messages=_messages(const.FREEBSD, _same(MsgType, MsgType.X_SPDDELETE2)),
    extensions=_extensions(const.FREEBSD, _FREEBSD_EXTENSIONS),
    satypes=_satypes(const.FREEBSD, _KAME_SATYPES),
    auth=_auth(const.FREEBSD, _KAME_AUTH | {14: 14}),
    encrypt=_encrypt(const.FREEBSD, _KAME_ENCRYPT | {25: 15}),
    compress=_compress(const.FREEBSD, _same(range(4))),
    idents=_idents(const.FREEBSD, _IDENTS | {IdentType.X_ADDR: 4}),
    modes=_modes(const.FREEBSD, _KAME_MODES), dirs=_dirs(const.FREEBSD, _KAME_DIRS),
    errnos=_errnos(const.FREEBSD, _BSD_ERRNOS),
    families={IPV4_OCTETS: AF_INET, IPV6_OCTETS: 28}, has_priority=True,
    not_satypes=frozenset({MsgType.X_PROMISC, MsgType.X_SPDDUMP}),  # there the scopes to dump
)  # fmt: skip
OPENBSD = Dialect(
    name="openbsd", base=const.OPENBSD, messages=_messages(const.OPENBSD, _OPENBSD_MESSAGES),
    extensions=_extensions(const.OPENBSD, _OPENBSD_EXTENSIONS),
    satypes=_satypes(const.OPENBSD, _OPENBSD_SATYPES),
    auth=_auth(const.OPENBSD, _same(_HMACS) | {11: 9, 12: 10, 13: 11, 14: 12}),
    encrypt=_encrypt(
        const.OPENBSD, _same((0, 3, 6, 7, 11, 12, 13, 18, 19, 20)) | {23: 21, 25: 22}
    ),
    compress=_compress(const.OPENBSD, _same(range(3))),
    idents=_idents(const.OPENBSD, _IDENTS | {IdentType.X_ASN1_DN: 4}),
    modes=_modes(const.OPENBSD, {}), dirs=_dirs(const.OPENBSD, {}),
    errnos=_errnos(const.OPENBSD, _BSD_ERRNOS),
    families={IPV4_OCTETS: AF_INET, IPV6_OCTETS: 24}, flags=0x0000_0401, sockaddr="bsd",
    address="openbsd", proposal="openbsd", reqid_max=0, has_policies=False, has_priority=False,
    checks_reserved=True,
    never=frozenset(
        {_E.X_LOCAL_CREDENTIALS, _E.X_REMOTE_CREDENTIALS, _E.X_LOCAL_AUTH, _E.X_REMOTE_AUTH}
    ),
    longest=(4096, errno.EMSGSIZE),
)  # fmt: skip
DIALECTS: Mapping[str, Dialect] = {d.name: d for d in (LINUX, NETBSD, FREEBSD, OPENBSD)}
_IPCOMP = {d.name: replace(d, encrypt=d.compress) for d in DIALECTS.values()} | {"linux": LINUX}
