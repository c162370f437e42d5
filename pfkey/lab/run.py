"""One example from beginning to end, told as it happens, every claim checked.

1. the example's hosts and links, a pfkeyd where it has one
2. the FAQ's files; `setkey -D` and `-DP`
3. the conversation: `Talk`, or `Mail` where one port alone is protected
4. everything is taken down, or kept
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from pfkey.errors import ShellError
from pfkey.lab import kept
from pfkey.lab.example import Example
from pfkey.lab.hosts import Net
from pfkey.lab.mail import Mail
from pfkey.lab.stage import Stage
from pfkey.lab.story import Story
from pfkey.lab.talk import Talk
from pfkey.lab.wire import write_pcap


def run(example: Example, story: Story, capture_path: Path, *, keep: bool = False) -> None:
    """Run one example. Failed checks are in `story.failed`.

    Raises:
        ShellError: something is missing; the remedy is in it.
    """
    if keep and kept.is_up(example.name):
        raise ShellError(f"{example.name} is up already", "pfkey lab --down")
    os.environ.pop("PFKEY_SOCKET", None)  # the namespace says which pfkeyd answers
    began = time.monotonic()
    write_pcap(capture_path, [])  # before anything is built: a place that is not ours
    story.title(f"{example.name}: {example.title}")
    story.say()
    story.note(example.picture)
    logs = Path(tempfile.mkdtemp(prefix="pfkey-lab-"))
    try:
        _perform(example, story, capture_path, logs, keep=keep)
    except (KeyboardInterrupt, SystemExit, ShellError):
        shutil.rmtree(logs)
        raise
    if keep or story.failed:
        story.note(f"pfkeyd's logs are in {logs}")
    else:
        shutil.rmtree(logs)
    story.say()
    story.note(f"capture file: {capture_path}")
    story.note(f"took {time.monotonic() - began:.1f} s")


def _perform(example: Example, story: Story, capture_path: Path, logs: Path, *, keep: bool) -> None:
    prefix = f"lab{os.getpid()}-{example.name}-" if keep else None
    with Net(story.tracer(), prefix=prefix) as net:
        stage = Stage(example, story, net, logs)
        stage.begin(keep=keep)
        talk = (Mail if example.port else Talk)(stage)
        talk.configure()
        talk.play(capture_path)
        if keep:
            stage.keep()
        else:
            stage.end()
