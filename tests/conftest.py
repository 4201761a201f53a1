"""For all tests."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterator

import pytest

from framework.engine import flocks
from framework.engine.calls import Calls

# Started in the background of a shell, this process ignores SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mix the files that wait with those that compute, so that tests that run side by side seldom do the same."""
    if hasattr(config, "workerinput"):  # of xdist, whose workers must all have the same order
        items.sort(key=lambda item: zlib.crc32(str(item.path.relative_to(config.rootpath)).encode()))


@pytest.fixture(autouse=True)
def no_descriptors_left() -> Iterator[None]:
    """Tests play processes that die without closing anything; here their descriptors would add up beyond 1,024."""
    before = set(flocks._kept)
    yield
    for fd in flocks._kept - before:
        flocks.drop(Calls, fd)  # type: ignore[arg-type]
