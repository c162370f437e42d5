"""Extensions of one 32-bit number: FreeBSD's and OpenBSD's, and the replay window of our own.

Byte order: host.
"""

from dataclasses import dataclass
from typing import Self

from pfkey.base import check_extension
from pfkey.codec import U16, U32, Format
from pfkey.const import ExtType
from pfkey.dialect import LINUX, Dialect


def _format(name: str, field: str, variant: str = "") -> Format:
    return Format(name, "len" / U16, "exttype" / U16, field / U32, variant=variant)


SADB_X_REPLAY_WINDOW = _format("sadb_x_replay_window", "packets")
SADB_X_SA_REPLAY = _format("sadb_x_sa_replay", "replay")
SADB_X_POLICY_OPENBSD = _format("sadb_x_policy", "seq", "openbsd")
SADB_X_TAP = _format("sadb_x_tap", "unit")
SADB_X_MTU = _format("sadb_x_mtu", "mtu")
# The layout and its field.
FORMATS = {
    int(ExtType.X_REPLAY_WINDOW): (SADB_X_REPLAY_WINDOW, "packets"),
    int(ExtType.X_SA_REPLAY): (SADB_X_SA_REPLAY, "replay"),
    int(ExtType.X_OPENBSD_POLICY): (SADB_X_POLICY_OPENBSD, "seq"),
    int(ExtType.X_TAP): (SADB_X_TAP, "unit"),
    int(ExtType.X_MTU): (SADB_X_MTU, "mtu"),
}
_TYPES = frozenset(FORMATS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A number: what it means is the extension's type.

    - X_REPLAY_WINDOW, ours: the window in packets where sadb_sa_replay cannot say it;
    - X_SA_REPLAY (FreeBSD): the same;
    - X_OPENBSD_POLICY: the sequence number of the ACQUIRE that an ASKPOLICY is about;
    - X_TAP (OpenBSD): the unit of the enc(4) that shows the SA's packets;
    - X_MTU (OpenBSD): the path MTU that the SA knows.
    """

    exttype: int
    value: int

    @classmethod
    def decode(cls, octets: bytes, at: int = 0, dialect: Dialect = LINUX) -> Self:
        """Read exactly 8 octets; `at` is their offset in the message.

        Raises:
            WireError: wrong length or type.
        """
        exttype = check_extension(SADB_X_TAP, octets, at, _TYPES, dialect, is_fixed=True)
        fmt, field = FORMATS[exttype]
        return cls(exttype=exttype, value=fmt.parse(octets, at)[field])

    def encode(self, dialect: Dialect = LINUX) -> bytes:
        """Build the 8 octets. A field out of range raises WireError."""
        fmt, field = FORMATS[self.exttype]
        values = {"len": 1, "exttype": dialect.exttype(self.exttype), field: self.value}
        return fmt.build(**values)
