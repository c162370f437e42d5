"""IPComp: RFC 3173, with DEFLATE (RFC 2394). Octets in, octets out, for one SA. Network order.

    next header 1 | flags 1, zero | CPI 2 | compressed payload

What does not shrink is sent without this header (section 2.2), and so is what is too short to.
There is neither key nor sequence number: nothing vouches for what comes out, and it may be large
(`open` makes no more than a packet can hold).
"""

from struct import Struct

from keyd.model import SaSpec
from keyd.packet.drop import Drop
from pfkey import crypto
from pfkey.const import KameFlag

Octets = bytes | bytearray | memoryview
Opened = tuple[int, memoryview]

HEADER_OCTETS = 4
LEAST_OCTETS = 90  # shorter payloads are not tried, as everybody does
WELL_KNOWN = 256  # CPIs below are IANA's, the algorithms' own numbers (section 3.3)
PATIENCE_MAX = 256  # packets of a flow that pass untried between two attempts
_HEADER = Struct("!BBH")
_RAWCPI = int(KameFlag.RAWCPI)


def peek(octets: Octets) -> tuple[int, int] | None:
    """(CPI, 0) of what may be an IPComp packet; None when it is too short."""
    if len(octets) < HEADER_OCTETS:
        return None
    return _HEADER.unpack_from(octets)[2], 0


class CompSa:
    """One SA, ready to seal or to open. Not for two threads.

    DEVIATION from KAME, which sends the algorithm's number for a CPI unless a flag says that it
    is the SPI: we send the SPI wherever it can be a CPI that was agreed on, as Linux does; KAME's
    systems find the SA by either (test_the_cpi_is_the_spi_where_that_can_be_one).

    Attributes:
        cpi: what is sent.

    Raises:
        CryptoError: this machine cannot do the algorithm.
    """

    __slots__ = ("_algorithm", "cpi", "spec")

    def __init__(self, spec: SaSpec) -> None:
        self.spec = spec
        self._algorithm = crypto.compression(spec.encrypt)
        is_agreed = spec.spi >= WELL_KNOWN or spec.flags & _RAWCPI
        self.cpi = spec.spi & 0xFFFF if is_agreed else spec.encrypt

    def __repr__(self) -> str:
        return f"CompSa({self.spec!r})"

    def seal(self, payload: Octets, next_header: int) -> bytes | None:
        """The IPComp packet; None when it would not be shorter."""
        octets = self._algorithm.compress(payload)
        if len(octets) + HEADER_OCTETS >= len(payload):
            return None
        return _HEADER.pack(next_header, 0, self.cpi) + octets

    def open(self, octets: Octets, limit: int) -> Opened | Drop:
        """(next header, payload) of an IPComp packet, or why it is none. Never raises.

        `limit`: the octets that the payload may have at most. The flags are ignored (3.3).
        """
        if len(octets) < HEADER_OCTETS:
            return Drop.HDROPS
        plain = self._algorithm.decompress(memoryview(octets)[HEADER_OCTETS:], limit)
        if plain is None:
            return Drop.CRYPTO
        return octets[0], memoryview(plain)


class Patience:
    """Which packets of a flow are worth trying: none for a while after one that did not shrink.

    Each failure doubles the while, up to `PATIENCE_MAX` packets; a success ends it (RFC 3173 2.2
    asks for something adaptive).
    """

    __slots__ = ("_next", "_skip")

    def __init__(self) -> None:
        self._next = 1
        self._skip = 0

    def tries(self) -> bool:
        """Whether the next packet is to be tried."""
        if self._skip:
            self._skip -= 1
            return False
        return True

    def note(self, has_shrunk: bool) -> None:
        """What became of a packet that was tried."""
        if has_shrunk:
            self._next = 1
        else:
            self._skip = self._next
            self._next = min(2 * self._next, PATIENCE_MAX)
