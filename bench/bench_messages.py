"""What a PF_KEY message costs: by its extensions and as a frequent record, in each dialect.

Prints one line of JSON: microseconds a message, the best of fifteen interleaved rounds, and for
each dialect the ratio to Linux's. `add` and `spdadd` are requests, `dump` a record of the SAD, all
read and built by way of their extensions; `sa_record` and `policy_record` are the dumps' own
forms. OpenBSD has no policies.
"""

import json
import sys
import timeit
from collections.abc import Callable
from dataclasses import replace

from pfkey import algorithms, policy
from pfkey.const import ExtType, KameFlag, Mode, MsgType, SaState, SaType
from pfkey.dialect import DIALECTS, Dialect
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.hot import PolicyRecord, SaRecord
from pfkey.hot_parts import Place
from pfkey.message import Message

ROUNDS = 15
CALLS = 200
HERE, THERE = Place(bytes([10, 1, 1, 1]), 32), Place(bytes([20, 1, 1, 1]), 32)
KEY = bytes(range(16))
POLICY = "out ipsec esp/tunnel/20.0.0.1-20.0.0.2/unique:12"
RECORD = SaRecord(
    satype=SaType.ESP, spi=0x1000, src=HERE, dst=THERE, replay=32, state=SaState.MATURE,
    hard=(0, 0, 3600, 0), current=(5, 500, 1700000000, 1700000010), encrypt_bits=128,
    encrypt_key=KEY, mode=Mode.TRANSPORT, reqid=7,
)  # fmt: skip


def number(kind: str, name: str) -> int:
    row = algorithms.by_name(kind, name)
    assert row
    return row.number


def requests(dialect: Dialect) -> dict[str, Message]:
    """An ADD, an SPDADD and a DUMP record as values."""
    aes = number("encrypt", "aes-cbc")
    flags = KameFlag.CYCSEQ if dialect.has_policies else 0
    ends = (
        Address(exttype=ExtType.ADDRESS_SRC, **HERE._asdict()),
        Address(exttype=ExtType.ADDRESS_DST, **THERE._asdict()),
    )
    second = (Sa2(mode=Mode.TRANSPORT),) if dialect.has_policies else ()
    key = Key(exttype=ExtType.KEY_ENCRYPT, bits=128, key=KEY)
    sa = Sa(spi=0x1000, replay=32, encrypt=aes, flags=flags)
    add = Message(type=MsgType.ADD, satype=SaType.ESP, pid=77, extensions=(key, sa, *second, *ends))
    found = {"add": add, "dump": replace(RECORD._replace(encrypt=aes).message(dialect))}
    if dialect.has_policies:
        parsed = policy.parse(POLICY, dialect)
        found["spdadd"] = Message(type=MsgType.X_SPDADD, pid=77, extensions=(parsed, *ends))
    return found


def runs_of(dialect: Dialect) -> dict[str, Callable[[], object]]:
    """Name → what to time."""
    runs: dict[str, Callable[[], object]] = {}
    for name, message in requests(dialect).items():
        octets = message.encode(dialect)
        runs[f"{name}_build"] = lambda message=message: message.encode(dialect)
        runs[f"{name}_read"] = lambda octets=octets: Message.decode(octets, dialect)
    record = RECORD._replace(encrypt=number("encrypt", "aes-cbc"))
    encoded = record.encode(dialect)
    runs["sa_record_build"] = lambda: record.encode(dialect)
    runs["sa_record_read"] = lambda: SaRecord.decode(encoded, dialect)
    if dialect.has_policies:
        parsed = policy.parse(POLICY, dialect)
        entry = PolicyRecord(
            HERE, THERE, parsed.type, parsed.dir, 16, parsed.priority, parsed.requests
        )
        told = entry.encode(dialect)
        runs["policy_record_build"] = lambda: entry.encode(dialect)
        runs["policy_record_read"] = lambda: PolicyRecord.decode(told, dialect)
    return runs


def main() -> None:
    """Measure every dialect, the rounds interleaved so that a busy machine disturbs all alike."""
    runs = {name: runs_of(dialect) for name, dialect in DIALECTS.items()}
    best: dict[str, dict[str, float]] = {name: {} for name in runs}
    for _ in range(ROUNDS):
        for dialect, named in runs.items():
            for name, call in named.items():
                each = timeit.timeit(call, number=CALLS) / CALLS * 1e6
                best[dialect][name] = min(each, best[dialect].get(name, each))
    linux = best["linux"]
    result = {
        "bench": "messages",
        "unit": "microseconds per message",
        "python": sys.version.split()[0],
        "linux": {name: round(each, 2) for name, each in linux.items()},
        "times_linux": {
            dialect: {name: round(each / linux[name], 2) for name, each in named.items()}
            for dialect, named in best.items()
            if dialect != "linux"
        },
    }
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
