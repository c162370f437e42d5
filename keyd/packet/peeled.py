"""The layers that were taken off an inbound packet, and whether its policy asked for them.

RFC 4301 section 5.2. Each layer's protocol, mode, reqid and tunnel end points must be the
policy's; extra layers are refused. IPComp is another matter (RFC 3173 section 2.2): what did not
shrink comes without it, in transport mode as what it was, in tunnel mode as a packet in a packet.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keyd.model import PolicySpec, Request
from keyd.packet.association import InSa
from keyd.packet.ipcomp import WELL_KNOWN
from pfkey.const import IPPROTO_COMP, Level, Mode


class Peeled(NamedTuple):
    """One that was taken off.

    `bare` is an SA of IPComp in tunnel mode whose packet may be what came out, not shrunk: then
    the layer itself was one of transport mode.
    """

    sa: InSa
    is_tunnel: bool
    bare: InSa | None = None


def is_authentic(layers: Sequence[Peeled]) -> bool:
    """Whether anything vouches for what is left."""
    return any(layer.sa.has_authenticator for layer in layers)


def as_asked(policy: PolicySpec, layers: Sequence[Peeled]) -> bool:
    """Whether the layers, innermost first, are those of the policy and no others.

    A request of level `use` may be missing, and one of IPComp in transport mode. An SA of mode
    ANY carried what the packet was.
    """
    at = 0
    is_half = False  # a bare packet in a packet was seen, the layer around it not yet
    for request in policy.requests:
        layer = layers[at] if at < len(layers) else None
        if layer is not None and _serves(request, layer, is_half):
            at += 1
            is_half = False
        elif layer is not None and not is_half and _is_bare(request, layer):
            is_half = True
        elif request.level != Level.USE and not _may_be_missing(request):
            return False
    return at == len(layers) and not is_half


def _serves(request: Request, layer: Peeled, is_half: bool) -> bool:
    spec = layer.sa.spec
    if spec.proto != request.proto or request.reqid not in (0, spec.reqid):
        return False
    if is_half or not layer.is_tunnel:
        return spec.mode != Mode.TUNNEL and request.mode in (Mode.ANY, Mode.TRANSPORT)
    return (
        spec.mode != Mode.TRANSPORT
        and request.mode == Mode.TUNNEL
        and (request.src, request.dst) == (spec.src, spec.dst)
    )


def _is_bare(request: Request, layer: Peeled) -> bool:
    if layer.bare is None or request.proto != IPPROTO_COMP or request.mode != Mode.TUNNEL:
        return False
    spec = layer.bare.spec
    return request.reqid in (0, spec.reqid) and (request.src, request.dst) == (spec.src, spec.dst)


def _may_be_missing(request: Request) -> bool:
    return request.proto == IPPROTO_COMP and request.mode != Mode.TUNNEL


class Comps:
    """The inbound SAs of IPComp, by what a packet shows of them."""

    def __init__(self) -> None:
        self._by_slot: dict[int, InSa] = {}
        self._by_algorithm: dict[tuple[bytes, bytes, int], InSa] = {}
        self._tunnels: dict[tuple[bytes, bytes], InSa] = {}

    def insert(self, sa: InSa) -> None:
        """Put one in; the newest is found."""
        self._by_slot[sa.spec.slot] = sa
        self._index(sa)

    def remove(self, slot: int) -> None:
        """Take one out, if it is there."""
        if self._by_slot.pop(slot, None) is not None:
            self._by_algorithm.clear()
            self._tunnels.clear()
            for sa in self._by_slot.values():
                self._index(sa)

    def _index(self, sa: InSa) -> None:
        spec = sa.spec
        self._by_algorithm[spec.src, spec.dst, spec.encrypt] = sa
        if spec.mode in (Mode.ANY, Mode.TUNNEL):
            self._tunnels[spec.src, spec.dst] = sa

    def well_known(self, src: bytes, dst: bytes, cpi: int) -> InSa | None:
        """The SA that a well-known CPI means, which is the number of an algorithm."""
        return self._by_algorithm.get((src, dst, cpi)) if cpi < WELL_KNOWN else None

    def tunnel(self, src: bytes, dst: bytes) -> InSa | None:
        """The SA whose packets may come as packets in packets between these addresses."""
        return self._tunnels.get((src, dst))
