"""The data path of one host without engine, steering or PF_KEY: run inside a namespace.

    python -m tests.netns.datapath_host STATE_FILE

Reads lines of JSON from standard input: {"sas": […], "policies": […], "removed": […]} in the
form of `to_json`, {"counters": 1}, {"usage": slot}; answers each with one line. Traffic to the
addresses in "steer" goes to pfkey0.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
from typing import Any

import trio

from keyd.model import SaSpec
from keyd.shell.raw import open_raw
from keyd.shell.spawn import Worker
from keyd.shell.state import StateFile

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUN_VNET = 0x0001 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
_OFFLOADS = 0x01 | 0x02 | 0x20  # checksum, TSO4, USO4
_USO6 = 0x40
_STEERING = """
table ip steer {
    set protected { type ipv4_addr; }
    chain output {
        type route hook output priority mangle;
        meta mark and 0xff000000 == 0x4c000000 accept
        ip daddr @protected meta mark set 0x4b000000
    }
}
"""


def open_tun() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"pfkey0", _TUN_VNET))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS | _USO6)
    for args in (
        "link set pfkey0 mtu 65535 up",
        "rule add priority 75 fwmark 0x4b000000/0xff000000 lookup 7575",
        "route add default dev pfkey0 table 7575",
    ):
        subprocess.run(["ip", *args.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=_STEERING, text=True, check=True)
    return fd


async def answer(o: dict[str, Any], state: StateFile, workers: dict[str, Worker]) -> dict[str, Any]:
    for address in o.get("steer", ()):
        await trio.run_process(f"nft add element ip steer protected {{{address}}}".split())
    for worker in workers.values():
        for slot in o.get("removed", ()):
            worker.send({"op": "sa-", "slot": slot})
        for sa in o.get("sas", ()):
            record = state.bind(sa["slot"], SaSpec.from_json(sa))
            worker.send({"op": "sa+", "sa": sa, "record": record})
        if "policies" in o:
            worker.send(
                {
                    "op": "policy",
                    "added": o["policies"],
                    "removed": o.get("gone", []),
                    "more": False,
                }
            )
        await worker.flush()
    answer: dict[str, Any] = {"pids": {role: w.pid for role, w in workers.items()}}
    if "counters" in o:
        answer["counters"] = state.counters()
    if "usage" in o:
        usage = state.usage(o["usage"])
        answer["usage"] = [usage.packets, usage.octets]
    return answer


async def main(path: str) -> None:
    tun_fd = open_tun()
    state = StateFile.open(path)
    raw = open_raw()
    workers = {
        role: Worker(role, tun_fd=tun_fd, raw=raw, state=state, on_record=log)
        for role in ("out", "in")
    }
    async with trio.open_nursery() as nursery:
        for worker in workers.values():
            await worker.start()
            nursery.start_soon(worker.wait)
        print(json.dumps({"ready": True}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await answer(json.loads(line), state, workers)), flush=True)
        for worker in workers.values():
            worker.close()


def log(record: dict[str, Any]) -> None:
    print(record, file=sys.stderr, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
