"""The requests of a policy, as the data path gets them (KAME; Linux's errnos)."""

from errno import EINVAL, ELOOP, EPROTONOSUPPORT

from keyd.engine import unsupported
from keyd.engine.manners import LINUX_MANNERS, Kin, Manners
from keyd.engine.reqids import Reqids
from keyd.model import Request
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Level, Mode, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest, Policy

REQUESTS_MAX = 6  # XFRM_MAX_DEPTH


def bundle(reqids: Reqids, policy: Policy, manners: Manners = LINUX_MANNERS) -> tuple[Request, ...]:
    """The requests of a policy, checked; none unless it is of type ipsec.

    Raises:
        SadbError: ELOOP for too many; EINVAL and EOPNOTSUPP for what one says; EPROTONOSUPPORT on
            NetBSD and FreeBSD for another protocol.
    """
    if len(policy.requests) > REQUESTS_MAX:
        raise SadbError(ELOOP, f"{len(policy.requests)} requests, {REQUESTS_MAX} are the most")
    if policy.type != PolicyType.IPSEC:
        return ()
    # DEVIATION from Linux, where `ipsec` without requests lets everything pass in clear
    # (test_ipsec_policy_without_requests_is_refused).
    if not policy.requests:
        raise SadbError(EINVAL, "an ipsec policy needs a request such as esp/transport//require")
    return tuple(_request(reqids, request, manners) for request in policy.requests)


def _request(reqids: Reqids, given: IpsecRequest, manners: Manners) -> Request:
    """One request, checked. Level default is require, which Linux means by it.

    Level unique without a number gets one that nobody has.
    DEVIATION from Linux, which also replaces a number above 0x3fff that is given, though on SAs it
    keeps those: charon numbers both so, and neither would ever fit the other
    (test_a_reqid_of_a_daemon_is_kept_as_given).

    A tunnel has its end points, which may be of another family than what goes through it.
    Transport mode takes no addresses, yet iked sends some: they say nothing, as on Linux.
    DEVIATION from Linux, which ignores a reqid without level unique: it is refused
    (test_a_reqid_without_level_unique_is_refused).
    """
    if given.mode == Mode.ANY or given.mode not in list(Mode):
        raise SadbError(EINVAL, f"request of mode {given.mode}: transport is 1, tunnel 2")
    if given.proto not in (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP):
        errno = EPROTONOSUPPORT if manners.kin is Kin.KAME else EINVAL
        raise SadbError(errno, f"request of protocol {given.proto}: esp is 50, ah 51, ipcomp 108")
    if given.level not in list(Level):
        raise SadbError(EINVAL, f"request of level {given.level}: use is 1, require 2, unique 3")
    unsupported.refuse(unsupported.REQUEST_MODES, given.mode)
    is_unique = given.level == Level.UNIQUE
    if given.reqid and not is_unique:
        raise SadbError(EINVAL, f"reqid {given.reqid} without level unique")
    level = Level.REQUIRE if given.level == Level.DEFAULT else Level(given.level)
    is_tunnel = given.mode == Mode.TUNNEL
    most = manners.dialect.reqid_max
    for end in (given.src, given.dst):
        if is_tunnel and end:
            unsupported.refuse_address(end)
    return Request(
        proto=given.proto, mode=Mode(given.mode), level=level,
        reqid=given.reqid or reqids.new(most) if is_unique else 0,
        src=given.src if is_tunnel else None, dst=given.dst if is_tunnel else None,
    )  # fmt: skip
