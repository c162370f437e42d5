"""docs/library.md: every example runs and prints what it says it prints."""

import contextlib
import io
import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.addresses import pair
from pfkey.const import MsgType, SaType
from pfkey.entries import SadEntry
from pfkey.message import Message
from tests.pfkey.fake_engine import FakeEngine, fake_engine
from tests.support.shell import Process
from tests.support.system import until

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "library.md").read_text()
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
BLOCKS = [(m["note"] or "", m["language"], m["text"]) for m in BLOCK.finditer(PAGE)]
MANAGER = next(text for note, _, text in BLOCKS if note == "file: manager.py")


def test_examples_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one program, against one pfkeyd."""
    names: dict[str, object] = {}
    shown = 0
    with Process(tmp_path) as daemon:
        monkeypatch.setenv("PFKEY_SOCKET", str(daemon.socket))
        for (note, language, code), (_, then, wanted) in itertools.pairwise(BLOCKS):
            if language != "python" or note:
                continue
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "library.md", "exec"), names)  # noqa: S102 - our own page
            assert then == "text"
            assert out.getvalue() == wanted
            shown += 1
        assert "Traceback" not in daemon.log
    assert shown == PAGE.count("```text") == PAGE.count("```python") - 1


def test_the_key_manager_has_forty_lines() -> None:
    """Without imports, docstrings and blank lines."""
    lines = [
        line
        for line in MANAGER.splitlines()
        if line.strip() and not re.match(r"import|from|\s+\"\"\"", line)
    ]
    assert 35 <= len(lines) <= 40


def test_the_key_manager_answers_an_acquire(tmp_path: Path) -> None:
    """Two of them, each with an engine of a few lines, over loopback."""
    near, far = "127.0.0.1", "127.0.0.2"
    (tmp_path / "manager.py").write_text(MANAGER)
    ends = pair(near, far)
    wanted = Message(type=MsgType.ACQUIRE, satype=SaType.ESP, seq=9, extensions=ends).encode()
    with fake_engine(tmp_path / "a") as here, fake_engine(tmp_path / "b") as there:
        here.wanted = [wanted]
        with manager(tmp_path, "b", far, there), manager(tmp_path, "a", near, here):
            until(lambda: here.types()[-1] == MsgType.ADD)
    added, updated = here.seen[-1], there.seen[-1]
    assert (added.seq, updated.type) == (9, MsgType.UPDATE)
    ours, theirs = SadEntry.of(added), SadEntry.of(updated)
    assert ours == theirs
    assert (ours.src, ours.dst, ours.spi) == (near, far, 0x100)
    assert len(ours.encrypt_key or b"") == 16


@contextlib.contextmanager
def manager(folder: Path, name: str, own: str, engine: FakeEngine) -> Iterator[None]:
    """The page's program, once it has registered."""
    with subprocess.Popen(
        [sys.executable, folder / "manager.py", own],
        env={**os.environ, "PFKEY_SOCKET": str(folder / name), "MANAGER_SECRET": "0011"},
    ) as process:
        until(lambda: MsgType.REGISTER in engine.types(), 20)
        yield
        process.kill()


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "reference.py"))["main"]()
    assert (ROOT / "docs" / "library-reference.md").read_text() == made, "run: make docs"
