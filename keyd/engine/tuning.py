"""What the data path is told when a knob, or who listens, has changed."""

import logging
from errno import ENOENT

from keyd.engine.effects import Effect, Log, Now, SettingsChanged
from keyd.engine.state import State
from keyd.model import Settings
from pfkey.errors import SadbError


def settings(state: State) -> Settings:
    """What holds now."""
    return Settings(
        is_asking=state.clients.has_registered,
        wait_seconds=state.sysctl["net.key.blockacq_lifetime"],
        prefers_old_sa=bool(state.sysctl["net.key.prefered_oldsa"]),
    )


def sysctl(state: State, name: str) -> int:
    """The value of a knob.

    Raises:
        SadbError: ENOENT for a name that is none.
    """
    if name not in state.sysctl:
        raise SadbError(ENOENT, f"there is no {name}")
    return state.sysctl[name]


def tune(state: State, name: str, value: int, now: Now) -> list[Effect]:
    """Turn a knob; see `Sysctls.check` for what is refused."""
    before = sysctl(state, name)
    state.sysctl.set(name, value)
    log = Log(logging.INFO, f"sysctl name={name} before={before} value={value}")
    return [log, *retune(state)]


def retune(state: State) -> list[Effect]:
    """Tell the data path, if it does not know."""
    now = settings(state)
    if now == state.told:
        return []
    state.told = now
    return [SettingsChanged(now)]
