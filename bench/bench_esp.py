"""What ESP costs per packet of 1400 octets, and what the long-lived CBC context saves.

Prints one line of JSON: microseconds per packet, the best of seven interleaved rounds. `seal_many`
is a batch of 44 packets, a super-packet of 64 KiB; `seal_fresh` makes the SA anew for each packet,
cipher contexts and keyed HMAC included: what `seal_one` would cost without anything kept.
"""

import json
import os
import sys
import timeit
from collections.abc import Callable

from keyd.model import SaSpec
from keyd.packet.esp import EspSa
from pfkey import algorithms
from pfkey.const import IPPROTO_ESP, Mode

PAYLOAD_OCTETS = 1400
BATCH = 44
ROUNDS = 7
SUITES = (
    ("3des-cbc", 192, "hmac-sha1"),
    ("aes-cbc", 128, "hmac-sha1"),
    ("aes-cbc", 128, "hmac-sha256"),
    ("aes-cbc", 256, "hmac-sha512"),
    ("null", 0, "hmac-sha256"),
)


def sa_of(encrypt: str, bits: int, auth: str) -> EspSa:
    enc, mac = algorithms.by_name("encrypt", encrypt), algorithms.by_name("auth", auth)
    assert enc
    assert mac
    spec = SaSpec(
        slot=0, proto=IPPROTO_ESP, spi=0x1000, src=bytes(4), dst=bytes(4), mode=Mode.TRANSPORT,
        encrypt=enc.number, encrypt_key=bytes(range(bits // 8)),
        auth=mac.number, auth_key=bytes(range(mac.min_bits // 8)),
    )  # fmt: skip
    return EspSa(spec)


def runs_of(suite: tuple[str, int, str]) -> dict[str, tuple[Callable[[], object], int]]:
    """Name → (what to time, how many packets it does)."""
    sa = sa_of(*suite)
    payload = os.urandom(PAYLOAD_OCTETS)
    batch = [payload] * BATCH
    iv, ivs = os.urandom(sa.iv_octets), os.urandom(sa.iv_octets * BATCH)
    sealed = sa.seal(1, payload, 6, iv)
    return {
        "seal_one": (lambda: sa.seal(1, payload, 6, iv), 1),
        "seal_many": (lambda: sa.seal_many(1, batch, 6, ivs), BATCH),
        "seal_fresh": (lambda: EspSa(sa.spec).seal(1, payload, 6, iv), 1),
        "open": (lambda: sa.open(sealed), 1),
    }


def main() -> None:
    """Measure every suite, the rounds interleaved so that a busy machine disturbs all alike."""
    runs = {f"{enc}-{bits}+{auth}": runs_of((enc, bits, auth)) for enc, bits, auth in SUITES}
    best: dict[str, dict[str, float]] = {suite: {} for suite in runs}
    for _ in range(ROUNDS):
        for suite, named in runs.items():
            for name, (call, packets) in named.items():
                number = max(400 // packets, 5)
                each = timeit.timeit(call, number=number) / number / packets * 1e6
                best[suite][name] = round(min(each, best[suite].get(name, each)), 2)
    result = {
        "bench": "esp",
        "unit": "microseconds per packet",
        "payload_octets": PAYLOAD_OCTETS,
        "python": sys.version.split()[0],
        "suites": best,
    }
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
