"""For all tests."""

from __future__ import annotations

import importlib
import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import suppress

import pytest

from framework.engine import flocks
from framework.engine.calls import Calls

# Started in the background of a shell, this process ignores SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let each worker of xdist import its share of the tests first.

    On a fresh checkout the assertions of each file must be rewritten, which is most of the time to the first test. The
    workers collect in the same order, so all of them would rewrite the same file; what another has written is read.
    """
    if not hasattr(session.config, "workerinput"):
        return
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    here = session.config.rootpath
    asked = [here / argument.partition("::")[0] for argument in session.config.args]
    found = sorted({path for place in asked for path in (place.rglob("test_*.py") if place.is_dir() else [place])})
    for path in found[number :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
        with suppress(Exception, pytest.skip.Exception):  # collection says it, where that file is asked for
            importlib.import_module(".".join(path.relative_to(here).with_suffix("").parts))


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
