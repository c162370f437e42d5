"""NAT beside us: a chain of ours that comes before others' and leaves our packets as they are.

A masquerade rule that names no device would rewrite what goes into the TUN and what comes out of
it, which no policy selects then. nf_nat asks the chains of one hook in the order of their priority
and ends with the first that decides; to decide for the source that a packet has already is to
decide that nothing is rewritten. The chain is there only while somebody else has NAT: it switches
connection tracking on for the whole namespace.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keyd import doors
from keyd.shell.nft_rules import Frame

CHAIN = "as_it_is"
_PRIORITY = 99  # srcnat is 100
# of this thread's network namespace: iptables-legacy is no part of nft
_LEGACY = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")


def is_in_nft(chains: Iterable[dict[str, Any]], table: str) -> bool:
    """Whether a chain of nft's list of all chains is for NAT, and none of our table's."""
    mine = ("inet", table)
    return any(c.get("type") == "nat" and (c["family"], c["table"]) != mine for c in chains)


def is_in_legacy() -> bool:
    """Whether iptables-legacy has a table for NAT."""
    return any("nat" in _read(path).split() for path in _LEGACY)


def commands(frame: Frame, *, wanted: bool) -> list[str]:
    """What makes the chain stand, or go."""
    table = f"inet {frame.table}"
    if not wanted:
        return [f"flush chain {table} {CHAIN}", f"delete chain {table} {CHAIN}"]
    hook = f"type nat hook postrouting priority {_PRIORITY}; policy accept;"
    devices = f'"{doors.device(frame.device, doors.ANY)}"'
    return [f"add chain {table} {CHAIN} {{ {hook} }}"] + [
        f"add rule {table} {CHAIN} {whose} meta nfproto ipv{version} snat {ip} to {ip} saddr"
        for whose in (frame.is_protect, f"oifname {devices}", f"iifname {devices}", frame.is_ours)
        for version, ip in ((4, "ip"), (6, "ip6"))
    ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # this kernel has no such tables
        return ""
