"""One run of the example: receiver, `worker run`, traffic, and somebody who kills."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.process.scoreboard import READY, Scoreboard, SlotState
from services.example_worker.demo import worker_command
from services.example_worker.queues import RelayQueues
from tests.stack.layout import Layout
from tests.support.ledger import Run as Ran
from tests.support.ledger import read
from tests.support.processes import kill
from tests.support.programs import Process, get, plain_environ, wait_for
from tests.support.tree import unfinished

HANG = 2  # seconds for which the receiver holds a request that it does not answer; more than RELAY_TIMEOUT
BATCH = 20
# What waits for seconds in production waits for tenths here. Jobs are killed more often than a poison job would be
# suffered, so they may be tried often.
HASTE = {
    "WORKER_QUEUES__DELIVERIES__RETRY__FIRST_DELAY": "0.2",
    "WORKER_QUEUES__DELIVERIES__RETRY__MAX_DELAY": "2",
    "WORKER_QUEUES__DIGESTS__RETRY__FIRST_DELAY": "0.2",
    "WORKER_QUEUES__DIGESTS__RETRY__MAX_RETRIES": "20",
    "WORKER_RESTART_BUDGET": "1000",
    "WORKER_LOG_FORMAT": "json",
    "WORKER_TELEMETRY_FLUSH": "10",
    "RELAY_TIMEOUT": "1",
}


@dataclass
class Plan:
    """What a run does.

    Attributes:
        name: `service.name` of its three programs ends with it; empty = as compose names them.
        jobs, rate: deliveries, and how many a second; a digest for every `BATCH` of them.
        kill_every: seconds between two kills; 0 = none.
        shares: what the receiver answers how often.
        environ: more for the worker.
    """

    name: str
    jobs: int
    rate: float
    kill_every: float = 0.0
    shares: str = "ok=80,503=5,429=4,500=4,404=4,hang=3"
    environ: Mapping[str, str] = field(default_factory=dict)


class Run:
    """Processes and results of one plan.

    Attributes:
        began, ended: seconds since the epoch.
        kills: by kind of process; killed: pids.
        ran: the ledger.
        received: the receiver's own counts.
        code: exit code of `worker run`.
    """

    def __init__(self, plan: Plan, layout: Layout, place: Path) -> None:
        self.plan, self.place, self._layout = plan, place, layout
        self.kills: Counter[str] = Counter()
        self.killed: set[int] = set()
        self.slots: set[str] = set()
        self.ran: Sequence[Ran] = ()
        self.received: dict[str, Any] = {}
        self.code: int | None = None
        self.began = self.ended = 0.0
        self._over = threading.Event()
        self._random = random.Random(1)
        place.mkdir(parents=True)
        (place / "ledger").touch()

    def service(self, program: str) -> str:
        """`service.name` of worker, receiver or traffic."""
        return f"example-{program}" + (f"-{self.plan.name}" if self.plan.name else "")

    @property
    def digests(self) -> int:
        return -(-self.plan.jobs // BATCH)

    def go(self) -> None:
        """Until every job is settled and all three programs have ended. Raises NotInTime."""
        self.began = time.time()
        python, example = sys.executable, "services.example_worker"
        with ExitStack() as cleanup:
            # The port is one of the layout's, and each run has a receiver of its own: the one before has ended.
            port = self._layout.port("receiver", 8900)
            arguments = ["--port", str(port), "--shares", self.plan.shares, "--hang", str(HANG), "--retry-after", "1"]
            receiver = self._start("receiver", [python, "-m", f"{example}.receiver", *arguments])
            cleanup.callback(receiver.stop)
            worker = self._start("worker", [worker_command(), "run", "tests.stack.service"])
            cleanup.callback(worker.stop)
            wait_for(lambda: worker.check() and self._all_ready(), "all slots ready")
            rate = ["--jobs", str(self.plan.jobs), "--rate", str(self.plan.rate), "--batch", str(BATCH)]
            traffic = self._start("traffic", [python, "-m", f"{example}.traffic", *rate])
            cleanup.callback(traffic.stop)
            killer = threading.Thread(target=self._kill, daemon=True)
            killer.start()
            traffic.wait(60 + self.plan.jobs / self.plan.rate)
            self._over.set()
            killer.join()
            wait_for(lambda: worker.check() and not self._open_jobs(), "every job settled", 120)
            self.code = worker.stop()
            time.sleep(HANG)  # the receiver's span of a request that hangs ends when it is let go
            self.received = get(f"http://127.0.0.1:{port}/stats")
        self.ran = read(self.place / "ledger").started
        self.ended = time.time()

    def _start(self, program: str, command: Sequence[str]) -> Process:
        environ = plain_environ() | self._layout.environ(program) | {"OTEL_SERVICE_NAME": self.service(program)}
        if "WORKER_ENGINE_URL" in environ:
            environ["WORKER_ENGINE_URL"] = f"spool:{self.place / 'spool'}"
        if program == "worker":
            environ |= {**HASTE, "LEDGER": str(self.place / "ledger"), **self.plan.environ}
        return Process(program, command, environ, self.place / f"{program}.log")

    # --- the store --------------------------------------------------------------------------------------------------

    def _all_ready(self) -> bool:
        slots = self._slots()
        self.slots |= {slot.name for slot in slots}
        return bool(slots) and all(slot.state == READY for slot in slots)

    def _slots(self) -> list[SlotState]:
        try:
            [board] = (self.place / "spool" / "run").glob("*.board")
            return list(Scoreboard.open(board).all_slots())
        except (IndexError, OSError, ValueError):
            return []

    def _open_jobs(self) -> int:
        return unfinished(RelayQueues, f"spool:{self.place / 'spool'}")

    # --- kills ------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        """SIGKILL by the pids on the board, which are children of our own supervisor."""
        while self.plan.kill_every and not self._over.wait(self._random.uniform(0.5, 1.5) * self.plan.kill_every):
            slots = [slot for slot in self._slots() if slot.pid and slot.state == READY]
            if not slots:
                continue
            victim = self._next(slots)
            if kill(victim):
                self.kills[victim.name.partition("/")[0]] += 1
                self.killed.add(victim.pid)

    def _next(self, slots: list[SlotState]) -> SlotState:
        """Who works on a job, if there is one, but every kind of process once."""
        spared = [slot for slot in slots if not self.kills[slot.name.partition("/")[0]]]
        busy = [slot for slot in slots if slot.used]
        return self._random.choice(busy if busy and self._random.random() < 0.6 else spared or slots)
