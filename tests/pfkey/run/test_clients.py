"""Programs that are built elsewhere: their calls in their order, as their sources have them."""

from pathlib import Path

import pytest

from tests.support.shell import Process
from tests.support.supervised import compile_client, run

pytestmark = pytest.mark.root
SOURCE = Path(__file__).with_name("clients.c")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("clients"), source=SOURCE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("setkey", "register 0: 0 0 2 2, promiscuous 0, then EAGAIN"),
        ("racoon", "3 registered, 1 of the dump, errno 2"),
        ("charon", "SPI cxxxxxxx, larval deleted 0, then ESRCH, heard 1"),
        ("libreswan", "50 answers, 0 others"),
    ],
)
def test_a_known_program_finds_what_it_looks_for(
    daemon: Process, clients: Path, name: str, said: str
) -> None:
    done = run(daemon.socket, clients, name)
    assert (done.stdout, done.stderr) == (f"{said}\n", "")
