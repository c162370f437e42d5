"""OpenBSD's flows, which it has instead of policies, as policies and back.

A flow selects by addresses and masks, names the ends of a tunnel (`local` and `peer`) and has a
type. What that says in KAME's words:

- bypass: none; deny: discard; require and dontacq: require; use and acquire: use, for what goes
  out. `use` and `dontacq` never ask for an SA.
- The most specific flow decides, whatever the order: so its policy has a priority made of its
  masks, the narrower the earlier.
- Whether there is a tunnel is a matter of the SA there, of the policy here. A flow without a peer
  is in transport mode. One between the very ends that it names is so too if such an SA without
  the flag TUNNEL is there when the flow is added; else it is a tunnel, as ipsecctl's default is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from ipaddress import ip_address
from typing import TYPE_CHECKING

from keyd.model import PolicySpec, Request
from pfkey.const import (
    PROTO_OF_SATYPE,
    SATYPE_OF_PROTO,
    UNSPEC_PROTO,
    Dir,
    ExtType,
    FlowType,
    Level,
    Mode,
    PolicyType,
    SaType,
)
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_x_bsd import Protocol
from pfkey.message import Extension, Message
from pfkey.policy import PRIORITY_DEF
from pfkey.selector import Range, Selector

if TYPE_CHECKING:
    from keyd.engine.spd import PolicyRecord

STATIC = 1  # SADB_X_POLICYFLAGS_POLICY: only another static flow may replace it
_PORT_MASK = 0xFFFF
_TYPES = {
    FlowType.USE: Level.USE, FlowType.ACQUIRE: Level.USE, FlowType.REQUIRE: Level.REQUIRE,
    FlowType.DONTACQ: Level.REQUIRE,
}  # fmt: skip
_CLEAR = {FlowType.BYPASS: PolicyType.NONE, FlowType.DENY: PolicyType.DISCARD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What a flow says beyond its policy."""

    type: FlowType
    is_static: bool = False
    identities: tuple[Ident, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether packets without an SA make an ACQUIRE."""
        return self.type not in (FlowType.USE, FlowType.DONTACQ)


def key_of(message: Message) -> tuple[Dir, Selector]:
    """Direction and selector of a flow.

    Raises:
        SadbError: EINVAL for a part that is missing or none; EOPNOTSUPP for a mask that is no
            prefix.
    """
    kind, upper = _protocol(message, ExtType.X_FLOW_TYPE), _protocol(message, ExtType.X_PROTOCOL)
    if kind.direction not in (Dir.IN, Dir.OUT):
        raise SadbError(EINVAL, f"direction {kind.direction} of a flow: in is 1, out 2")
    src = _range(message, ExtType.X_SRC_FLOW, ExtType.X_SRC_MASK)
    dst = _range(message, ExtType.X_DST_FLOW, ExtType.X_DST_MASK)
    if len(src.address) != len(dst.address):
        raise SadbError(EINVAL, "SRC_FLOW and DST_FLOW are of two families")
    return Dir(kind.direction), Selector(src, dst, upper.proto or UNSPEC_PROTO)


def read(
    message: Message, has_sa: Callable[[int, bytes, bytes, Mode], bool]
) -> tuple[PolicySpec, Flow]:
    """The policy that a flow stands for; `has_sa(proto, src, dst, mode)` knows of SAs.

    Raises:
        SadbError: EINVAL for what is missing or none; EOPNOTSUPP for what is not done.
    """
    direction, selector = key_of(message)
    kind = _protocol(message, ExtType.X_FLOW_TYPE)
    try:
        type = FlowType(kind.proto)
    except ValueError:
        raise SadbError(EINVAL, f"flow type {kind.proto} is none") from None
    idents = tuple(one for one in message.extensions if isinstance(one, Ident))
    if len(idents) == 1:
        raise SadbError(EINVAL, "give IDENTITY_SRC and IDENTITY_DST both, or none")
    requests = () if type in _CLEAR else (_request(message, direction, selector, type, has_sa),)
    spec = PolicySpec(
        id=0, dir=direction, type=_CLEAR.get(type, PolicyType.IPSEC), selector=selector,
        requests=requests, priority=_priority(selector),
    )  # fmt: skip
    return spec, Flow(type=type, is_static=bool(kind.flags & STATIC), identities=idents)


def flow_of(policy: "PolicyRecord") -> tuple[int, tuple[Extension, ...]]:
    """SA type and extensions of the flow that says what a policy does, whoever made it."""
    spec = policy.spec
    request = spec.requests[0] if spec.requests else None
    extensions: list[Extension] = []
    if request is not None and request.src is not None and request.dst is not None:
        ends = (request.src, request.dst)
        local, peer = ends if spec.dir == Dir.OUT else ends[::-1]
        extensions += [_address(ExtType.ADDRESS_SRC, local), _address(ExtType.ADDRESS_DST, peer)]
    if policy.flow is not None:
        extensions += policy.flow.identities
    satype = SaType.ESP if request is None else SATYPE_OF_PROTO[request.proto]
    return satype, (*extensions, *selector_of(spec, _type(policy)))


def selector_of(spec: PolicySpec, type: int) -> tuple[Extension, ...]:
    """The extensions that select, with the flow's type, in the order of their numbers."""
    src, dst = spec.selector.src, spec.selector.dst
    upper = 0 if spec.selector.proto == UNSPEC_PROTO else spec.selector.proto
    return (
        _address(ExtType.X_SRC_MASK, *_mask(src)),
        _address(ExtType.X_DST_MASK, *_mask(dst)),
        Protocol(exttype=ExtType.X_PROTOCOL, proto=upper, direction=spec.dir),
        Protocol(exttype=ExtType.X_FLOW_TYPE, proto=type, direction=spec.dir),
        _address(ExtType.X_SRC_FLOW, src.address, src.port),
        _address(ExtType.X_DST_FLOW, dst.address, dst.port),
    )


def _type(policy: "PolicyRecord") -> int:
    if policy.flow is not None:
        return policy.flow.type
    spec = policy.spec
    for type, clear in _CLEAR.items():
        if spec.type == clear:
            return type
    if spec.is_required:
        return FlowType.REQUIRE
    return FlowType.ACQUIRE if spec.dir == Dir.OUT else FlowType.USE


def _request(
    message: Message,
    direction: Dir,
    selector: Selector,
    type: FlowType,
    has_sa: Callable[[int, bytes, bytes, Mode], bool],
) -> Request:
    proto = PROTO_OF_SATYPE.get(SaType.ESP if not message.satype else _satype(message.satype))
    if proto is None:
        raise SadbError(EOPNOTSUPP, f"a flow of SA type {message.satype} is not done")
    local, peer = message.src, message.dst
    ends: tuple[bytes | None, bytes | None] = (None, None)
    if peer is not None and any(peer.address):
        if local is None or not any(local.address):
            raise SadbError(EOPNOTSUPP, "a flow with a peer needs the local address as well")
        pair = (local.address, peer.address)
        src, dst = pair if direction == Dir.OUT else pair[::-1]
        if len(src) != len(dst):
            raise SadbError(EINVAL, "ADDRESS_SRC and ADDRESS_DST are of two families")
        is_between = _is_host(selector.src, src) and _is_host(selector.dst, dst)
        is_transport = (
            is_between
            and has_sa(proto, src, dst, Mode.ANY)
            and not has_sa(proto, src, dst, Mode.TUNNEL)
        )
        if not is_transport:
            ends = (src, dst)
    mode = Mode.TRANSPORT if ends[0] is None else Mode.TUNNEL
    return Request(proto=proto, mode=mode, level=_TYPES[type], src=ends[0], dst=ends[1])


def _satype(number: int) -> SaType:
    try:
        return SaType(number)
    except ValueError:
        raise SadbError(EOPNOTSUPP, f"a flow of SA type {number} is not done") from None


def _is_host(ends: Range, address: bytes) -> bool:
    return ends.address == address and ends.prefixlen == 8 * len(address)


def _priority(selector: Selector) -> int:
    """Smaller for what is narrower: by source, then destination, then protocol and ports."""
    src, dst = selector.src, selector.dst
    rank = src.prefixlen << 8 | dst.prefixlen
    for is_given in (selector.proto != UNSPEC_PROTO, src.port, dst.port):
        rank = rank << 1 | bool(is_given)
    return PRIORITY_DEF - 1 - rank


def _range(message: Message, flow_type: ExtType, mask_type: ExtType) -> Range:
    flow, mask = message.ext(flow_type), message.ext(mask_type)
    if not isinstance(flow, Address) or not isinstance(mask, Address):
        raise SadbError(EINVAL, f"{flow_type.name} and {mask_type.name} must both be there")
    octets = len(flow.address)
    if len(mask.address) != octets:
        raise SadbError(EINVAL, f"{flow_type.name} and {mask_type.name} are of two families")
    bits = int.from_bytes(mask.address, "big")
    prefixlen = bits.bit_count()
    if bits != ((1 << prefixlen) - 1) << (8 * octets - prefixlen):
        raise SadbError(EOPNOTSUPP, f"{ip_address(mask.address)} is no mask of a prefix")
    if mask.port not in (0, _PORT_MASK):
        raise SadbError(EOPNOTSUPP, f"{mask.port:#06x} selects a range of ports")
    address = (int.from_bytes(flow.address, "big") & bits).to_bytes(octets, "big")
    return Range(address, prefixlen, flow.port & mask.port)


def _protocol(message: Message, exttype: ExtType) -> Protocol:
    found = message.ext(exttype)
    if not isinstance(found, Protocol):
        raise SadbError(EINVAL, f"extension {exttype.name} must be there")
    return found


def _mask(ends: Range) -> tuple[bytes, int]:
    octets = len(ends.address)
    bits = ((1 << ends.prefixlen) - 1) << (8 * octets - ends.prefixlen)
    return bits.to_bytes(octets, "big"), _PORT_MASK if ends.port else 0


def _address(exttype: ExtType, address: bytes, port: int = 0) -> Address:
    return Address(exttype=exttype, address=address, prefixlen=8 * len(address), port=port)
