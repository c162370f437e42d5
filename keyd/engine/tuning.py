"""What the data path is told when a knob, or who listens, has changed."""

import logging
from errno import ENOENT

from keyd.engine.effects import Effect, Log, Now, SettingsChanged
from keyd.engine.state import State
from keyd.model import Settings
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP
from pfkey.errors import SadbError

_ENABLES = {IPPROTO_ESP: "esp_enable", IPPROTO_AH: "ah_enable", IPPROTO_COMP: "ipcomp_enable"}


def settings(state: State) -> Settings:
    """What holds now."""
    knobs = state.sysctl
    return Settings(
        is_asking=state.clients.has_registered,
        wait_seconds=knobs["net.key.blockacq_lifetime"],
        prefers_old_sa=bool(knobs["net.key.prefered_oldsa"]),
        ah_cleartos=bool(knobs["net.inet.ipsec.ah_cleartos"]),
        ah_offsetmask=knobs["net.inet.ipsec.ah_offsetmask"],
        dfbit=knobs["net.inet.ipsec.dfbit"],
        ecn=knobs["net.inet.ipsec.ecn"],
        ecn6=knobs["net.inet6.ipsec6.ecn"],
        checks_source=bool(knobs["net.inet.ipsec.ipip_spoofcheck"]),
        disabled=tuple(p for p, name in _ENABLES.items() if not knobs[f"net.inet.ipsec.{name}"]),
        repeats_numbers=bool(knobs["net.inet.ipsec.test_replay"]),
        spoils_icvs=bool(knobs["net.inet.ipsec.test_integrity"]),
        is_debugging=bool(knobs["net.inet.ipsec.debug"]),
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
