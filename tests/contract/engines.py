"""One small adapter per engine: a fresh place, another owner on it, the death of one, and time.

A new engine is a class here and a line in ENGINES; what it cannot do it says in its Features, and tests skip by those.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from framework.engine.memory.engine import MemoryStore
from framework.engine.port import Engine as Contract
from framework.engine.port import Inspector, open_engine
from framework.engine.spool.disk.clock import boottime_ns
from framework.model.job import RunRecord
from framework.model.options import QueueOptions
from tests.spool.world import in_segments
from tests.support import postgres

from .slow import Persistent

T = TypeVar("T")
SLEPT = 5.0  # seconds; a shorter time passes by itself


class Owner(Contract, Inspector, Protocol):
    """A broker with its inspector: every engine so far is both."""


class Engine:
    """What the suite needs of an engine.

    Attributes:
        moment: seconds after which something may become due in a test. Long enough that what is not due yet can be
            looked at, short enough to be waited for.
        file_moment: the same where the kernel's times of files count.
        born: incarnation of the owner that was opened last.
    """

    moment: float
    file_moment: float
    born = ""

    def __init__(self) -> None:
        self._queues: dict[str, QueueOptions] = {}
        self._opened: list[Owner] = []
        self._births = 0

    def open(self, *queues: QueueOptions) -> Owner:
        """Another owner; the queues of earlier calls are declared again for it."""
        broker = self._birth(*queues)
        self._opened.append(broker)
        return broker

    def die(self, work: Callable[[Owner], T], *queues: QueueOptions) -> tuple[str, T]:
        """An owner is born, does `work` and is dead; returns its incarnation and what `work` returned (plain data)."""
        raise NotImplementedError

    def silence(self, owner: str) -> bool:
        """The others take this owner for dead, and it lives. False: on this engine that cannot be."""
        return False

    def lose(self, broker: Owner, job_id: str) -> bool:
        """A job of the queue jobs vanishes, as by hand. False: on this engine that cannot be."""
        return False

    def now(self) -> float:
        """Wall clock of the engine, seconds since the epoch."""
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        """So much time passes."""
        raise NotImplementedError

    def close(self) -> None:
        for broker in self._opened:
            broker.close()

    def _birth(self, *queues: QueueOptions) -> Owner:
        self._queues.update({options.name: options for options in queues})
        self._births += 1
        self.born = f"owner-{os.getpid()}-{self._births}"
        broker = self._connect(self.born)
        broker.open(list(self._queues.values()))
        return broker

    def _connect(self, incarnation: str) -> Any:
        raise NotImplementedError


class MemoryEngine(Engine):
    """Time stands still unless it is advanced."""

    moment = file_moment = 60.0

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._store = MemoryStore()
        self._time = 1_700_000_000.0

    def die(self, work: Callable[[Owner], T], *queues: QueueOptions) -> tuple[str, T]:
        broker = self._birth(*queues)
        result = work(broker)
        self._store.kill(self.born)
        return self.born, result

    def silence(self, owner: str) -> bool:
        self._store.kill(owner)
        return True

    def now(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        self._time += seconds

    def _connect(self, incarnation: str) -> Any:
        return open_engine("memory:", incarnation=incarnation, store=self._store, clock=self.now)


class SlowEngine(MemoryEngine):
    """The one in memory, seen from far away: its settlements stop in the middle and are not answered, and are repeated.

    What takes 20 ms in the tests of workers takes less here: the suite makes thousands of calls, one after the other.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._elsewhere: dict[bytes, RunRecord] = {}

    def _connect(self, incarnation: str) -> Any:
        return Persistent(super()._connect(incarnation), seconds=0.0005, elsewhere=self._elsewhere)


class SpoolEngine(Engine):
    """A real directory, and owners that are processes killed by SIGKILL. Long times pass by their clocks."""

    moment, file_moment = 60.0, 0.4

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._root = place / "spool"
        self._ahead = 0.0

    def die(self, work: Callable[[Owner], T], *queues: QueueOptions) -> tuple[str, T]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._live_and_die(work, queues, write)
        os.close(write)
        try:
            with open(read, "rb") as pipe:
                report = pipe.read()
        finally:
            os.kill(child, signal.SIGKILL)  # not reaped yet: the pid is still its own
            _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"the owner was to die by SIGKILL, status {status}"
        assert report, "the owner died before it had done its work"
        incarnation, result, error = pickle.loads(report)
        assert not error, f"in the owner that was to die:\n{error}"
        return incarnation, result

    def _live_and_die(self, work: Callable[[Owner], Any], queues: tuple[QueueOptions, ...], write: int) -> None:
        """The child. Nothing of it may return into pytest."""
        try:
            try:
                broker = self._birth(*queues)
                report = pickle.dumps((self.born, work(broker), ""))
            except BaseException:
                report = pickle.dumps(("", None, traceback.format_exc()))
            with open(write, "wb") as pipe:
                pipe.write(report)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def lose(self, broker: Owner, job_id: str) -> bool:
        view: Any = broker.find("jobs", job_id, "ready")
        (self._root / view.stored.path).unlink()
        return True

    def now(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        if seconds < SLEPT:
            time.sleep(seconds)
        else:
            self._leap(seconds)

    def _leap(self, seconds: float) -> None:
        self._ahead += seconds

    def _birth(self, *queues: QueueOptions) -> Owner:
        broker = super()._birth(*queues)
        self._set_clock(broker)
        return broker

    def _set_clock(self, broker: Any) -> None:
        clock = broker._spool.opened()[1]
        clock.wall = self.now
        clock.boottime = lambda: boottime_ns() + round(self._ahead * 1e9)

    def _connect(self, incarnation: str) -> Any:
        return open_engine(f"spool:{self._root}", incarnation=incarnation)


class PostgresEngine(SpoolEngine):
    """A real server, whose tables are empty at first. Long times pass by its clock."""

    file_moment = 60.0

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._local = place / "local"
        self._url = f"{postgres.shared().url}?local_dir={self._local}"
        postgres.empty(postgres.shared())

    def _leap(self, seconds: float) -> None:
        super()._leap(seconds)
        postgres.shared().execute(f"insert into worker.shift values ({seconds})")

    def _set_clock(self, broker: Any) -> None:
        """It is the server's."""

    def lose(self, broker: Owner, job_id: str) -> bool:
        postgres.shared().execute(f"delete from worker.job where id = '{job_id}'")
        return True

    def silence(self, owner: str) -> bool:
        (self._local / "owners" / owner).unlink()
        return True

    def _connect(self, incarnation: str) -> Any:
        return open_engine(self._url, incarnation=incarnation)


class SegmentEngine(SpoolEngine):
    """The same, which stores every runnable job in a segment, also one that comes alone."""

    def _birth(self, *queues: QueueOptions) -> Owner:
        broker = super()._birth(*queues)
        in_segments(broker)  # type: ignore[arg-type]
        return broker

    def lose(self, broker: Owner, job_id: str) -> bool:
        return False  # not one job of a segment alone


ENGINES: dict[str, Callable[[Path], Engine]] = {
    "memory": MemoryEngine,
    "slow": SlowEngine,
    "spool": SpoolEngine,
    "segments": SegmentEngine,
    "postgresql": PostgresEngine,
}
