"""What a policy selects: address ranges, ports, upper protocol (RFC 4301 section 4.4.1.1).

Addresses are packed, in network order (4 or 16 octets); ports are plain numbers, 0 for any.
"""

from dataclasses import dataclass

from pfkey.const import UNSPEC_PROTO


@dataclass(frozen=True, slots=True)
class Range:
    """An address prefix and a port (0: any)."""

    address: bytes
    prefixlen: int
    port: int = 0

    def covers(self, address: bytes) -> bool:
        """Whether the first `prefixlen` bits of `address` are ours; host bits are ignored."""
        if len(address) != len(self.address):
            return False
        shift = 8 * len(address) - self.prefixlen
        return int.from_bytes(address, "big") >> shift == (
            int.from_bytes(self.address, "big") >> shift
        )


@dataclass(frozen=True, slots=True)
class Selector:
    """Source, destination and upper protocol (255: any)."""

    src: Range
    dst: Range
    proto: int = UNSPEC_PROTO

    @property
    def has_ports(self) -> bool:
        """Whether a port (or an ICMP type or code) takes part in the match."""
        return bool(self.src.port or self.dst.port)

    def matches(self, src: bytes, dst: bytes, proto: int, sport: int, dport: int) -> bool:
        """Whether a packet is selected; for ICMP pass type and code as the ports."""
        return (
            (self.proto in (UNSPEC_PROTO, proto))
            and self.src.port in (0, sport)
            and self.dst.port in (0, dport)
            and self.src.covers(src)
            and self.dst.covers(dst)
        )
