"""What was dropped just now, and why, in words: for net.inet.ipsec.debug."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from keyd.packet import counters as count
from keyd.packet import datagram


def drops(before: Sequence[int], after: Sequence[int], packet: bytes) -> Iterator[str]:
    """A line for each reason whose counter grew while a packet was handled."""
    for row in count.DROPS:
        if (packets := after[row] - before[row]) > 0:
            group, reason = count.ROWS[row]
            yield f"dropped={packets} group={group} reason={reason} {describe(packet)}"


def describe(packet: bytes) -> str:
    """Addresses, protocol and length of what may be a packet."""
    head = datagram.read(packet)
    if head is None:
        return f"octets={len(packet)}"
    src, dst = ip_address(head.src), ip_address(head.dst)
    return f"src={src} dst={dst} proto={head.proto} octets={head.total}"
