"""The file that pfkeyd loads at the start and on SIGHUP: setkey's commands, all of them or none.

1. read it and parse it whole, in a thread: a name may have to be looked up;
2. try it on empty databases (`keyd.engine.load`), in that thread too;
3. put it in force: one change of policies, SAs before and after it.

A fault in 1 or 2 is told with file and line, and nothing has changed. No key is ever in such a
line: the word at fault is not shown.
"""

import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from errno import ENOENT, EOPNOTSUPP, ESRCH
from pathlib import Path

import trio

from keyd.engine.effects import Effect, Now
from keyd.engine.load import Draft, Sweep, Wish
from keyd.shell.ports import FileEngine
from pfkey.const import PROTO_OF_SATYPE, MsgType, SaType
from pfkey.errors import SadbError, ShellError
from pfkey.setkey import grammar, messages
from pfkey.setkey.reading import OCTETS_MAX
from pfkey.setkey.resolve import SystemNames
from pfkey.setkey.statements import DeleteAll, Statement

LOG = logging.getLogger("keyd.shell")

FAULTS_SHOWN = 20
_PRINTING = {
    MsgType.GET: "get", MsgType.GETSPI: "getspi", MsgType.DUMP: "dump",
    MsgType.X_SPDDUMP: "spddump",
}  # fmt: skip
_ENDING = (MsgType.DELETE, MsgType.X_SPDDELETE)


class FaultsError(ShellError):
    """A file that cannot be loaded; `faults` are all of them, each with file and line."""

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.faults = faults
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(
            f"{path}: {count}, so it is not loaded: {faults[0]}",
            f"mend it; pfkeyd --check --load {path} shows all",
        )


def parse(path: Path) -> list[Statement]:
    """The statements of a file.

    Raises:
        FaultsError: it cannot be read, or is not setkey's language.
    """
    try:
        with open(path, "rb", opener=_opened) as file:
            found = os.fstat(file.fileno())
            mode = found.st_mode
            octets = file.read(OCTETS_MAX + 1) if stat.S_ISREG(mode) else None
    except OSError as error:
        raise FaultsError(path, [f"{path}: {error.strerror}"]) from None
    if octets is None:
        raise FaultsError(path, [f"{path}: no regular file"])
    if len(octets) > OCTETS_MAX:
        raise FaultsError(path, [f"{path}: larger than {OCTETS_MAX} octets"])
    if b"\0" in octets:
        raise FaultsError(path, [f"{path}: not a text"])
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        LOG.warning("load-mode file=%s mode=%04o remedy=chmod 600", path, mode & 0o7777)
    if found.st_uid not in (0, os.geteuid()):
        LOG.warning("load-owner file=%s uid=%d remedy=chown root", path, found.st_uid)
    text = octets.decode("utf-8-sig", "surrogateescape")
    statements, faults = grammar.parse(text, str(path), SystemNames())
    if faults:
        raise FaultsError(path, [f"{f.file}:{f.line}:{f.column}: {f.why}" for f in faults])
    return statements


def _opened(path: str, flags: int) -> int:
    """Nobody keeps us waiting, as the other end of a pipe could."""
    return os.open(path, flags | os.O_NONBLOCK)


def carry_out(path: Path, statements: Sequence[Statement], draft: Draft) -> Wish:
    """Carry out a file's statements on a draft; what they come to.

    Raises:
        FaultsError: the engine refuses some of them.
    """
    faults: list[str] = []
    for statement in statements:
        try:
            _carry_out(statement, draft)
        except SadbError as error:
            faults.append(f"{path}:{statement.line}: {error}")
    if faults:
        raise FaultsError(path, faults)
    return draft.wish()


def _carry_out(statement: Statement, draft: Draft) -> None:
    if isinstance(statement, DeleteAll):
        proto = PROTO_OF_SATYPE[SaType(statement.satype)] if statement.satype else None
        src, dst = statement.pair
        draft.end_all(Sweep(proto, None, src.address, dst.address))
        return
    for message in messages.of_statement(statement, os.getpid()):
        if message.type in _PRINTING:
            word = _PRINTING[MsgType(message.type)]
            raise SadbError(EOPNOTSUPP, f"{word} prints, and pfkeyd has nowhere to; take it out")
        try:
            draft.carry_out(message)
        except SadbError as error:
            if message.type not in _ENDING or error.errno not in (ENOENT, ESRCH):
                raise


class Loader:
    """Loads one file, at the start and again; `default` is taken where no other is given."""

    def __init__(
        self,
        given: Path | None,
        engine: FileEngine,
        *,
        obey: Callable[[Sequence[Effect]], Awaitable[None]],
        clock: Callable[[], Now],
        called: Callable[[], None],
        default: Path | None = None,
    ) -> None:
        self._given = given
        self._default = default
        self._engine = engine
        self._obey = obey
        self._clock = clock
        self._called = called

    async def load(self) -> bool:
        """Put the file in force; whether there is one. A default that was there must stay there.

        Raises:
            ShellError: it cannot be; what was in force before still is.
        """
        path = choose(self._given, self._default)
        if path is None:
            return False
        self._given = path
        draft = self._engine.draft(self._clock())
        try:
            wish = await trio.to_thread.run_sync(
                lambda: carry_out(path, parse(path), draft), abandon_on_cancel=True
            )
        except FaultsError as error:
            for fault in error.faults[:FAULTS_SHOWN]:
                LOG.error("load-fault at=%s", fault)
            raise
        loading = self._engine.loading
        try:
            await self._obey_all(loading.keys(wish, self._clock))
            await self._obey_all([loading.begin(wish, self._clock())])
        except SadbError as error:
            await self._obey_all([loading.take_back(self._clock())])
            raise ShellError(f"{path}: {error}, so it is not loaded") from None
        is_refused = loading.is_refused
        await self._obey_all(loading.finish(self._clock))
        if is_refused:
            raise ShellError(f"{path}: nft refused its policies", "the log says why")
        LOG.info("loaded file=%s sas=%d policies=%d", path, len(wish.sas), len(wish.policies))
        return True

    async def _obey_all(self, portions: Iterable[Sequence[Effect]]) -> None:
        """Obey one portion after the other, and let others have their turn between them."""
        for effects in portions:
            self._called()
            await self._obey(effects)
            await trio.lowlevel.checkpoint()


def choose(given: Path | None, default: Path | None) -> Path | None:
    """The file that was given, else the default where it exists."""
    return given or (default if default and default.exists() else None)
