"""IP_XFRM_POLICY in PF_KEY's form: `struct xfrm_userpolicy_info` and its templates.

Sans-IO. Linux's own form, which strongSwan uses for its sockets: without templates it lets pass in
clear or blocks. Byte order: host; the SPI and addresses in network order.
"""

import struct
from errno import EINVAL, EOPNOTSUPP

from pfkey.const import AF_INET, AF_INET6, Dir, Level, Mode, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest, Policy

_INFO = struct.Struct("=56x64x32xIIBBBB4x")  # …, priority, index, dir, action, flags, share
# id (address, SPI, protocol), family, source, reqid, mode, share, optional, algorithms
_TEMPLATE = struct.Struct("=16s4xB3xH2x16sIBBB13x")
_TEMPLATES_MAX = 6
_DIRS = {0: Dir.IN, 1: Dir.OUT}
_ALLOW, _BLOCK = 0, 1
_MODES = {0: Mode.TRANSPORT, 1: Mode.TUNNEL}
_ADDRESS_OCTETS = {AF_INET: 4, AF_INET6: 16}


def policy(octets: bytes) -> Policy:
    """Read the option's value.

    Raises:
        SadbError: EINVAL for what is none; EOPNOTSUPP for what PF_KEY cannot say.
    """
    if len(octets) < _INFO.size:
        raise SadbError(EINVAL, f"xfrm_userpolicy_info has {_INFO.size} octets, not {len(octets)}")
    priority, _, direction, action, _, _ = _INFO.unpack_from(octets)
    if direction not in _DIRS or action not in (_ALLOW, _BLOCK):
        raise SadbError(EINVAL, f"direction {direction}, action {action}")
    count = (len(octets) - _INFO.size) // _TEMPLATE.size
    if count > _TEMPLATES_MAX:
        raise SadbError(EINVAL, f"{count} templates, {_TEMPLATES_MAX} are the most")
    requests = tuple(
        _request(*_TEMPLATE.unpack_from(octets, _INFO.size + n * _TEMPLATE.size))
        for n in range(count)
    )
    kind = PolicyType.IPSEC if requests else PolicyType.BYPASS
    return Policy(
        type=PolicyType.DISCARD if action == _BLOCK else kind, dir=_DIRS[direction],
        priority=priority, requests=() if action == _BLOCK else requests,
    )  # fmt: skip


def _request(
    dst: bytes, proto: int, family: int, src: bytes, reqid: int, mode: int, _: int, optional: int
) -> IpsecRequest:
    if mode not in _MODES:
        raise SadbError(EOPNOTSUPP, f"a template of mode {mode}")
    octets = _ADDRESS_OCTETS.get(family, 0)
    is_tunnel = _MODES[mode] == Mode.TUNNEL
    if is_tunnel and not octets:
        raise SadbError(EINVAL, f"a template of family {family}")
    level = Level.UNIQUE if reqid else Level.REQUIRE
    if optional:
        if reqid:
            raise SadbError(EOPNOTSUPP, "an optional template with a reqid")
        level = Level.USE
    return IpsecRequest(
        proto=proto, mode=int(_MODES[mode]), level=int(level), reqid=reqid,
        src=src[:octets] if is_tunnel else None, dst=dst[:octets] if is_tunnel else None,
    )  # fmt: skip
