"""What the pipelines cost per TCP segment, sans-IO, and what batches gain.

Prints one line of JSON: microseconds per segment, the best of seven interleaved rounds, with
aes-cbc and hmac-sha256. `out_super` reads super-packets of 64 KiB, `out_single` one segment at a
time; `in_batch` opens and joins 45 packets before it writes, `in_single` writes after each.
"""

import array
import json
import os
import struct
import sys
import timeit
from collections.abc import Callable
from itertools import cycle

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import counters
from keyd.packet.association import InSa, OutSa
from keyd.packet.inbound import Inbound
from keyd.packet.ip import rebuild
from keyd.packet.outbound import Outbound
from keyd.packet.segment import GSO_TCPV4, NEEDS_CSUM, PLAIN
from keyd.packet.trunk import Trunk
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector

ROUNDS = 7
MTU = 1500
A, B = bytes((10, 1, 1, 1)), bytes((20, 1, 1, 1))
SA = SaSpec(
    slot=0, proto=50, spi=256, src=A, dst=B, mode=Mode.TRANSPORT,
    encrypt=12, encrypt_key=bytes(16), auth=5, auth_key=bytes(32),
)  # fmt: skip
SINCE = (0, 0, 0)


def part() -> memoryview:
    return memoryview(array.array("Q", [1] + [0] * (counters.SA_WORDS - 1)))


def policy(direction: Dir) -> PolicySpec:
    request = Request(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE)
    return PolicySpec(
        id=1, dir=direction, type=PolicyType.IPSEC, requests=(request,),
        selector=Selector(Range(A, 32), Range(B, 32)),
    )  # fmt: skip


def counted() -> memoryview:
    return memoryview(array.array("Q", [0] * len(counters.ROWS)))


def numbered(frame: bytes) -> list[bytes]:
    """The same with a few TCP sequence numbers, one behind the other."""
    at = len(PLAIN) + 20 + 4
    return [frame[:at] + struct.pack("!I", 70000 * n) + frame[at + 4 :] for n in range(1, 9)]


def main() -> None:
    """Measure all four, the rounds interleaved so that a busy machine disturbs all alike."""
    out = Outbound(Trunk(counted(), lambda _: MTU, os.urandom, lambda _: True))
    out.update_policies([policy(Dir.OUT)], ())
    out.install(OutSa(SA, part(), SINCE))
    into = Inbound(counted(), lambda _: False)
    into.update_policies([policy(Dir.IN)], ())
    into.install(InSa(SA, part(), SINCE))
    data = struct.pack("!HHIIBBHHH", 4000, 80, 0, 0, 0x50, 0x10, 500, 0, 0) + os.urandom(64000)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 1, 0x4000, 64, 6, 0, A, B)
    virtio = struct.pack("=BBHHHH", NEEDS_CSUM, GSO_TCPV4, 40, 65000, 20, 16)
    whole = virtio + rebuild(head, 6, len(data)) + data
    out.process(whole, 1)
    sealed = out.batch.sealed[:]
    for packet in sealed:
        into.process(packet, 1)
    ((_, _, (_, header, first, *_)),) = into.flush()
    size = len(first)
    one = PLAIN + rebuild(head, 6, 20 + size) + bytes(header[20:]) + first
    # a sender that repeats itself is suspected to be in a black hole
    wholes, ones = cycle(numbered(whole)), cycle(numbered(one))

    def out_super() -> None:
        out.process(next(wholes), 1)
        out.batch.sealed.clear()

    def out_single() -> None:
        out.process(next(ones), 1)
        out.batch.sealed.clear()

    def in_batch() -> None:
        for packet in sealed:
            into.process(packet, 1)
        list(into.flush())

    def in_single() -> None:
        into.process(sealed[0], 1)
        list(into.flush())

    runs: dict[str, tuple[Callable[[], None], int]] = {
        "out_super": (out_super, len(sealed)),
        "out_single": (out_single, 1),
        "in_batch": (in_batch, len(sealed)),
        "in_single": (in_single, 1),
    }
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (call, segments) in runs.items():
            number = max(800 // segments, 5)
            each = timeit.timeit(call, number=number) / number / segments * 1e6
            best[name] = round(min(each, best.get(name, each)), 2)
    result = {
        "bench": "datapath",
        "unit": "microseconds per segment",
        "segment_octets": size,
        "python": sys.version.split()[0],
        "pipelines": best,
    }
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
