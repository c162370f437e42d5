"""What 10,000 policies cost a packet: of a flow that is known, of a new one, and in the kernel.

Prints one line of JSON, microseconds, the best of interleaved rounds. `known` and `new` are the
outbound pipeline's share: what it does before sealing, for a flow in its cache and for one whose
policy and SA it must find; `new` has a target of 100, and the exit status is 1 where it is missed.
Shapes: `hosts` are pairs of hosts; `mixed` are networks of many prefix lengths, with protocols and
ports, so that a search looks in many tables. `kernel` (as root) is one sendto of a datagram that no
policy selects, which so passes every rule.
"""

import array
import itertools
import json
import os
import random
import socket
import sys
import timeit
from collections.abc import Callable, Iterator
from dataclasses import replace

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import segment
from keyd.packet.association import OutSa
from keyd.packet.counters import EDGE, ROWS, SA_WORDS
from keyd.packet.outbound import Outbound
from keyd.packet.trunk import Trunk
from keyd.shell.steer import Steer
from pfkey.const import IPPROTO_ESP, UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.lab.hosts import Net
from pfkey.lab.wire import in_host
from pfkey.selector import Range, Selector

SIZES = (1, 100, 10_000)
TARGET_MICROSECONDS = 100
ROUNDS = 25
SA_SRC, SA_DST = bytes((10, 0, 0, 1)), bytes((20, 0, 0, 1))
REQUEST = Request(proto=IPPROTO_ESP, mode=Mode.TUNNEL, level=Level.REQUIRE, src=SA_SRC, dst=SA_DST)


def policy(number: int, selector: Selector) -> PolicySpec:
    return PolicySpec(
        id=number + 1, dir=Dir.OUT, type=PolicyType.IPSEC, selector=selector, order=number,
        requests=(REQUEST,),
    )  # fmt: skip


def hosts(size: int) -> list[PolicySpec]:
    def end(first: int, n: int) -> Range:
        return Range(bytes((first, n >> 16 & 255, n >> 8 & 255, n & 255)), 32, 0)

    return [policy(n, Selector(end(11, n), end(21, n), UNSPEC_PROTO)) for n in range(size)]


def mixed(size: int) -> list[PolicySpec]:
    chance = random.Random(1)  # noqa: S311

    def end(first: int) -> Range:
        octets = bytes((first, chance.randrange(256), chance.randrange(256), chance.randrange(256)))
        return Range(octets, chance.choice((16, 20, 22, 24, 26, 28, 30, 32)),
                     chance.choice((0, 0, 0, 443)))  # fmt: skip

    return [
        policy(n, Selector(end(11), end(21), chance.choice((UNSPEC_PROTO, 6, 17))))
        for n in range(size)
    ]


SHAPES = {"hosts": hosts, "mixed": mixed}


def pipeline(policies: list[PolicySpec]) -> Outbound:
    counters = memoryview(array.array("Q", bytes(8 * len(ROWS))))
    part = memoryview(array.array("Q", bytes(8 * SA_WORDS)))
    part[EDGE] = 1
    made = Outbound(Trunk(counters, lambda _: 1500, os.urandom, lambda _: False))
    spec = SaSpec(slot=0, proto=IPPROTO_ESP, spi=0x1000, src=SA_SRC, dst=SA_DST, mode=Mode.TUNNEL,
                  encrypt=12, encrypt_key=bytes(16), auth=3, auth_key=bytes(20))  # fmt: skip
    made.install(OutSa(spec, part, (0, 0, 0)))
    made.update_policies(policies, ())
    return made


def frames(policies: list[PolicySpec]) -> Iterator[segment.Frame]:
    """First packets of ever new flows, each of some policy's or of none."""
    chance = random.Random(2)  # noqa: S311
    for port in itertools.cycle(range(1, 65536)):
        s = chance.choice(policies).selector
        head = bytes((0x45, 0, 0, 28)) + bytes(4) + bytes((64, s.proto if s.proto != 255 else 17))
        ports = port.to_bytes(2, "big") + (s.dst.port or 9).to_bytes(2, "big")
        packet = head + bytes(2) + s.src.address + s.dst.address + ports + bytes((0, 8, 0, 0))
        frame = segment.read(segment.PLAIN + packet)
        assert frame
        yield frame


def paths() -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (what to time, how many packets it does)."""
    runs: dict[str, tuple[Callable[[], object], int]] = {}
    for (shape, make), size in itertools.product(SHAPES.items(), SIZES):
        policies = make(size)
        path, fresh = pipeline(policies), list(itertools.islice(frames(policies), 500))

        def known(path: Outbound = path, frame: segment.Frame = fresh[0]) -> None:
            for _ in range(500):
                path._flow(frame)

        def new(path: Outbound = path, fresh: list[segment.Frame] = fresh) -> None:
            path._flows.clear()
            for frame in fresh:
                path._flow(frame)

        runs[f"{shape} known {size}"] = known, 500
        runs[f"{shape} new {size}"] = new, 500
    return runs


def measured(runs: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (call, packets) in runs.items():
            each = timeit.timeit(call, number=1) / packets * 1e6
            best[name] = round(min(each, best.get(name, each)), 2)
    return best


def kernel() -> dict[str, float]:
    """One sendto past all rules, by how many policies there are."""
    with Net() as net:
        a, b = net.host("a"), net.host("b")
        net.link(a, "30.1.1.1/32", b, "30.1.1.2/32")
        steer = Steer(bypass_uid=54321)
        in_host(a, steer.open)
        sender = in_host(a, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        best: dict[str, float] = {}
        try:
            for size in SIZES:
                policies = tuple(replace(p) for p in hosts(size))
                in_host(a, lambda policies=policies: steer.commit(policies, (), ()))  # type: ignore[misc]
                for _ in range(ROUNDS):
                    call = "sender.sendto(b'x', ('30.1.1.2', 9))"
                    each = timeit.timeit(call, number=200, globals={"sender": sender}) / 200 * 1e6
                    best[str(size)] = round(min(each, best.get(str(size), each)), 2)
        finally:
            sender.close()
            in_host(a, lambda: steer.close(hold=False))
    return best


def main() -> int:
    """Measure; the exit status says whether the target is met."""
    best = measured(paths())
    new = {name: each for name, each in best.items() if " new " in name}
    result = {
        "bench": "policies",
        "unit": "microseconds per packet",
        "python": sys.version.split()[0],
        "target_new": TARGET_MICROSECONDS,
        "is_met": max(new.values()) < TARGET_MICROSECONDS,
        "paths": best,
        "kernel": kernel() if os.geteuid() == 0 else None,
    }
    print(json.dumps(result))
    return 0 if result["is_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
