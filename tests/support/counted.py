"""What the tests that induce each counter share: SAs, policies, and what has moved."""

from array import array

from keyd.model import PolicySpec, Request, SaSpec
from keyd.packet import counters as count
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A, B
from tests.support.pipelines import AH, COMP, ESP, TRANSPORT, TUNNEL, G, H

# where an inbound packet can end
IN_ENDS = {row for rows in count.DROPS_OF.values() for row in rows.values()} | {
    count.IN_POLVIO, count.EXPIRED, count.SPOOFED, count.ND_REFUSED, count.HOLD_DROPPED,
    count.DUMMIES, count.NATT_ALIEN, count.NATT_KEEPALIVES_IN,
}  # fmt: skip
# and an outbound one that is not sent
OUT_ENDS = IN_ENDS | {
    count.FOREIGN, count.OUT_POLVIO, count.OUT_NOSA, count.OUT_INVAL, count.TUN_SHORT,
    count.ICMP_TOOBIG_SENT,
}  # fmt: skip
# what moves whatever becomes of a packet
TRAFFIC = {
    *count.INPUTS.values(), *count.OPENED.values(), count.SPDCACHELOOKUP, count.SPDCACHEMISS,
    count.ESP_OUTPUT, count.OBYTES, count.AH_OUTPUT, count.AH_OBYTES, count.IPCOMP_OUTPUT,
    count.IPCOMP_OBYTES, count.TUN_READS, count.TUN_SEGMENTS,
}  # fmt: skip
Keys = dict[str, object]
AH_KEYS: Keys = {"auth": 5, "auth_key": b"a" * 32}
ESP_KEYS: Keys = AH_KEYS | {"encrypt": 12, "encrypt_key": b"k" * 16}
COMP_KEYS: Keys = {"encrypt": 2}


def spec(spi: int, proto: int = ESP, src: bytes = A, dst: bytes = B, **more: object) -> SaSpec:
    keys = {ESP: ESP_KEYS, AH: AH_KEYS, COMP: COMP_KEYS}[proto]
    values: dict[str, object] = {
        "slot": spi, "proto": proto, "spi": spi, "src": src, "dst": dst, "mode": TRANSPORT,
        "replay_packets": 64, **keys, **more,
    }  # fmt: skip
    return SaSpec(**values)  # type: ignore[arg-type]


def policy(
    number: int, direction: Dir, src: bytes, dst: bytes, port: int = 0,
    kind: PolicyType = PolicyType.IPSEC, steps: tuple[tuple[int, Mode], ...] = (),
    level: Level = Level.REQUIRE, *, is_hold: bool = False,
) -> PolicySpec:  # fmt: skip
    return PolicySpec(
        id=number, dir=direction, type=kind, is_hold=is_hold, order=number,
        selector=Selector(
            Range(src, 8 * len(src)), Range(dst, 8 * len(dst), port), 17 if port else UNSPEC_PROTO
        ),
        requests=tuple(
            Request(
                proto=proto, mode=mode, level=level, src=G if mode == TUNNEL else None,
                dst=H if mode == TUNNEL else None,
            ) for proto, mode in steps
        ),
    )  # fmt: skip


def moved(before: "array[int]", after: "array[int]") -> dict[str, int]:
    return {
        "/".join(row): b - a
        for number, (row, a, b) in enumerate(zip(count.ROWS, before, after, strict=True))
        if a != b and number not in TRAFFIC
    }


def names(rows: set[int]) -> set[str]:
    return {"/".join(count.ROWS[row]) for row in rows}
