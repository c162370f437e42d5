"""What the outbound pipelines have in common: SAs, what is known of their ways, and all bounds.

One pipeline is the SPD's, and each policy of sockets has one of its own (`keyd.packet.branches`):
the same addresses and ports mean another policy there. What waits in them is bounded together, so
that more policies do not mean more memory.
"""

from collections.abc import Callable
from typing import Protocol

from keyd.model import Settings
from keyd.packet import counters as count
from keyd.packet.association import OutSa
from keyd.packet.fragments import Fragments
from keyd.packet.icmp import PathMtu
from keyd.packet.keepalives import Keepalives
from keyd.packet.outsad import OutSad
from keyd.packet.protect import Protector
from keyd.packet.tallies import Tallies
from keyd.packet.troubles import Troubles
from keyd.packet.waiting import Room

_MTU_MIN = 128  # what is cut for less would be mostly header


class Pipeline(Protocol):
    """What a pipeline is told of changes."""

    def stir(self, src: bytes, dst: bytes) -> None:
        """There is another SA between these addresses."""

    def forget_flows(self) -> None:
        """There is one less, or settings are others."""

    def follow(self, settings: Settings) -> None:
        """Settings are others."""


class Trunk:
    """All of it.

    Args:
        counters: u64s in the order of `keyd.packet.counters.ROWS`.
        link_mtu: the MTU of the link towards a packed destination address.
        random: so many unforeseeable octets.
        is_local: whether a packed address is one of this host's own.

    Attributes:
        pipelines: those that are told of changes.
        now: seconds; of the packet at hand.
    """

    def __init__(
        self,
        counters: memoryview,
        link_mtu: Callable[[bytes], int],
        random: Callable[[int], bytes],
        is_local: Callable[[bytes], bool],
    ) -> None:
        self.counters = counters
        self.link_mtu = link_mtu
        self.is_local = is_local
        self.now = 0.0
        self.settings = Settings()
        self.pipelines: list[Pipeline] = []
        self.sad = OutSad()
        self.paths = PathMtu()
        self.troubles = Troubles()
        self.keepalives = Keepalives(is_local)
        self.tallies = Tallies()
        self.room = Room()
        self.fragments = Fragments(self._give_up)
        self.protector = Protector(counters, self.mtu, link_mtu, random, is_local)

    def mtu(self, dst: bytes) -> int:
        """Of the way to an address, as far as it is known."""
        return max(self.paths.limit(dst, self.link_mtu(dst), self.now), _MTU_MIN)

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self._take_out(sa.spec.slot)
        self.sad.install(sa)
        self.keepalives.insert(sa)
        for one in self.pipelines:
            one.stir(sa.spec.src, sa.spec.dst)

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        self._take_out(slot)
        for one in self.pipelines:
            one.forget_flows()

    def _take_out(self, slot: int) -> None:
        self.sad.remove(slot)
        self.keepalives.remove(slot)
        self.troubles.forget(slot)

    def tune(self, settings: Settings) -> None:
        """Follow a change of what the engine says beside SAs and policies."""
        self.settings = settings
        self.sad.tune(settings)
        self.protector.tune(settings)
        for one in self.pipelines:
            one.follow(settings)

    def _give_up(self, fragments: int) -> None:
        self.counters[count.FRAG_DROPPED] += fragments
