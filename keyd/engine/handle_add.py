"""SADB_ADD (RFC 2367 section 3.1.3): a new SA, at once MATURE.

The state that the request names is ignored, as on Linux: setkey says LARVAL, the RFC MATURE.
"""

from errno import EINVAL

from keyd.engine import unsupported
from keyd.engine.effects import Effect, InstallSa
from keyd.engine.keying import keying, warnings
from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.parts import addresses
from keyd.engine.records import sa_record
from keyd.engine.sad import SaRecord, describe
from keyd.engine.state import Request, State
from keyd.engine.variants import check_flags
from keyd.model import SaSpec
from pfkey.const import PROTO_OF_SATYPE, Mode, MsgType, SaType
from pfkey.errors import SadbError
from pfkey.ext_lifetime import Lifetime

CPI_MAX = 0xFFFF


def add(state: State, request: Request) -> list[Effect]:
    """Insert the SA, give it to the data path, tell everybody.

    Raises:
        SadbError: EEXIST when destination, protocol and SPI name an SA already; EINVAL, ENOSYS
            and EOPNOTSUPP for what the request says; ENOBUFS when the database is full.
    """
    sa = requested_sa(state, request)
    state.sad.insert(sa)
    state.schedule.add(sa, request.now)
    logs = warnings(sa.spec, describe(sa.key), state.warned)
    return [*logs, InstallSa(sa.spec), *echo(state, request, sa)]


def echo(state: State, request: Request, sa: SaRecord) -> list[Effect]:
    """The SA for everybody; its keys only for the sender, who brought them."""
    used, message = state.usage_of(sa), request.message
    type, seq, pid = MsgType(message.type), message.seq, message.pid
    private = sa_record(sa, used, type=type, seq=seq, pid=pid)
    if len(state.clients) == 1:
        return [*state.clients.all(private)]
    public = sa_record(sa, used, type=type, seq=seq, pid=pid, keys=False)
    return [*state.clients.all(private, public, request.client)]


def requested_sa(state: State, request: Request) -> SaRecord:
    """The SA that an ADD or UPDATE describes, not in the database yet.

    Raises:
        SadbError: EINVAL for a part that is missing or wrong, ENOSYS for an algorithm that this
            machine does not do, EOPNOTSUPP for what is not done yet.
    """
    message = request.message
    if message.sa is None:
        raise SadbError(EINVAL, "extension SA must be there", "3.1.3")
    src, dst = addresses(message)
    if message.satype not in PROTO_OF_SATYPE:
        raise SadbError(EINVAL, f"no SA is of satype {message.satype}", "3.1.3")
    unsupported.refuse(unsupported.FAMILIES, dst.family)
    if (message.hard is None) != (message.soft is None):
        raise SadbError(EINVAL, "give LIFETIME_HARD and LIFETIME_SOFT both, or none", "3.1.3")
    if message.sa.spi == 0:
        raise SadbError(EINVAL, "SPI 0 is for local use (RFC 4303 section 2.1)")
    if message.satype == SaType.X_IPCOMP and message.sa.spi > CPI_MAX:
        raise SadbError(EINVAL, f"CPI {message.sa.spi:#x} exceeds 16 bits (RFC 3173 section 3.3)")
    mode = _mode(0 if message.sa2 is None else message.sa2.mode)
    hard = limit(message.hard)
    chosen = keying(message, state.usable)
    proto = PROTO_OF_SATYPE[SaType(message.satype)]
    check_flags(message.sa.flags, proto, chosen, message.sa.replay)
    spec = SaSpec(
        slot=-1, proto=proto, spi=message.sa.spi,
        src=src.address, dst=dst.address, mode=mode,
        reqid=0 if message.sa2 is None else message.sa2.reqid,
        auth=chosen.auth, auth_key=chosen.auth_key,
        encrypt=chosen.encrypt, encrypt_key=chosen.encrypt_key,
        # DEVIATION from Linux, which cuts windows to 32 packets: iked asks for 64, and gets
        # them (test_replay_window_is_kept_as_asked).
        replay_packets=message.sa.replay, flags=message.sa.flags,
        hard_bytes=hard.octets, hard_packets=hard.allocations,
    )  # fmt: skip
    return SaRecord(spec, hard, limit(message.soft), request.now.mono, request.now.wall)


def limit(lifetime: Lifetime | None) -> Limit:
    """The limits that a lifetime extension sets."""
    if lifetime is None:
        return NO_LIMIT
    return Limit(lifetime.allocations, lifetime.octets, lifetime.addtime, lifetime.usetime)


def _mode(number: int) -> Mode:
    try:
        mode = Mode(number)
    except ValueError:
        raise SadbError(EINVAL, f"mode {number} is none") from None
    unsupported.refuse(unsupported.SA_MODES, mode)
    return mode
