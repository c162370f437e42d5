"""SADB_EXPIRE (RFC 2367 section 3.1.8): a lifetime has come to its end; nobody asked.

Both ends are told, with pid 0 and without keys, to those whose system tells them:
a soft one makes the SA DYING, still in use; a hard one ends it.
"""

from dataclasses import replace

from keyd.engine.effects import Effect, InstallSa
from keyd.engine.life import end
from keyd.engine.records import expire_told
from keyd.engine.sad import SaRecord
from keyd.engine.state import State
from pfkey.const import SaState


def expire(state: State, sa: SaRecord, *, is_hard: bool) -> list[Effect]:
    """Age or end one SA. The message names the lifetime that fired, and no other."""
    changes: list[Effect]
    if is_hard:
        changes = end(state, sa)
    else:
        sa.state = SaState.DYING
        sa.spec = replace(sa.spec, is_dying=True)
        changes = [InstallSa(sa.spec)]
    told = expire_told(state, sa, state.usage_of(sa), is_hard=is_hard)
    return [*changes, *state.clients.notice(told)]
