"""By which door opened packets enter (`keyd.doors`), and what waits at each to be joined.

Sans-IO. The SPD's word is asked first. What it refuses, or what came out of a tunnel that it does
not name, may still be what a socket's policy asks for: such a packet enters by the door of that
policy's pair, and nft lets only its sockets have it. A pair that is not privileged is heard only
where the SPD says nothing.
"""

from collections.abc import Callable, Iterator

from keyd import doors
from keyd.model import PolicySpec
from keyd.packet.coalesce import Coalescer, Frame
from keyd.socket_pair import SocketPair


class Entrances:
    """The doors that are there; the main one always is."""

    def __init__(self) -> None:
        self._coalescers = {doors.MAIN: Coalescer()}
        self._pairs: dict[int, SocketPair] = {}

    def open(self, door: int, pair: SocketPair | None) -> None:
        """A door is there, which is that of a pair or, without one, one of `doors.ALL`."""
        self._coalescers[door] = Coalescer()
        if pair is not None and pair.opens:
            self._pairs[door] = pair

    def close(self, door: int) -> None:
        """It is gone, and with it what waits there."""
        self._coalescers.pop(door, None)
        self._pairs.pop(door, None)

    def of_spd(self, *, has_esp: bool, has_ah: bool) -> int:
        """The door for what the SPD lets in."""
        door = {
            (True, False): doors.MAIN,
            (True, True): doors.ESP_AH,
            (False, True): doors.AH,
            (False, False): doors.COMP,
        }[has_esp, has_ah]
        return door if door in self._coalescers else doors.MAIN

    def of_socket(
        self, is_asked_for: Callable[[PolicySpec], bool], *, is_spd_silent: bool
    ) -> tuple[int, PolicySpec] | None:
        """The door and policy for what the SPD does not let in; None: no socket's does either."""
        for door, pair in self._pairs.items():
            if (
                (pair.is_privileged or is_spd_silent)
                and pair.inward is not None
                and is_asked_for(pair.inward)
            ):
                return door, pair.inward
        return None

    def add(self, door: int, packet: bytes, flow: bytes, *, is_authentic: bool) -> None:
        """Let a packet wait at a door until `flush`."""
        self._coalescers[door].add(packet, flow, is_authentic)

    def flush(self) -> Iterator[tuple[int, int, Frame]]:
        """(door, segments in it, buffers for one writev) for each frame that waits."""
        for door, coalescer in self._coalescers.items():
            for segments, frame in coalescer.flush():
                yield door, segments, frame
