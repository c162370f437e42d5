"""How an SA begins, is shown to the clients, and ends: what several handlers do."""

from keyd.engine.answers import sa_changed
from keyd.engine.effects import Effect, InstallSa, RemoveSa
from keyd.engine.keying import warnings
from keyd.engine.parts import identities
from keyd.engine.sad import SaRecord, describe
from keyd.engine.state import Request, State


def begin(state: State, request: Request, sa: SaRecord) -> list[Effect]:
    """Put an SA with keys into the database and the data path, and tell everybody.

    What waits for it need not be asked for any longer, nor be reserved.

    Raises:
        SadbError: EEXIST when its name is taken; ENOBUFS when the database is full.
    """
    sa.seq = request.message.seq
    state.sad.insert(sa)
    state.schedule.add(sa, request.now)
    for asked in state.acquires.met(sa.spec, request.message.seq, request.now.mono):
        if asked.larval is not None and asked.larval.is_larval:
            end(state, asked.larval)
        asked.larval = None
    logs = warnings(sa.spec, lambda: describe(sa.key), state.warned)
    return [*logs, InstallSa(sa.spec), *echo(state, request, sa)]


def echo(state: State, request: Request, sa: SaRecord) -> list[Effect]:
    """That an SA has come or changed, for everybody; its keys only for the sender.

    DEVIATION from Linux, which drops identities: RFC 2367 3.1.3 has them in the answer
    (test_identities_are_told_to_all).
    """
    told = sa_changed(state, request, sa, identities(request.message))
    return [*state.clients.all(told, request.client)]


def end(state: State, sa: SaRecord) -> list[Effect]:
    """Take an SA out of the database, the schedule and, if it has keys, the data path."""
    was_larval = sa.is_larval
    state.sad.remove(sa, state.usage_of(sa))
    state.schedule.forget(sa)
    state.schedule.compact(len(state.sad))
    return [] if was_larval else [RemoveSa(sa.spec)]
