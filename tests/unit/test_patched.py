"""Code that replaces what a supervisor waits with is refused before anything is started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from framework import Queue, WorkerApp
from framework.model.errors import UsageError
from framework.runner.resolving import check, refuse_patched
from framework.service.settings import Settings


class Patched(WorkerApp):
    jobs = Queue[str]("jobs")

    @jobs.handler
    def work(self, key: str) -> None: ...


def stand_in(module: str) -> Any:
    def replacement(*_: object) -> None: ...

    replacement.__module__ = module
    return replacement


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as inner:
        yield inner


@pytest.mark.parametrize(
    ("module", "name", "by", "refused"),
    [
        (os, "fork", "gevent.os", True),
        (os, "fork", "pydevd", False),
        (os, "waitpid", "gevent.os", True),
        (os, "waitpid", "somebody", True),
        (select, "poll", "gevent.select", True),
        (signal, "signal", "gevent.signal", True),
        (subprocess, "Popen", "eventlet.green.subprocess", True),
        (subprocess, "Popen", "opentelemetry.instrumentation", False),
        (time, "sleep", "eventlet.greenthread", True),
        (time, "monotonic", "freezegun.api", True),
    ],
)
def test_each_call(patch: pytest.MonkeyPatch, module: ModuleType, name: str, by: str, refused: bool) -> None:
    refuse_patched(Patched)
    patch.setattr(module, name, stand_in(by))
    if not refused:
        refuse_patched(Patched)
        return
    with pytest.raises(UsageError) as caught:
        refuse_patched(Patched)
    assert str(caught.value).startswith(f"Patched is patched by {by.partition('.')[0]} ({module.__name__}.{name}): ")
    with pytest.raises(UsageError):
        check(Patched, Settings())


def test_a_system_without_one_of_them_is_not_patched(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "waitid")
    refuse_patched(Patched)


REAL = """
{patch}
import os
from framework import Queue, WorkerApp

class Relay(WorkerApp):
    jobs = Queue[str]("jobs")

    @jobs.handler
    def work(self, key: str) -> None:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("library", "statement"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("gevent", "from gevent import monkey; monkey.patch_os()"),
        ("gevent", "from gevent import monkey; monkey.patch_thread()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_the_real_ones(tmp_path: Any, library: str, statement: str) -> None:
    pytest.importorskip(library)
    import sys
    from pathlib import Path

    (tmp_path / "relay.py").write_text(REAL.format(patch=statement))
    worker = Path(sys.executable).with_name("worker")
    environ = {**os.environ, "WORKER_ENGINE_URL": f"spool:{tmp_path}/spool"}
    done = subprocess.run(
        [worker, "run", "relay"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert f"worker: error: Relay is patched by {library} (" in done.stderr.splitlines()[-1]
