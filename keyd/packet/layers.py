"""A policy's bundle, outbound: one layer per SA, innermost first (RFC 4301 sections 4.4.2 and 5.1).

Packets go through the layers as a `Stream`: payloads behind one IP header, whose lengths,
checksums and IPv4 identifications (which count up) are filled in where somebody reads them. So a
super-packet's worth is sealed at one call, and a bundle costs no more headers than it has tunnels.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keyd.packet import ip, ip6
from keyd.packet.association import OutSa
from keyd.packet.ipcomp import Patience
from keyd.packet.segment import Payload


class Layer(NamedTuple):
    """An SA, and in tunnel mode the outer addresses; both empty in transport mode.

    `patience` is a flow's with an SA of IPComp.
    """

    sa: OutSa
    src: bytes = b""
    dst: bytes = b""
    patience: Patience | None = None

    @property
    def is_tunnel(self) -> bool:
        """Whether the whole packet becomes the payload of another."""
        return bool(self.src)


class Stream(NamedTuple):
    """Packets that differ in their payloads only."""

    header: bytes
    proto: int  # of the payloads
    payloads: Sequence[Payload]


class Chain:
    """The layers that a flow's packets get, innermost first, and what follows from them.

    Attributes:
        layers: none for packets that `use` lets out.
        has_tunnel: whether any of them is in tunnel mode.
        dst: where packets go after the last layer; empty for their own destination.
    """

    __slots__ = ("_asked", "_rooms", "dst", "has_tunnel", "layers")

    def __init__(self, layers: Sequence[Layer] = ()) -> None:
        self.layers = tuple(layers)
        self.has_tunnel = any(layer.is_tunnel for layer in self.layers)
        self.dst = b""
        for layer in self.layers:
            self.dst = layer.sa.spec.via or layer.dst or self.dst
        self._asked = (0, 0, 0)
        self._rooms: list[int] = []

    def rooms(self, header: bytes, mtu: int) -> list[int]:
        """Before each layer, the octets of the largest packet that fits `mtu` after the last.

        `header` is that of the packet before the first. A packet that cannot fit at all shows as
        a room smaller than its header.
        """
        octets, version = len(header), header[0] >> 4
        asked = (octets, version, mtu)
        if asked != self._asked:
            self._rooms, self._asked = self._measure(octets, version, mtu), asked
        return self._rooms

    def _measure(self, octets: int, version: int, mtu: int) -> list[int]:
        outer = []
        for layer in self.layers:
            if layer.is_tunnel:
                version = 4 if len(layer.src) == 4 else 6
                octets = ip.HEADER_MIN if version == 4 else ip6.HEADER_OCTETS
            outer.append((octets, version))
        found = []
        room = mtu
        for layer, (octets, version) in zip(reversed(self.layers), reversed(outer), strict=True):
            payload = layer.sa.max_payload(room - octets, version)
            room = payload if layer.is_tunnel else octets + payload
            found.append(room)
        return found[::-1]
