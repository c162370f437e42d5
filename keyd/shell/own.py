"""This host's own addresses, and what it says to itself.

The log tells why a host cannot speak to itself: a policy demands what cannot be had.

nft drops such packets and tells nobody when a counter grows, so it is looked at now and then, and
only while there is a policy that could drop one. A line names the packets and the policies.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from keyd.model import PolicySpec
from keyd.packet.own import catching, describe
from keyd.shell.log import limited

SECONDS = 2.0
COUNTERS = {"in_own": "in", "out_own": "out"}
_SHOWN = 3
_LOG = limited("keyd.own", burst=5, per_second=1 / 60)


def is_own(address: bytes) -> bool:
    """Whether packets to this address stay here, as routing has it now. Nothing is sent."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    text = str(ip_address(address))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((text, 9))
            return bool(probe.getsockname()[0] == text)
    except OSError:  # no route leads there, or there is no such family
        return False


class OwnDrops:
    """Compares nft's counters with what they were."""

    def __init__(self) -> None:
        self._seen = dict.fromkeys(COUNTERS, 0)

    def grown(self, counters: dict[str, int]) -> dict[str, int]:
        """How many packets each counter has more than at the last call, if any."""
        more = {name: counters.get(name, 0) - seen for name, seen in self._seen.items()}
        for name in COUNTERS:  # a table that was written anew begins at nought
            more[name] = counters.get(name, 0) if more[name] < 0 else more[name]
            self._seen[name] = counters.get(name, 0)
        return {name: packets for name, packets in more.items() if packets}


def report(more: dict[str, int], policies: Sequence[PolicySpec], addresses: list[bytes]) -> None:
    """Write the line: how many, in which direction, and under which policies."""
    ways = " ".join(f"{COUNTERS[name]}={packets}" for name, packets in more.items())
    wanted = set(more)
    candidates = [p for p in policies if f"{p.dir.name.lower()}_own" in wanted]
    found = catching(candidates, addresses, _SHOWN + 1)
    names = "; ".join(map(describe, found[:_SHOWN])) + ("; …" if len(found) > _SHOWN else "")
    _LOG.warning(
        "own-dropped %s policies=%s why=what a host sends to itself, to broadcast or multicast"
        " cannot be protected, so no key is asked for; a policy none before these lets it pass",
        ways, f'"{names}"',
    )  # fmt: skip
