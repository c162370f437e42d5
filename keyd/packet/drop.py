"""Why a packet is dropped: a value, never an exception.

Each member's value is the name of its counter in the group `esp` of
`specs/tables/counters.toml`, which says in words when it grows.
"""

from enum import Enum


class Drop(Enum):
    """A reason to drop a packet; `Drop(...).value` is its counter."""

    HDROPS = "hdrops"
    NOPF = "nopf"
    NOTDB = "notdb"
    BADKCR = "badkcr"
    QFULL = "qfull"
    NOXFORM = "noxform"
    BADILEN = "badilen"
    BADENC = "badenc"
    BADAUTH = "badauth"
    WRAP = "wrap"
    REPLAY = "replay"
    INVALID = "invalid"
    TOOBIG = "toobig"
    PDROPS = "pdrops"
    CRYPTO = "crypto"
    TUNNEL = "tunnel"

    @property
    def group(self) -> str:
        """The counter's group."""
        return "esp"
