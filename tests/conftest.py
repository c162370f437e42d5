"""Rules for all tests: no skip under CI, root where it is asked for, Hypothesis' settings."""

import os
import signal
import socket
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from pfkey.lab.hosts import Net
from pfkey.transport import control_path
from tests.support.shell import Process, connect

CI = os.environ.get("CI") == "true"

settings.register_profile(
    "house",
    deadline=None,  # shared machines: a slow example is no fault
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")


def pytest_configure() -> None:
    """A job in the background ignores SIGINT, and so would each program that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: sudo make test"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report


@pytest.fixture
def net() -> Iterator[Net]:
    """A set of hosts as network namespaces, torn down whatever happens."""
    with Net() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A pfkeyd without a data path, for all tests of a file."""
    with Process(tmp_path_factory.mktemp("pfkeyd")) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log


@pytest.fixture
def ctl(daemon: Process) -> Iterator[socket.socket]:
    """A connection to its control socket."""
    with connect(control_path(daemon.socket)) as sock:
        yield sock
