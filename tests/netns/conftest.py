"""Two hosts, two networks with gateways; sockets that tests make in hosts end with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.sites import Vpn
from tests.support.wire import close_all


@pytest.fixture
def two(net: Net, tmp_path: Path) -> Two:
    """Two hosts with nothing in their databases."""
    return Two(net, tmp_path)


@pytest.fixture(scope="module")
def vpn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vpn]:
    """h, gateways g and r, k; a file's tests load what they want."""
    with Net() as net:
        yield Vpn(net, tmp_path_factory.mktemp("vpn"))


@pytest.fixture(autouse=True)
def _sockets_end_with_the_test() -> Iterator[None]:
    yield
    close_all()
