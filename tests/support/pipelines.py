"""A sending and a receiving pipeline that share keys and policy, without any socket."""

import array
from collections.abc import Callable, Sequence

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import counters as count
from keyd.packet.association import InSa, OutSa
from keyd.packet.inbound import Inbound
from keyd.packet.outbound import Outbound
from keyd.packet.trunk import Trunk
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A6, B6, A, B, ipv4, ipv6

NOW = 1_700_000_000_000_000
G, H = bytes((30, 1, 1, 1)), bytes((40, 1, 1, 1))
G6, H6 = (bytes.fromhex("fd00" + "00" * 13 + f"{n:02x}") for n in (3, 4))
MTU = 1500
ESP, AH, COMP = 50, 51, 108
TRANSPORT, TUNNEL = Mode.TRANSPORT, Mode.TUNNEL

Step = tuple[int, Mode, bytes, bytes]  # protocol, mode, ends of the SA


def sa(slot: int, step: Step) -> SaSpec:
    proto, mode, src, dst = step
    if proto == COMP:
        return SaSpec(
            slot=slot, proto=proto, spi=1000 + slot, src=src, dst=dst, mode=mode, encrypt=2
        )
    return SaSpec(
        slot=slot, proto=proto, spi=1000 + slot, src=src, dst=dst, mode=mode, auth=5,
        auth_key=b"a" * 32, encrypt=12 if proto == ESP else 0,
        encrypt_key=b"k" * 16 if proto == ESP else b"", replay_packets=64,
    )  # fmt: skip


def policy(
    steps: Sequence[Step], direction: Dir, src: bytes, dst: bytes, level: Level = Level.REQUIRE
) -> PolicySpec:
    return PolicySpec(
        id=1 + direction, dir=direction, type=PolicyType.IPSEC,
        selector=Selector(Range(src, 8 * len(src)), Range(dst, 8 * len(dst)), UNSPEC_PROTO),
        requests=tuple(
            Request(
                proto=proto, mode=mode, level=level, src=one if mode == TUNNEL else None,
                dst=other if mode == TUNNEL else None,
            ) for proto, mode, one, other in steps
        ),
    )  # fmt: skip


def part(edge: int, packets: int = 0) -> memoryview:
    """An SA's part of the state file: the edge, what was counted, zeros."""
    return memoryview(array.array("Q", [edge, packets, *[0] * (count.SA_WORDS - 2)]))


class Pair:
    """A sender and a receiver that share keys and the policy."""

    def __init__(
        self,
        steps: Sequence[Step],
        src: bytes,
        dst: bytes,
        mtu: int = MTU,
        make: Callable[[int, Step], SaSpec] = sa,
    ) -> None:
        self.out_values = array.array("Q", [0] * len(count.ROWS))
        self.in_values = array.array("Q", [0] * len(count.ROWS))
        chance = iter(range(1, 1 << 30))
        self.out = Outbound(Trunk(
            memoryview(self.out_values), lambda _: mtu,
            lambda n: next(chance).to_bytes(8, "big").rjust(n, b"i")[:n] if n != 2 else b"\x10\0",
            lambda address: address in (A, A6),
        ))  # fmt: skip
        self.into = Inbound(memoryview(self.in_values), lambda address: address in (B, B6, H, H6))
        self.out.update_policies([policy(steps, Dir.OUT, src, dst)], ())
        self.into.update_policies([policy(steps, Dir.IN, src, dst)], ())
        for slot, step in enumerate(steps):
            self.out.install(OutSa(make(slot, step), part(1), (0, 0, 0)))
            self.into.install(InSa(make(slot, step), part(0), (0, 0, 0)))

    def send(self, octets: bytes) -> list[bytes]:
        """What is on the wire."""
        self.out.process(octets, NOW)
        batch = self.out.batch
        packets = batch.sealed + batch.sealed6
        batch.sealed.clear()
        batch.sealed6.clear()
        return packets

    def receive(self, packets: Sequence[bytes]) -> list[bytes]:
        """What is written to the TUN device, virtio header and all."""
        for packet in packets:
            self.into.process(packet, NOW)
        return [b"".join(buffers) for _, _, buffers in self.into.flush()]

    def dropped(self) -> dict[tuple[str, str], int]:
        return {row: n for row, n in zip(count.ROWS, self.in_values, strict=True) if n}


def joined(written: Sequence[bytes]) -> bytes:
    """The TCP data of what was written, whatever it was joined to."""
    data = b""
    for octets in written:
        packet = octets[10:]
        at = 40 if packet[0] >> 4 == 6 else 20
        data += packet[at + 20 :]
    return data


def whole(src: bytes, dst: bytes, proto: int, payload: bytes, *, df: bool = True) -> bytes:
    if len(src) == 16:
        return ipv6(proto, payload, src, dst)
    return ipv4(proto, payload, src=src, dst=dst, df=df)
