"""X_SPDEXPIRE (KAME): a policy's lifetime has come to its end; nobody asked."""

from keyd.engine.answers import policy_expired
from keyd.engine.effects import Effect, Now, PoliciesChanged
from keyd.engine.state import State


def spd_expire(state: State, now: Now) -> list[Effect]:
    """Take out the policies whose time is over; those who registered hear it when nft has agreed.

    DEVIATION from Linux, which tells nobody: racoon and its like keep a copy of the SPD, and NetBSD
    tells (test_a_policy_ends_by_age_and_the_registered_hear_it).
    """
    ended = state.spd.times.due(now.mono)
    if not ended:
        return []
    for policy in ended:
        state.spd.remove(policy)
    state.acquires.forget_policies(policy.spec.id for policy in ended)
    change = PoliciesChanged((), tuple(policy.spec for policy in ended))
    state.spd.note(change, tuple(ended))
    notices = (state.clients.notice(policy_expired(policy)) for policy in ended)
    return [change, *(send for sends in notices for send in sends)]
