"""SADB_UPDATE (RFC 2367 section 3.1.2) of a mature SA: new lifetimes, the same SA.

Sequence numbers and counters go on; a dying SA is mature again. strongSwan sends back what GET
told it, so what GET does not tell (mode ANY, the cycling flag) may be missing.
"""

from dataclasses import replace
from errno import EOPNOTSUPP

from keyd.engine.effects import Effect, InstallSa
from keyd.engine.handle_add import echo, requested_sa
from keyd.engine.records import SHOWN_FLAGS
from keyd.engine.state import Request, State
from keyd.model import SaSpec
from pfkey.const import Mode, SaState
from pfkey.errors import SadbError


def update(state: State, request: Request) -> list[Effect]:
    """Replace the lifetimes of an SA.

    DEVIATION from Linux, which takes lifetimes and drops all else in silence: an UPDATE that
    would change the SA itself is refused (test_update_cannot_change_the_key).

    Raises:
        SadbError: ESRCH when there is no such SA; EOPNOTSUPP when more than the lifetimes differs;
            EINVAL and ENOSYS as ADD.
    """
    wanted = requested_sa(state, request)
    sa = state.sad.find(wanted.key)
    changed = _changed(sa.spec, wanted.spec)
    if changed:
        why = f"UPDATE of a mature SA changes its lifetimes only, not {', '.join(changed)}"
        raise SadbError(EOPNOTSUPP, f"{why}; DELETE and ADD it", "3.1.2")
    sa.hard, sa.soft = wanted.hard, wanted.soft
    sa.state = SaState.MATURE
    sa.spec = replace(
        sa.spec,
        is_dying=False,
        hard_bytes=wanted.spec.hard_bytes,
        hard_packets=wanted.spec.hard_packets,
    )
    state.schedule.add(sa, request.now)
    state.schedule.compact(len(state.sad))
    return [InstallSa(sa.spec), *echo(state, request, sa)]


def _changed(old: SaSpec, new: SaSpec) -> list[str]:
    """The names of what is not the same, never the values."""
    differs = {
        "source": old.src != new.src,
        "mode": old.mode != new.mode and {old.mode, new.mode} != {Mode.ANY, Mode.TRANSPORT},
        "reqid": old.reqid != new.reqid,
        "replay window": old.replay_packets != new.replay_packets,
        "flags": (old.flags ^ new.flags) & SHOWN_FLAGS != 0,
        "algorithms": (old.auth, old.encrypt) != (new.auth, new.encrypt),
        "keys": (old.auth_key, old.encrypt_key) != (new.auth_key, new.encrypt_key),
    }
    return [name for name, is_other in differs.items() if is_other]
