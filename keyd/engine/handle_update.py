"""SADB_UPDATE (RFC 2367 section 3.1.2): keys for a larval SA, new lifetimes for a mature one.

A larval SA becomes what the request says, mode and reqid included, and begins its life now.

Of a mature one, sequence numbers and counters go on; a dying SA is mature again. The ports of ESP
in UDP may be others, for a NAT may have changed them (RFC 3948). strongSwan sends back what GET
told it, so what GET does not tell (mode ANY, the cycling flag) may be missing.
"""

from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP

from keyd.engine.effects import Effect, InstallSa
from keyd.engine.encapsulation import UDPENCAP, asks_openbsd
from keyd.engine.handle_add import requested_sa
from keyd.engine.life import begin, echo, end
from keyd.engine.manners import Kin
from keyd.engine.parts import sa_key
from keyd.engine.records import SHOWN_FLAGS
from keyd.engine.sad import SaRecord
from keyd.engine.state import Request, State
from keyd.model import SaSpec
from pfkey.const import ExtType, Mode, SaState, SaType
from pfkey.errors import SadbError
from pfkey.ext_key import Key
from pfkey.ext_x_natt import NatTPort
from pfkey.neutral import peers_port


def update(state: State, request: Request) -> list[Effect]:
    """Make a larval SA mature, or replace the lifetimes and UDP ports of another.

    DEVIATION from Linux, which takes lifetimes and drops all else in silence: an UPDATE that
    would change the SA itself is refused (test_update_cannot_change_the_key).

    Raises:
        SadbError: ESRCH when there is no such SA; EINVAL when another process reserved it;
            EOPNOTSUPP when more than that differs; EINVAL and ENOSYS as ADD.
    """
    wanted = requested_sa(state, _with_keys(state, request))
    sa = state.sad.find(wanted.key)
    if sa.is_larval:
        return _mature(state, request, sa, wanted)
    changed = _changed(sa.spec, wanted.spec)
    if changed:
        what = ", ".join(changed)
        why = f"UPDATE of a mature SA changes its lifetimes and UDP ports only, not {what}"
        raise SadbError(EOPNOTSUPP, f"{why}; DELETE and ADD it", "3.1.2")
    sa.hard, sa.soft = wanted.hard, wanted.soft
    sa.state = SaState.MATURE
    has_moved = (wanted.spec.sport, wanted.spec.dport) != (sa.spec.sport, sa.spec.dport)
    sa.spec = replace(
        sa.spec,
        is_dying=False,
        hard_bytes=wanted.spec.hard_bytes,
        hard_packets=wanted.spec.hard_packets,
        sport=wanted.spec.sport,
        dport=wanted.spec.dport,
        oa_src=wanted.spec.oa_src,
        oa_dst=wanted.spec.oa_dst,
        # where the peer was seen, which no message says
        via=b"" if has_moved else sa.spec.via,
        origin=b"" if has_moved else sa.spec.origin,
    )
    state.schedule.add(sa, request.now)
    state.schedule.compact(len(state.sad))
    return [InstallSa(sa.spec), *echo(state, request, sa)]


def _with_keys(state: State, request: Request) -> Request:
    """On FreeBSD and OpenBSD an UPDATE of lifetimes has no keys: they stay.

    On OpenBSD so does ESP in UDP, if nothing is said of it.
    """
    message = request.message
    has_keys = message.key_auth is not None or message.key_encrypt is not None
    if not request.manners.keeps_keys or message.sa is None or has_keys:
        return request
    sa = state.sad.get(sa_key(message))
    if sa is None or sa.is_larval:
        return request
    kept = tuple(
        Key(exttype=exttype, bits=8 * len(key), key=key)
        for exttype, number, key in (
            (ExtType.KEY_AUTH, sa.spec.auth, sa.spec.auth_key),
            (ExtType.KEY_ENCRYPT, sa.spec.encrypt, sa.spec.encrypt_key),
        )
        if number and message.satype != SaType.X_IPCOMP
    )
    whole = replace(message, extensions=(*message.extensions, *kept))
    is_openbsd = request.manners.kin is Kin.OPENBSD
    if is_openbsd and sa.spec.encap and not asks_openbsd(message):
        port = peers_port(sa.spec.sport, sa.spec.dport)
        flagged = replace(message.sa, flags=message.sa.flags | UDPENCAP)
        rest = (one for one in whole.extensions if one is not message.sa)
        udp = NatTPort(exttype=ExtType.X_UDPENCAP, port=port)
        whole = replace(whole, extensions=(flagged, *rest, udp))
    return replace(request, message=whole)


def _mature(state: State, request: Request, larval: SaRecord, wanted: SaRecord) -> list[Effect]:
    """Put the SA in the larval one's place.

    DEVIATION from Linux, where anybody may: only who reserved an SPI gives it keys, as on NetBSD.
    The messages' pids tell, not the connections', which may be handed on
    (test_only_the_pid_that_reserved_an_spi_gives_it_keys).
    """
    pid = request.message.pid
    if pid != larval.reserved_by:
        why = f"the SPI was reserved by pid {larval.reserved_by}, not by {pid}"
        raise SadbError(EINVAL, why, "3.1.2")
    end(state, larval)
    return begin(state, request, wanted)


def _changed(old: SaSpec, new: SaSpec) -> list[str]:
    """The names of what is not the same, never the values."""
    differs = {
        "source": old.src != new.src,
        "mode": old.mode != new.mode and {old.mode, new.mode} != {Mode.ANY, Mode.TRANSPORT},
        "reqid": old.reqid != new.reqid,
        "encapsulation": old.encap != new.encap,
        "replay window": old.replay_packets != new.replay_packets,
        "flags": (old.flags ^ new.flags) & SHOWN_FLAGS != 0,
        "algorithms": (old.auth, old.encrypt) != (new.auth, new.encrypt),
        "keys": (old.auth_key, old.encrypt_key) != (new.auth_key, new.encrypt_key),
    }
    return [name for name, is_other in differs.items() if is_other]
