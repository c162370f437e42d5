"""SADB_GETSPI (RFC 2367 section 3.1.1): reserve an SPI for an SA whose keys are yet to come.

What is reserved is a larval SA. UPDATE gives it keys; if nobody does within
net.key.larval_lifetime seconds it ends, and that is told like any hard end, as on Linux.
"""

from errno import EINVAL, ENOENT

from keyd.engine import unsupported
from keyd.engine.acquires import Asked
from keyd.engine.answers import spi_reserved
from keyd.engine.effects import Effect
from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.parts import addresses, sa_mode, sa_proto
from keyd.engine.sad import SaKey, SaRecord
from keyd.engine.state import Request, State
from keyd.model import Need, SaSpec
from pfkey.const import IPPROTO_COMP, Mode
from pfkey.errors import SadbError
from pfkey.message import Message

_CPI_MAX = 0xFFFF  # RFC 3173 section 3.3


def getspi(state: State, request: Request) -> list[Effect]:
    """Make a larval SA and tell the sender its SPI.

    Raises:
        SadbError: EINVAL for a part that is missing or a range that is none; ENOENT when no SPI of
            the range is free; ENOBUFS when there are too many SAs, or larval ones.
    """
    message = request.message
    src, dst = addresses(message)
    proto = sa_proto(message)
    for end in (src, dst):
        unsupported.refuse_address(end.address)
    low, high = _range(state, message, proto, request.manners.getspi_min)
    mode, reqid = sa_mode(message), 0 if message.sa2 is None else message.sa2.reqid
    wanted = Need(
        policy=0, proto=proto, mode=mode or Mode.TRANSPORT, reqid=reqid, src=src.address,
        dst=dst.address,
    )  # fmt: skip
    asked = _asked(state, wanted, message.seq, request.now.mono)
    if asked is not None and asked.larval is not None and asked.larval.is_larval:
        return _reply(state, request, asked.larval)
    spec = SaSpec(
        slot=-1, proto=proto, spi=_free(state, dst.address, proto, low, high),
        src=src.address, dst=dst.address, mode=mode, reqid=reqid,
    )  # fmt: skip
    hard = Limit(addtime=state.sysctl["net.key.larval_lifetime"])
    larval = SaRecord(spec, hard, NO_LIMIT, request.now.mono, request.now.wall)
    larval.seq = message.seq
    state.sad.reserve(larval, message.pid)
    state.schedule.add(larval, request.now)
    if asked is not None:
        asked.larval = larval
    return _reply(state, request, larval)


def _asked(state: State, wanted: Need, seq: int, now: float) -> Asked | None:
    """The ACQUIRE that this SPI is for, if it is for one.

    That is seldom, for an IKE daemon chooses SPIs for what comes in, and ACQUIREs ask for what goes
    out. By sequence number it may have an SPI already, which is then told again, as on Linux; by
    mode, reqid and addresses only one without is meant.
    """
    named = state.acquires.find_seq(seq, now)
    if named is not None and (named.need.proto, named.need.dst) == (wanted.proto, wanted.dst):
        return named
    same = state.acquires.find(wanted, now)
    is_reserved = same is not None and same.larval is not None and same.larval.is_larval
    return None if is_reserved else same


def _reply(state: State, request: Request, larval: SaRecord) -> list[Effect]:
    return [*state.clients.one(request.client, spi_reserved(state, request, larval))]


def _range(state: State, message: Message, proto: int, least: int) -> tuple[int, int]:
    """The SPIs to choose from, both ends included."""
    most = _CPI_MAX if proto == IPPROTO_COMP else 2**32 - 1
    wanted = message.spirange
    if wanted is None:
        low, high = state.sysctl["net.key.spi_min_value"], state.sysctl["net.key.spi_max_value"]
        return low, min(high, most)
    if not wanted.min <= wanted.max <= most or wanted.max < least:
        raise SadbError(EINVAL, f"SPI range {wanted.min:#x} to {wanted.max:#x}", "3.1.1")
    return max(wanted.min, least), wanted.max


def _free(state: State, dst: bytes, proto: int, low: int, high: int) -> int:
    """A free SPI: the first from one that nobody can foretell, around the range's end.

    As many are tried as net.key.spi_try says. Never 0, which is for local use (RFC 4303 2.1).
    """
    count = high - low + 1
    start = state.pick(low, high) - low if count > 0 else 0
    for n in range(min(count, state.sysctl["net.key.spi_try"])):
        spi = low + (start + n) % count
        if spi and SaKey(dst, proto, spi) not in state.sad:
            return spi
    raise SadbError(ENOENT, f"no SPI found free in {low:#x} to {high:#x}", "3.1.1")
