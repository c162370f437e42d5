"""ipsec_set_policy(3) and its kin: policy strings and sadb_x_policy octets."""

from pfkey import policy as policies
from pfkey.base import extension_header
from pfkey.const import UNIT_OCTETS, ExtType, PolicyType
from pfkey.errors import PolicyError, WireError
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.libipsec.errors import (
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_INVAL_DIR,
    EIPSEC_INVAL_EXTTYPE,
    EIPSEC_INVAL_LEVEL,
    EIPSEC_INVAL_MODE,
    EIPSEC_INVAL_POLICY,
    EIPSEC_INVAL_PROTO,
    EIPSEC_INVAL_SADBMSG,
    TEXTS,
    IpsecError,
    reports,
)

_CODES = {text: code for code, text in enumerate(TEXTS)}
_SHOWN_DIR_MAX = 5  # any, in, out, fwd, and Linux's in and out of a socket
_SHOWN_MODE_MAX = 2


@reports
def ipsec_set_policy(text: str) -> bytes:
    """A policy string as the octets of sadb_x_policy, which setsockopt(IP_IPSEC_POLICY) takes.

    C takes the length of the string beside it and does not look at it. Where the words are in no
    order of the grammar, the code is EIPSEC_INVAL_ARGUMENT, else it says which part is wrong; the
    error has the column.
    """
    try:
        return policies.parse(text).encode()
    except PolicyError as error:
        what, _, why = error.why.partition(": ")
        code = _CODES.get(what, EIPSEC_INVAL_ARGUMENT)
        raise IpsecError(code, f"{why or what} at column {error.column + 1} of {text!r}") from error


def ipsec_get_policylen(policy: bytes) -> int:
    """The length of a policy in octets, as its header says it: 8 times sadb_x_policy_len."""
    try:
        words, _ = extension_header(policy)
    except WireError as error:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, error.rule) from error
    return words * UNIT_OCTETS


@reports
def ipsec_dump_policy(policy: bytes, delimiter: str | None = None) -> str:
    """The octets of sadb_x_policy as a policy string, `delimiter` before each request.

    None is a blank. A request number is shown as `:N` if a person chose it (up to 0x3fff), as `#N`
    if the engine did, at any level. Requests of a policy that is not `ipsec` are not shown.
    """
    return _dump(policy, delimiter, has_ports=False)


@reports
def ipsec_dump_policy_withports(policy: bytes, delimiter: str | None = None) -> str:
    """As `ipsec_dump_policy`, with the ports of tunnel ends: `10.1.1.1[0]-20.1.1.1[0]`."""
    return _dump(policy, delimiter, has_ports=True)


def _dump(octets: bytes, delimiter: str | None, *, has_ports: bool) -> str:
    try:
        if extension_header(octets)[1] != ExtType.X_POLICY:
            raise IpsecError(EIPSEC_INVAL_EXTTYPE)
        found = Policy.decode(octets)
    except WireError as error:
        raise IpsecError(EIPSEC_INVAL_SADBMSG, error.rule) from error
    if found.dir > _SHOWN_DIR_MAX:
        raise IpsecError(EIPSEC_INVAL_DIR, str(found.dir))
    if found.type not in policies.ACTION_NAMES:
        raise IpsecError(EIPSEC_INVAL_POLICY, str(found.type))
    is_ipsec = found.type == PolicyType.IPSEC
    for request in found.requests if is_ipsec else ():
        _check(request)
    shown = Policy(
        type=found.type, dir=found.dir, priority=found.priority,
        requests=found.requests if is_ipsec else (),
    )  # fmt: skip
    return policies.render(shown, " " if delimiter is None else delimiter, has_ports=has_ports)


def _check(request: IpsecRequest) -> None:
    if request.proto not in policies.PROTO_NAMES:
        raise IpsecError(EIPSEC_INVAL_PROTO, str(request.proto))
    if request.mode > _SHOWN_MODE_MAX:
        raise IpsecError(EIPSEC_INVAL_MODE, str(request.mode))
    if request.level not in policies.LEVEL_NAMES:
        raise IpsecError(EIPSEC_INVAL_LEVEL, str(request.level))
