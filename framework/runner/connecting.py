"""The producer of a process: there is one, opened on first use, opened again after a fork, and closed at exit.

Outside `worker`, the framework never configures OpenTelemetry and structlog: spans go to the host's provider, if it has
one.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from framework.engine.port import open_engine
from framework.model.errors import EngineError, EnqueueFailed, SettingsError
from framework.service.app import WorkerApp
from framework.service.options import resolve
from framework.service.producer import Producer
from framework.service.queues import Queue
from framework.service.settings import Settings, load_settings, renamed_variables

log = logging.getLogger("framework")

_lock = threading.RLock()
_importing = threading.RLock()
_opening = False
_current: tuple[int, Producer] | None = None


def process_producer(queue: Queue[Any]) -> Producer:
    """Return this process's producer; open it at the first call. Raises EnqueueFailed: not queued, with the cause."""
    found = _current
    if found is not None and found[0] == os.getpid() and not found[1].closed:
        return found[1]
    with _lock:
        if _current is None or _current[0] != os.getpid() or _current[1].closed:
            _open_for(queue)
        assert _current is not None
        return _current[1]


def _open_for(queue: Queue[Any]) -> None:
    """Open this process's producer. Raises EnqueueFailed.

    It also raises this in a signal handler or finalizer that interrupts this very call: half of what it needs may be
    imported, and it cannot wait for the code that it has interrupted.
    """
    global _opening
    if _opening:
        raise EnqueueFailed(
            f"queue {queue.name!r}: not queued: this call interrupts the first enqueue of its process, which is just "
            "opening the engine: enqueue once before, or use connect() at the start"
        )
    _opening = True
    try:
        install(open_producer(load_settings()))
    except (SettingsError, EngineError) as error:
        raise EnqueueFailed(f"queue {queue.name!r}: not queued: {error}") from error
    finally:
        _opening = False


def install(producer: Producer) -> None:
    """Make this producer the one of this process; a worker installs one on its own engine handle."""
    global _current
    _current = (os.getpid(), producer)


def open_producer(settings: Settings) -> Producer:
    """Return a producer on the settings' engine; spans go to the host's provider. Raises EngineError, SettingsError."""
    with _importing:
        from framework.telemetry import for_host  # OpenTelemetry takes 100 ms to import: load it only to enqueue

        engine = open_engine(
            settings.engine_url,
            incarnation=f"p{secrets.token_hex(8)}",
            durability=settings.durability,
            network_file_system=settings.network_file_system,
        )
        sending = for_host(engine.features.system)  # imports more
    engine.open([])
    features = engine.features
    if features.local and features.durable != "nothing" and not (engine.local_dir / "run").exists():
        where = engine.local_dir
        log.warning("jobs go to %s, where no worker has ever run; set WORKER_ENGINE_URL as in the worker", where)
    for note in (*renamed_variables(), *engine.notes):
        log.warning(note)
    return Producer(engine, options=partial(resolve, settings=settings), sending=sending)


@contextmanager
def connect(app: type[WorkerApp], settings: Settings | None) -> Generator[None, None, None]:
    """Open a producer now; inside the block it serves every queue that the app declares or inherits."""
    producer = open_producer(settings or load_settings())
    with ExitStack() as stack:
        stack.callback(producer.close)
        for queue in app.worker_queues.values():
            stack.enter_context(queue.connected(producer))
        yield


def _after_fork() -> None:
    """Reset the state in a forked child. The child must not close what the parent still uses, nor wait for a lock of a
    thread that does not exist in it."""
    global _lock, _importing, _current, _opening
    _lock, _importing = threading.RLock(), threading.RLock()
    _current, _opening = None, False


@atexit.register
def _close() -> None:
    if _current is not None and _current[0] == os.getpid():
        _current[1].close()


# Python itself cannot replace the lock of a module that another thread is importing: the child would wait without end.
os.register_at_fork(
    before=lambda: _importing.acquire(), after_in_parent=lambda: _importing.release(), after_in_child=_after_fork
)
