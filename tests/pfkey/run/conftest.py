"""The program, and a pfkeyd without packets, for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell import Process
from tests.support.supervised import compile_client, ended


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`client.c`, linked as usual."""
    return compile_client(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="session")
def static_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`client.c`, with all it needs in itself."""
    return compile_client(tmp_path_factory.mktemp("static"), "-static")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A pfkeyd that is stopped in the end, when all supervisors have gone."""
    with Process(tmp_path_factory.mktemp("pfkeyd")) as running:
        yield running
        ended(running.socket)
        assert running.stop() == 0
