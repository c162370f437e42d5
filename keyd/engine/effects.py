"""What the engine asks of the shell, in order. The shell obeys and decides nothing.

The order of a list is binding: what stands before a `Send` has taken effect (nft committed, the
workers' channels written) before the record is queued.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

from keyd.model import Need, PolicySpec, SaSpec, Settings

ClientId = NewType("ClientId", int)


@dataclass(frozen=True, slots=True)
class Now:
    """Two clocks: monotonic seconds for timers, wall-clock seconds for what messages show."""

    mono: float
    wall: float


@dataclass(frozen=True, slots=True)
class Send:
    """Queue one record to one client.

    A record that does not fit the client's queue is dropped: a notice because AF_KEY drops
    those, a reply because the request must be consumed.
    """

    client: ClientId
    record: bytes


@dataclass(frozen=True, slots=True)
class Dump:
    """Send all of `records` to the client, paced by its reading; none is ever dropped.

    The iterator is lazy and stays valid whatever happens to the databases meanwhile. The shell
    reports the end, or the client's, with `Engine.dump_done`.
    """

    client: ClientId
    records: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class InstallSa:
    """Give the SA to the data path, or replace the one with the same slot."""

    sa: SaSpec


@dataclass(frozen=True, slots=True)
class RemoveSa:
    """Take the SA out of the data path; its slot may be used again for another key."""

    sa: SaSpec


@dataclass(frozen=True, slots=True)
class MoveSa:
    """The SA has other addresses now; slot, key, numbers and counts stay."""

    old: SaSpec
    new: SaSpec


@dataclass(frozen=True, slots=True)
class PoliciesChanged:
    """Make steering and data path equal to the SPD; one transaction for the whole change.

    `on_failure` are the effects to obey instead of all later ones in this list when nft refuses:
    before obeying them the shell calls `Engine.revert(change)`. `knob` is what the change follows
    from, a name and the value before, if it follows from one.
    """

    added: tuple[PolicySpec, ...] = ()
    removed: tuple[PolicySpec, ...] = ()
    on_failure: tuple["Send", ...] = ()
    knob: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Tell the data path."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class EndWait:
    """No SA will come: packets that wait for it are to be dropped."""

    need: Need


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the log: `level` as in the logging module, `text` without any key."""

    level: int
    text: str


Effect = (
    Send | Dump | InstallSa | RemoveSa | MoveSa | PoliciesChanged | SettingsChanged | EndWait | Log
)
