"""For all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from framework.engine import flocks
from framework.engine.calls import Calls

# Started in the background of a shell, this process ignores SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_descriptors_left() -> Iterator[None]:
    """Tests play processes that die without closing anything; here their descriptors would add up beyond 1,024."""
    before = set(flocks._kept)
    yield
    for fd in flocks._kept - before:
        flocks.drop(Calls, fd)  # type: ignore[arg-type]
