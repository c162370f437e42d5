"""What the data path is told when a knob, or who listens, has changed."""

from keyd.engine.effects import Effect, SettingsChanged
from keyd.engine.state import State
from keyd.model import Settings


def settings(state: State) -> Settings:
    """What holds now."""
    return Settings(
        is_asking=state.clients.has_registered,
        wait_seconds=state.sysctl["net.key.blockacq_lifetime"],
        prefers_old_sa=bool(state.sysctl["net.key.prefered_oldsa"]),
    )


def tune(state: State, name: str, value: int) -> list[Effect]:
    """Turn a knob.

    Raises:
        SadbError: ENOENT for a name that is none, EINVAL for a value out of its range.
    """
    state.sysctl.set(name, value)
    return retune(state)


def retune(state: State) -> list[Effect]:
    """Tell the data path, if it does not know."""
    now = settings(state)
    if now == state.told:
        return []
    state.told = now
    return [SettingsChanged(now)]
