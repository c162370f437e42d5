"""Turning knobs (`keyd.engine.sysctl`): what follows for policies, what the data path is told."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from errno import EBUSY, ENOENT, EOPNOTSUPP

from keyd.engine.effects import Effect, Log, PoliciesChanged, SettingsChanged
from keyd.engine.spd import PolicyRecord
from keyd.engine.state import State
from keyd.model import PolicySpec, Settings
from pfkey.const import (
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    UNSPEC_PROTO,
    Dir,
    Level,
    Mode,
    MsgType,
    PolicyType,
)
from pfkey.errors import SadbError
from pfkey.selector import Range, Selector

DISCARD = 0  # of def_policy; 1 is none
ENABLED = "net.inet.ipsec.enabled"
_TREE = {4: "net.inet.ipsec", 16: "net.inet6.ipsec6"}  # by the octets of an address
_ENABLES = {IPPROTO_ESP: "esp_enable", IPPROTO_AH: "ah_enable", IPPROTO_COMP: "ipcomp_enable"}
_DEFLEVS = {IPPROTO_ESP: "esp", IPPROTO_AH: "ah"}
_NEED_ENABLED = frozenset((
    MsgType.GETSPI, MsgType.ADD, MsgType.UPDATE, MsgType.X_SPDADD, MsgType.X_SPDUPDATE,
    MsgType.X_SPDSETIDX, MsgType.X_MIGRATE,
))  # fmt: skip
# Behind all others, and out of the way of their ids, which begin with 8.
_LAST_PRIORITY, _LAST_ORDER = 2**32 - 1, 2**62
_DEFAULT_IDS = {(4, Dir.IN): 1, (4, Dir.OUT): 2, (16, Dir.IN): 3, (16, Dir.OUT): 4}


def sysctl(state: State, name: str) -> int:
    """The value of a knob.

    Raises:
        SadbError: ENOENT for a name that is none.
    """
    if name not in state.sysctl:
        raise SadbError(ENOENT, f"there is no {name}")
    if name.endswith(".used"):
        enabled = state.sysctl[ENABLED]
        return int(enabled == 2 or (enabled == 1 and bool(state.spd.policies())))
    return state.sysctl[name]


def tune(state: State, name: str, value: int) -> list[Effect]:
    """Turn a knob; see `Sysctls.check` for what is refused.

    Raises:
        SadbError: EBUSY also for switching IPsec off while there are SAs or policies.
    """
    before = sysctl(state, name)
    state.sysctl.check(name, value)
    if name.endswith(".enabled") and not value and (len(state.sad) or state.spd.policies()):
        raise SadbError(EBUSY, f"{name} cannot be 0 while there are SAs or policies: flush first")
    state.sysctl.set(name, value)
    log = Log(logging.INFO, f"sysctl name={name} before={before} value={value}")
    return [log, *_policies(state, name, before), *retune(state)]


def untune(state: State, change: PoliciesChanged) -> None:
    """Nft refused what followed from a knob: it is as it was."""
    if change.knob is not None:
        state.sysctl.set(*change.knob)


def refuse_if_off(state: State, type: int) -> None:
    """Nothing begins while IPsec is switched off.

    DEVIATION from NetBSD, which takes SAs and policies and makes nothing of them: packets would
    leave in clear (test_while_ipsec_is_off_nothing_begins).

    Raises:
        SadbError: EOPNOTSUPP.
    """
    if type in _NEED_ENABLED and not state.sysctl[ENABLED]:
        raise SadbError(EOPNOTSUPP, f"{ENABLED} is 0: IPsec is switched off")


def level_of_default(state: State, octets: int, proto: int, mode: Mode) -> Level:
    """What level `default` means to those whose system has knobs for it (NetBSD).

    `octets` are those of the selector's addresses. For IPComp it is `use`.
    """
    if proto not in _DEFLEVS:
        return Level.USE
    how = "net" if mode == Mode.TUNNEL else "trans"
    return Level(state.sysctl[f"{_TREE[octets]}.{_DEFLEVS[proto]}_{how}_deflev"])


def adopt(state: State, left: Iterable[PolicySpec]) -> None:
    """A crashed predecessor had def_policy turned to discard, and so it stays."""
    for spec in left:
        octets = len(spec.selector.src.address)
        state.sysctl.set(f"{_TREE[octets]}.def_policy", DISCARD)
        state.spd.defaults.update({one.id: one for one in defaults(octets)})


def settings(state: State) -> Settings:
    """What the data path is to know now."""
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


def retune(state: State) -> list[Effect]:
    """Tell the data path, if it does not know."""
    now = settings(state)
    if now == state.told:
        return []
    state.told = now
    return [SettingsChanged(now)]


def _policies(state: State, name: str, before: int) -> list[Effect]:
    """The change of policies that a knob means."""
    tree, _, leaf = name.rpartition(".")
    octets = 4 if tree == _TREE[4] else 16
    records: tuple[PolicyRecord, ...] = ()
    if leaf == "def_policy":
        added, removed = _turn_defaults(state, octets)
    elif leaf.endswith("_deflev"):
        records, added = _turn_levels(state, octets)
        removed = tuple(record.spec for record in records)
    else:
        return []
    if not added and not removed:
        return []
    change = PoliciesChanged(added, removed, knob=(name, before))
    state.spd.note(change, records)
    return [change]


def _turn_defaults(
    state: State, octets: int
) -> tuple[tuple[PolicySpec, ...], tuple[PolicySpec, ...]]:
    wanted = defaults(octets) if state.sysctl[f"{_TREE[octets]}.def_policy"] == DISCARD else ()
    there = [s for s in state.spd.defaults.values() if len(s.selector.src.address) == octets]
    if bool(wanted) == bool(there):
        return (), ()
    for spec in there:
        del state.spd.defaults[spec.id]
    state.spd.defaults.update({spec.id: spec for spec in wanted})
    return wanted, tuple(there)


def defaults(octets: int) -> tuple[PolicySpec, ...]:
    """What selects all that no policy does, and discards it."""
    anywhere = Range(bytes(octets), 0)
    return tuple(
        PolicySpec(
            id=_DEFAULT_IDS[octets, way], dir=way, type=PolicyType.DISCARD, is_default=True,
            selector=Selector(anywhere, anywhere, UNSPEC_PROTO), priority=_LAST_PRIORITY,
            order=_LAST_ORDER,
        )
        for way in (Dir.IN, Dir.OUT)
    )  # fmt: skip


def _turn_levels(
    state: State, octets: int
) -> tuple[tuple[PolicyRecord, ...], tuple[PolicySpec, ...]]:
    """Policies with requests of level `default` follow the knobs: what was, and what is."""
    records, added = [], []
    for record in list(state.spd):
        spec = record.spec
        if not record.by_default or len(spec.selector.src.address) != octets:
            continue
        requests = tuple(
            replace(one, level=level_of_default(state, octets, one.proto, one.mode))
            if number in record.by_default
            else one
            for number, one in enumerate(spec.requests)
        )
        if requests != spec.requests:
            records.append(record)
            added.append(state.spd.replace(record, replace(spec, requests=requests)).spec)
    return tuple(records), tuple(added)
