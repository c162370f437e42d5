"""Sockets that tests make in hosts end with the test."""

from collections.abc import Iterator

import pytest

from tests.support.wire import close_all


@pytest.fixture(autouse=True)
def _sockets_end_with_the_test() -> Iterator[None]:
    yield
    close_all()
