"""Processes whose sockets all have the same policies: a control group and a pair."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SocketGroup:
    """`level` is how deep the group lies in the unified hierarchy, `path` where nft finds it."""

    pair: int
    level: int
    path: str
