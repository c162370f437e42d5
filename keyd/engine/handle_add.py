"""SADB_ADD (RFC 2367 section 3.1.3): a new SA, at once MATURE.

The state that the request names is ignored but on OpenBSD: setkey says LARVAL, the RFC MATURE.
"""

from errno import EINVAL

from keyd.engine import unsupported
from keyd.engine.effects import Effect
from keyd.engine.encapsulation import UDPENCAP, asks_openbsd, encapsulation
from keyd.engine.keying import keying
from keyd.engine.life import begin
from keyd.engine.manners import Kin
from keyd.engine.parts import addresses, check_identities, limit, sa_mode, sa_proto, window
from keyd.engine.sad import SaRecord
from keyd.engine.state import Request, State
from keyd.engine.variants import check_flags
from keyd.model import SaSpec
from pfkey.const import IPPROTO_COMP, SaState
from pfkey.errors import SadbError

CPI_MAX = 0xFFFF


def add(state: State, request: Request) -> list[Effect]:
    """Insert the SA, give it to the data path, tell everybody.

    Raises:
        SadbError: EEXIST when destination, protocol and SPI name an SA already, be it a larval
            one, which UPDATE is for, or DELETE before this; EINVAL, ENOSYS
            and EOPNOTSUPP for what the request says; ENOBUFS when the database is full.
    """
    sa = request.message.sa
    is_openbsd = request.manners.kin is Kin.OPENBSD
    if is_openbsd and sa is not None and sa.state != SaState.MATURE:
        raise SadbError(EINVAL, f"state {sa.state}: only mature SAs (1) are added")
    return begin(state, request, requested_sa(state, request))


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
    proto = sa_proto(message)
    for end in (src, dst):
        unsupported.refuse_address(end.address)
    check_identities(message, may_differ=bool(state.sysctl["net.key.allow_different_idtype"]))
    if (message.hard is None) != (message.soft is None):
        raise SadbError(EINVAL, "give LIFETIME_HARD and LIFETIME_SOFT both, or none", "3.1.3")
    least = 1 if proto == IPPROTO_COMP else request.manners.spi_min
    if message.sa.spi < least:
        why = f"SPI {message.sa.spi:#x}: 0 is for local use, the least is {least:#x}"
        raise SadbError(EINVAL, f"{why} (RFC 4303 section 2.1)")
    if proto == IPPROTO_COMP and message.sa.spi > CPI_MAX:
        raise SadbError(EINVAL, f"CPI {message.sa.spi:#x} exceeds 16 bits (RFC 3173 section 3.3)")
    mode = sa_mode(message)
    hard = limit(message.hard)
    chosen = keying(message, state.usable)
    replay_packets = window(message, message.sa)
    flags = message.sa.flags & ~UDPENCAP
    check_flags(flags, proto, chosen, replay_packets)
    is_inbound = asks_openbsd(message) and state.is_own(dst.address)
    udp = encapsulation(message, proto, len(dst.address), is_inbound=is_inbound)
    spec = SaSpec(
        slot=-1, proto=proto, spi=message.sa.spi, src=src.address, dst=dst.address, mode=mode,
        reqid=0 if message.sa2 is None else message.sa2.reqid,
        auth=chosen.auth, auth_key=chosen.auth_key,
        encrypt=chosen.encrypt, encrypt_key=chosen.encrypt_key,
        # DEVIATION from Linux, which cuts windows to 32 packets: iked asks for 64, and gets
        # them (test_replay_window_is_kept_as_asked).
        replay_packets=replay_packets, flags=flags,
        hard_bytes=hard.octets, hard_packets=hard.allocations,
        encap=udp.encap, sport=udp.sport, dport=udp.dport, oa_src=udp.oa_src, oa_dst=udp.oa_dst,
    )  # fmt: skip
    return SaRecord(spec, hard, limit(message.soft), request.now.mono, request.now.wall)
