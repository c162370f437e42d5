"""Flows of OpenBSD, which has these instead of policies, in the words of ipsecctl(8).

A flow is a message with SRC_FLOW and DST_FLOW, their masks, PROTOCOL and FLOW_TYPE; SRC and DST
are the local and the remote end of the tunnel.
"""

from pfkey import protocols
from pfkey.const import ExtType, FlowType, SaType
from pfkey.dialect import digits
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_x_bsd import Protocol
from pfkey.message import Message

_DIRECTIONS = {1: "in", 2: "out"}
_SATYPES: dict[int, str] = {
    SaType.AH: "ah",
    SaType.ESP: "esp",
    SaType.X_IPCOMP: "ipcomp",
    SaType.X_IPIP: "ipip",
}


def is_flow(record: Message) -> bool:
    """Whether the message carries a flow."""
    return record.ext(ExtType.X_SRC_FLOW) is not None


def _address(record: Message, exttype: int) -> Address | None:
    found = record.ext(exttype)
    return found if isinstance(found, Address) else None


def _protocol(record: Message, exttype: int) -> Protocol | None:
    found = record.ext(exttype)
    return found if isinstance(found, Protocol) else None


def network(flow: Address, mask: Address | None) -> str:
    """`10.0.0.0/24`, or both in full where the mask is no prefix; a full mask is left out."""
    if mask is None or len(mask.address) != len(flow.address):
        return flow.text
    bits = "".join(f"{octet:08b}" for octet in mask.address)
    ones = bits.rstrip("0")
    if "0" in ones:
        return f"{flow.text} mask {mask.text}"
    return flow.text if len(ones) == len(bits) else f"{flow.text}/{len(ones)}"


def _end(record: Message, flow_type: int, mask_type: int) -> str:
    flow, mask = _address(record, flow_type), _address(record, mask_type)
    if flow is None:
        return "?"
    text = network(flow, mask)
    if flow.port and mask is not None and mask.port not in (0, 0xFFFF):
        return f"{text} port {flow.port} mask {mask.port:#06x}"
    return f"{text} port {flow.port}" if flow.port else text


def _identity(record: Message, exttype: int) -> str:
    found = record.ext(exttype)
    return found.text.decode("ascii", "backslashreplace") if isinstance(found, Ident) else ""


def flow(record: Message) -> str:
    """`flow esp out proto tcp from 10.0.0.0/24 to 10.1.0.0/16 local … peer … type require`."""
    kind = _protocol(record, ExtType.X_FLOW_TYPE)
    upper = _protocol(record, ExtType.X_PROTOCOL)
    words = ["flow"]
    if record.satype:
        words.append(_SATYPES.get(record.satype) or digits(record.satype))
    if kind is not None and kind.direction:
        words.append(_DIRECTIONS.get(kind.direction, str(kind.direction)))
    if upper is not None and upper.proto:
        words += ["proto", protocols.name(upper.proto)]
    words += ["from", _end(record, ExtType.X_SRC_FLOW, ExtType.X_SRC_MASK)]
    words += ["to", _end(record, ExtType.X_DST_FLOW, ExtType.X_DST_MASK)]
    for word, end in (("local", record.src), ("peer", record.dst)):
        words += [word, end.text] if end is not None and any(end.address) else []
    for word, exttype in (("srcid", ExtType.IDENTITY_SRC), ("dstid", ExtType.IDENTITY_DST)):
        identity = _identity(record, exttype)
        words += [word, identity] if identity else []
    if kind is not None:
        named = {int(number): number.name.lower() for number in FlowType}
        words += ["type", named.get(kind.proto, str(kind.proto))]
    return " ".join(words) + "\n"
