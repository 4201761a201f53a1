"""A real `worker run` in a test: its log as events, its processes, its ledger of what ran."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from framework import WorkerApp
from framework.engine.port import QueueStats, open_engine
from framework.process.scoreboard import HOOKS, Scoreboard, SlotState, process_start
from framework.runner.connecting import open_producer
from framework.runner.resolving import resolve
from framework.service.producer import Producer
from framework.service.queues import Queue
from framework.service.settings import Settings
from tests.support.output import Event, Output
from tests.support.processes import send
from tests.support.services.torture import Torture
from tests.support.warm import WORKER, Running, can_be_warm, run, warm

PATIENCE = 60.0
HERE = Path(__file__).parents[2]


class Tree:
    """One `worker run`, on a store and with a ledger of its own below `place`. It may be started again and again.

    Args:
        place: a directory of this test.
        url: of its engine; empty = a spool in `place`.
        keep: is called with each event of the log; those for which it returns False are forgotten.

    Attributes:
        environ: the environment of its processes, which `start` adds to.
        life: pid and start of its supervisor.
        pids: pid and start of each process that was seen on its board.
    """

    def __init__(self, place: Path, url: str = "", keep: Callable[[Event], bool] = lambda event: True) -> None:
        self.place = place
        self.root = place / "spool"  # also of an engine that is not local: its part on this machine
        self.url = url or f"spool:{self.root}"
        self.app: type[WorkerApp] = Torture  # whose queues `stats` knows
        self.ledger_path = place / "ledger"
        self.ledger_path.touch()
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # a copy of the tree is tested, not what is installed
            "LEDGER": str(self.ledger_path),
            "WORKER_ENGINE_URL": self.url,
            "WORKER_DURABILITY": "process",
            "WORKER_LOG_LEVEL": "debug",
            "OTEL_SDK_DISABLED": "true",
        }
        self.process: subprocess.Popen[bytes] | Running | None = None
        self.life = (0, 0)
        self.pids: set[tuple[int, int]] = set()
        self._keep = keep
        self._changed = threading.Condition()
        self._output: Output | None = None
        self._events: list[Event] = []

    # --- the tree ---------------------------------------------------------------------------------------------------

    def start(
        self,
        *arguments: str,
        module: str = "tests.support.services.torture",
        ready: bool = True,
        command: str = "",
        fresh: bool = False,
        **environ: str,
    ) -> None:
        """Starts it, by `command` if there is one; waits until all its workers are ready.

        Args:
            fresh: in an interpreter of its own, whose environment the kernel shows.
        """
        self._events.clear()
        env = {**self.environ, **environ}
        start = self._start_fresh if fresh or command or not can_be_warm(env) else self._start_warm
        self.process = start(command, "run", module, *arguments, env=env)
        self.life = (self.process.pid, process_start(self.process.pid))
        self._output = Output(self.process, self._events, self._changed, self._keep)
        if ready:
            self.wait_ready()

    def _start_fresh(self, command: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*filter(None, [command]), WORKER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=HERE,
        )

    def _start_warm(self, _: str, *arguments: str, env: dict[str, str]) -> Running:
        read, write = os.pipe()
        with open(write, "wb") as output, open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno(), output.fileno(), output.fileno())
            process = warm().start(*arguments, cwd=HERE, env=env, streams=streams)
        process.stdout = open(read, "rb")
        return process

    def run_worker(self, *arguments: str) -> str:
        """Another `worker` command on the same store; its output."""
        done = run(*arguments, data=b"", cwd=HERE, env=self.environ, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def wait_ready(self) -> None:
        self.wait(
            lambda: self.boards() and all(slot.state == 2 for slot in self.slots() if slot.name != HOOKS),
            "all slots ready",
        )

    def events(self, name: str | None = None, **match: object) -> list[Event]:
        """Log events of a name whose keys match, of all that has been written so far."""
        with self._changed:
            if self._output is not None:
                self._output.take()
            found = list(self._events)
        return [
            event
            for event in found
            if (name is None or event["event"] == name) and all(event.get(key) == value for key, value in match.items())
        ]

    def exits(self) -> list[tuple[str, ...]]:
        """Which processes have ended so far, and how: short enough to be read in a failed assertion."""
        exits = self.events("process_exited")
        return [tuple(str(event[key]) for key in ("slot", "reason", "detail")) for event in exits]

    def wait_event(self, name: str, count: int = 1, **match: object) -> Event:
        """Blocks until there were `count` of them; the last."""
        self.wait(lambda: len(self.events(name, **match)) >= count, f"{count} of {name} {match}")
        return self.events(name, **match)[-1]

    def wait(self, happened: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Blocks until something has happened; looks whenever a log line came, and now and then."""
        end = time.monotonic() + patience
        while not happened():
            assert time.monotonic() < end, f"waited {patience} s for: {what}\n{self.tail()}\n{self.ledger()[-20:]}"
            with self._changed:
                self._changed.wait(0.02)

    def tail(self, most: int = 40) -> str:
        return "\n".join(json.dumps(event) for event in self.events()[-most:])

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def exit_code(self, patience: float = PATIENCE) -> int:
        """Waits for the supervisor's end."""
        assert self.process is not None
        return self.process.wait(patience)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.exit_code()

    def boards(self) -> list[Path]:
        return sorted((self.root / "run").glob("*.board"))

    def board(self) -> Scoreboard:
        return Scoreboard.open(self.boards()[0])

    def slots(self) -> list[SlotState]:
        try:
            slots = self.board().all_slots()
        except (IndexError, OSError, ValueError):
            return []
        for slot in slots:
            if slot.pid:
                self.pids.add((slot.pid, slot.pid_start))
        return slots

    def workers(self, queue: str) -> list[SlotState]:
        return [slot for slot in self.slots() if slot.name.startswith(f"{queue}/")]

    def pid(self, name: str) -> int:
        return next(slot.pid for slot in self.slots() if slot.name == name)

    # --- jobs -------------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return Settings(engine_url=self.url, durability=self.environ["WORKER_DURABILITY"])  # type: ignore[arg-type]

    @cached_property
    def producer(self) -> Producer:
        """One of this process, which is opened for the first job."""
        return open_producer(self.settings)

    def enqueue(self, queue: Queue[Any], payload: Any, **options: Any) -> str:
        with queue.connected(self.producer):
            return queue.enqueue(payload, **options)

    def ledger(self) -> list[str]:
        return self.ledger_path.read_text().splitlines()

    def ran(self, prefix: str) -> list[str]:
        return [line for line in self.ledger() if line.startswith(prefix)]

    def wait_ledger(self, prefix: str, count: int = 1) -> list[str]:
        self.wait(lambda: len(self.ran(prefix)) >= count, f"{count} of {prefix!r} in the ledger")
        return self.ran(prefix)

    def broker(self) -> Any:
        return open_store(self.app, self.url)

    def stats(self, queue: str) -> QueueStats:
        with closing(self.broker()) as broker:
            return broker.stats(queue)

    def letters(self, queue: str) -> list[Any]:
        """Dead letters of a queue, wherever they lie."""
        places = [("dead", "ready"), ("dead", "dead"), ("dead", "in_flight"), (queue, "dead")]
        with closing(self.broker()) as broker:
            return [view for name, state in places for view in broker.browse(name, state) if view.job.queue == queue]

    def close(self) -> None:
        """Ends what is left, by the pids that we know to be ours."""
        self.slots()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, start in self.pids:
            send(pid, start, signal.SIGKILL)
        for line in self.ran("child "):
            pid = int(line.split()[1])
            if process_start(pid):
                os.kill(pid, signal.SIGKILL)
        if "producer" in vars(self):
            self.producer.close()


def open_store(app: type[WorkerApp], url: str) -> Any:
    """Return an engine with the queues of an app, to look at what lies there."""
    found = open_engine(url, incarnation=f"look-{os.urandom(6).hex()}", durability="process")
    found.open(list(resolve(app, Settings(engine_url=url, durability="process")).values()))
    return found


def waiting(app: type[WorkerApp], url: str) -> dict[str, int]:
    """Return how many jobs wait or run in each queue of an app that has some."""
    with closing(open_store(app, url)) as store:
        found = {queue.name: store.stats(queue.name) for queue in app.worker_queues.values()}
    counts = {name: stats.ready + stats.delayed + stats.in_flight for name, stats in found.items()}
    return {name: count for name, count in counts.items() if count}


def unfinished(app: type[WorkerApp], url: str) -> int:
    """Return how many jobs of all queues of an app wait or run."""
    return sum(waiting(app, url).values())


def trees(place: Path, url: str = "") -> Iterator[Tree]:
    tree = Tree(place, url)
    try:
        yield tree
    finally:
        tree.close()
