"""What the shell's parts ask of one another: the engine, the steering and the packet workers."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from keyd.engine.effects import ClientId, Effect, Now, PoliciesChanged
from keyd.engine.load import Draft, Loading
from keyd.engine.sad import SaKey
from keyd.model import Need, PolicySpec, PolicyUse, SaSpec, Settings


class KeyEngine(Protocol):
    """`keyd.engine.Engine`, as the shell uses it. All calls come from the trio thread."""

    def connect(self, client: ClientId, dialect: str = "linux") -> None:
        """A client is there, which speaks like a program of this system."""

    def disconnect(self, client: ClientId) -> list[Effect]:
        """A client is gone."""

    def receive(self, client: ClientId, record: bytes, now: Now) -> list[Effect]:
        """Answer any octets."""

    def need(self, wanted: Need, packets: int, now: Now) -> list[Effect]:
        """Packets lack an SA."""

    def new_mapping(self, key: SaKey, ports: tuple[int, int], address: bytes) -> list[Effect]:
        """The peer of an SA of ESP in UDP has moved."""

    def used(self, uses: Iterable[PolicyUse], now: Now) -> None:
        """Policies had packets."""

    def registrations(self, client: ClientId) -> tuple[tuple[int, ...], bool, bool]:
        """The SA types a client registered for, whether it hears everything, and our own too."""

    def restore(
        self, client: ClientId, satypes: Iterable[int], *, is_promiscuous: bool, now: Now,
        knows_own: bool = False,
    ) -> list[Effect]:  # fmt: skip
        """Register a client for what it had registered with a predecessor, without a word."""

    def tick(self, now: Now) -> list[Effect]:
        """Do what is due."""

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in monotonic seconds."""

    def dump_done(self, client: ClientId) -> None:
        """The client has all records of its dump, or is gone."""

    def adopt(self, holds: Iterable[PolicySpec]) -> None:
        """Take over what a crashed predecessor left in nft."""

    def revert(self, change: PoliciesChanged) -> None:
        """Undo a change that nft refused."""

    def policies(self) -> tuple[PolicySpec, ...]:
        """All policies in match order, holds first."""

    def sas(self) -> tuple[SaSpec, ...]:
        """All SAs that the data path has."""

    def sysctl(self, name: str) -> int:
        """The value of a knob."""

    def tune(self, name: str, value: int) -> list[Effect]:
        """Turn a knob."""

    def settings(self) -> Settings:
        """What the data path is to know beside them."""

    def stats(self) -> dict[str, int]:
        """How many of what."""


class FileEngine(Protocol):
    """The same engine, as the file that pfkeyd loads meets it."""

    @property
    def loading(self) -> Loading:
        """What puts a file in force."""

    def draft(self, now: Now) -> Draft:
        """Empty databases to try it on, in whatever thread."""


class DataPath(Protocol):
    """The packet workers. Only `flush` waits."""

    @property
    def is_behind(self) -> bool:
        """Whether some of what follows is not in the workers' channels yet."""

    async def flush(self) -> None:
        """Return once it is."""

    def install(self, sa: SaSpec) -> None:
        """Give an SA to the workers."""

    def remove(self, sa: SaSpec) -> None:
        """Take an SA from them."""

    def move(self, old: SaSpec, new: SaSpec) -> None:
        """Tell them that an SA has other addresses."""

    def change(self, added: Sequence[PolicySpec], removed: Sequence[int]) -> None:
        """Tell them of policies."""

    def tune(self, settings: Settings) -> None:
        """Tell them of settings."""

    def end_wait(self, need: Need) -> None:
        """Tell them that nothing is to wait for an SA any longer."""


class NoDataPath:
    """What `--no-dataplane` has for workers."""

    is_behind = False

    async def flush(self) -> None:
        """Nothing waits."""

    def install(self, sa: SaSpec) -> None:
        """Nothing to do."""

    def remove(self, sa: SaSpec) -> None:
        """Nothing to do."""

    def move(self, old: SaSpec, new: SaSpec) -> None:
        """Nothing to do."""

    def change(self, added: Sequence[PolicySpec], removed: Sequence[int]) -> None:
        """Nothing to do."""

    def tune(self, settings: Settings) -> None:
        """Nothing to do."""

    def end_wait(self, need: Need) -> None:
        """Nothing waits."""
