"""Which producer a process uses, on a real spool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from framework import EnqueueFailed, Queue, Settings, WorkerApp
from framework.engine.port import open_engine
from framework.model.errors import EngineError, SettingsError
from framework.runner import connecting


class Contract(WorkerApp):
    a = Queue[int]("a")
    b = Queue[int]("b", max_length=2)


class Leaf(Contract):
    c = Queue[int]("c")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The process's producer on a directory of this test; the one before is put back."""
    for name in [name for name in os.environ if name.startswith("WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORKER_ENGINE_URL", f"spool:{tmp_path}/own")
    monkeypatch.setattr(connecting, "_current", None)
    yield tmp_path
    if connecting._current is not None:
        connecting._current[1].close()


def stored(root: Path, queue: Queue[int]) -> list[int]:
    broker = open_engine(f"spool:{root}", incarnation="reader")
    broker.open([queue.options])
    try:
        return sorted(int(view.job.payload) for view in broker.browse(queue.name, "ready"))  # type: ignore[attr-defined]
    finally:
        broker.close()


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked child; its exit code, 0 if it returned."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_one_producer_per_process_opened_on_first_use(place: Path) -> None:
    assert not (place / "own").exists()
    Contract.a.enqueue(1)
    first = Contract.a.sender()
    Leaf.c.enqueue(2)
    assert Leaf.c.sender() is first
    assert (stored(place / "own", Contract.a), stored(place / "own", Leaf.c)) == ([1], [2])


def test_threads_share_it() -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(Contract.a.sender())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_another_after_a_fork(place: Path) -> None:
    Contract.a.enqueue(1)
    mine = Contract.a.sender()

    def work() -> None:
        Contract.a.enqueue(2)
        assert Contract.a.sender() is not mine

    assert in_child(work) == 0
    Contract.a.enqueue(3)
    assert Contract.a.sender() is mine
    assert stored(place / "own", Contract.a) == [1, 2, 3]


def test_a_fork_while_another_thread_opens_it(place: Path) -> None:
    """The child must not wait for a lock whose holder it has not inherited."""
    with connecting._lock:
        assert in_child(lambda: Contract.a.enqueue(1)) == 0
    assert stored(place / "own", Contract.a) == [1]


IMPORTING = """
import os, signal, sys, threading, time
from framework import Queue, WorkerApp

class App(WorkerApp):
    q = Queue[int]("q")

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "framework.telemetry":
            importing.set()
            time.sleep(0.5)

importing = threading.Event()
sys.meta_path.insert(0, Slow())
threading.Thread(target=App.q.enqueue, args=(1,)).start()
importing.wait()
if (pid := os.fork()) == 0:
    signal.alarm(20)
    App.q.enqueue(2)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_fork_while_another_thread_imports_what_it_needs(place: Path) -> None:
    """Regression: the child waited for ever for the lock of a module that nobody imports there."""
    command = [sys.executable, "-c", dedent(IMPORTING)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "0\n", run.stderr
    assert sorted(stored(place / "own", Queue[int]("q"))) == [1, 2]


def test_a_closed_one_is_replaced(place: Path) -> None:
    Contract.a.enqueue(1)
    assert connecting._current is not None
    connecting._current[1].close()
    Contract.a.enqueue(2)
    assert stored(place / "own", Contract.a) == [1, 2]


def test_settings_of_the_environment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES__A__MAX_PAYLOAD_BYTES", "2")
    with pytest.raises(Exception, match="max_payload_bytes is 2"):
        Contract.a.enqueue(1000)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("WORKER_ENGINE_URL", "redis://x", "no engine 'redis'"),
        ("WORKER_DRAIN", "soon", "WORKER_DRAIN='soon'"),
        ("WORKER_QUEUES__A__TTL", "0", "WORKER_QUEUES__A__TTL: ttl=0.0"),
        ("WORKER_ENGINE_URL", "spool:/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_what_cannot_be_opened_is_an_enqueue_error(
    name: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnqueueFailed, match=r"^queue 'a': ") as failed:
        Contract.a.enqueue(1)
    assert complaint in str(failed.value)
    assert isinstance(failed.value.__cause__, (SettingsError, EngineError))


def test_connect_is_in_force_inside_its_block_for_all_queues(place: Path) -> None:
    Contract.a.enqueue(1)
    with Leaf.connect(Settings(engine_url=f"spool:{place}/other")):
        for queue in (Contract.a, Contract.b, Leaf.c):
            queue.enqueue(2)
        with Contract.connect(Settings(engine_url=f"spool:{place}/inner")):
            Contract.a.enqueue(3)
            Leaf.c.enqueue(4)  # not a queue of Contract
        Contract.a.enqueue(5)
    Contract.a.enqueue(6)
    assert stored(place / "own", Contract.a) == [1, 6]
    assert stored(place / "other", Contract.a) == [2, 5]
    assert stored(place / "other", Leaf.c) == [2, 4]
    assert stored(place / "inner", Contract.a) == [3]
    assert Contract.a._connected == []


def test_connect_is_restored_and_closed_after_an_error(place: Path) -> None:
    seen = []

    def work() -> None:
        with Contract.connect():
            seen.append(Contract.a.sender())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert seen[0].closed  # type: ignore[attr-defined]
    assert Contract.a._connected == []


def test_connect_opens_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Contract.connect():
        assert (place / "own").is_dir()
    monkeypatch.setenv("WORKER_ENGINE_URL", "nothing:")
    with pytest.raises(SettingsError, match="no engine 'nothing'"), Contract.connect():
        pass
    (place / "file").write_text("")
    with pytest.raises(EngineError), Contract.connect(Settings(engine_url=f"spool:{place}/file")):
        pass
    assert Contract.a._connected == []


def test_a_fork_inside_connect(place: Path) -> None:
    with Contract.connect(Settings(engine_url=f"spool:{place}/other")):
        Contract.a.enqueue(1)
        assert in_child(lambda: [Contract.a.enqueue(2), Contract.b.enqueue(2)]) == 0
        Contract.a.enqueue(3)
    assert stored(place / "other", Contract.a) == [1, 2, 3]
    assert stored(place / "other", Contract.b) == [2]


SCRIPT = """
    import os, sys
    from framework import Queue, WorkerApp
    from framework.runner import connecting
    class App(WorkerApp):
        q = Queue[int]("q")
    App.q.enqueue(1)
    producer = connecting._current[1]
    close = producer._engine.close
    parent = os.getpid()
    def close_and_tell():
        os.write(1, b"closed by the parent\\n" if os.getpid() == parent else b"BY THE CHILD\\n")
        close()
    producer._engine.close = close_and_tell
    if os.fork() == 0:
        sys.exit()  # runs what was registered at exit, too
    os.wait()
    heavy = ("opentelemetry.sdk", "structlog", "click", "rich")
    print([name for name in heavy if name in sys.modules], flush=True)
"""


def test_closed_at_exit_by_its_owner_alone_and_nothing_is_configured(place: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", dedent(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
        check=False,
    )
    assert (run.returncode, "Traceback" in run.stderr) == (0, False), run.stderr
    assert run.stdout == "[]\nclosed by the parent\n"
