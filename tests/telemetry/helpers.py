"""Parts of a worker for telemetry tests: leases, an app, telemetry that reports to a receiver, real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framework.model.attempt import Attempt
from framework.model.job import Failure, Job, Lease
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome
from framework.model.retry import RetryPolicy
from framework.runner.bus import Bus
from framework.service.app import Context, WorkerApp
from framework.service.queues import Queue
from framework.service.settings import Settings
from framework.telemetry import ProcessIdentity, Telemetry
from framework.telemetry.export.health import CollectorHealth, Drops, SharedState
from framework.telemetry.kinds import open_telemetry
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import LineWriter
from framework.telemetry.ring.rings import Rings
from framework.worker.executor import Executor

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = ProcessIdentity(app="relay", role="worker", slot="deliveries/0", instance=0, system="spool")

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Relay(WorkerApp):
    """One queue; a job's payload names what its handler does (`behaviour`)."""

    deliveries = Queue[str]("deliveries", retry=RetryPolicy(max_retries=3, first_delay=0))
    behaviours: Mapping[str, Any] = {}

    @deliveries.handler
    def deliver(self, payload: str, ctx: Context) -> None:
        self.behaviours[payload](ctx)


class AsyncRelay(WorkerApp):
    deliveries = Queue[str]("deliveries", concurrency=20, retry=RetryPolicy(max_retries=3, first_delay=0))
    behaviours: Mapping[str, Any] = {}

    @deliveries.handler
    async def deliver(self, payload: str, ctx: Context) -> None:
        await self.behaviours[payload](ctx)


def lease_of(
    payload: str = "ok",
    *,
    headers: Mapping[str, str] | None = None,
    uid: bytes | None = None,
    age: float = 1.0,
    attempt: int = 1,
    delivery: int = 1,
    history: tuple[Failure, ...] = (),
    queue: str = "deliveries",
    home: str = "deliveries",
) -> Lease:
    """A claimed job, enqueued `age` seconds ago and eligible since."""
    uid = uid or os.urandom(16)
    now = time.time()
    job = Job(
        id=f"job-{uid.hex()[:6]}",
        uid=uid,
        queue=home,
        payload=json.dumps(payload).encode(),
        headers=headers or {},
        enqueued_at=now - age,
        history=history,
    )
    return Lease(job=job, queue=queue, attempt=attempt, delivery=delivery, eligible_at=now - age, token=None)


def failure_of(lease: Lease, *, trace_id: str, span_id: str) -> Failure:
    """An attempt before, as the history keeps it."""
    return Failure(
        attempt=lease.attempt, reason="error", message="no", trace_id=trace_id, span_id=span_id, queue=lease.queue
    )


@dataclass
class Station:
    """Telemetry of one process, wired like a worker's but with providers of its own and a file for its lines."""

    telemetry: Telemetry
    bus: Bus
    out: Path
    drops: Drops
    health: CollectorHealth

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def executor(self, app: WorkerApp, *, options: QueueOptions | None = None) -> Executor:
        handler = app.worker_handlers["deliveries"]
        options = options or replace(handler.queue.options, timeout=None)
        return Executor(app, handler, options, tracing=self.telemetry.tracing, emit=self.bus.emit)

    def run(self, app: WorkerApp, lease: Lease) -> tuple[Attempt, Outcome]:
        """One sync attempt through the real executor."""
        executor = self.executor(app)
        attempt = executor.attempt(lease)
        return attempt, executor.run(attempt)

    def close(self) -> None:
        """Flushes, and holds that no subscriber failed on the way."""
        self.telemetry.shutdown(10)
        assert self.bus.errors == 0


def station(
    tmp_path: Path,
    *,
    identity: ProcessIdentity = IDENTITY,
    name: str = "out",
    rings: Rings | None = None,
    **settings: Any,
) -> Station:
    """Telemetry that reports to where OTEL_* in the environment says, or into a ring."""
    fd = os.open(out := tmp_path / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    chosen = Settings(log_format="json", **settings)
    drops = Drops()
    logs = Logs(chosen, LineWriter(fd), process=identity.slot)
    health = CollectorHealth(SharedState(), logs.say)

    def failed(signal: str, error: Exception) -> None:
        raise error

    telemetry = open_telemetry(identity, chosen, logs, drops, health, rings, failed=failed, make_global=False)
    return Station(telemetry, Bus(telemetry.subscribe), out, drops, health)


CLEAN = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A process's environment: nothing of OTEL_* or WORKER_* but what is given."""
    kept = {key: value for key, value in os.environ.items() if key in CLEAN}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | extra


PRELUDE = """
import os, sys, time, threading, json
from framework.service.settings import load_settings
from framework.telemetry import ProcessIdentity, start, for_host
from tests.telemetry.helpers import *

def identity(role="worker", slot="deliveries/0", instance=0):
    return ProcessIdentity(app="relay", role=role, slot=slot, instance=instance, system="spool")

def forked(run):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run()
        code = 0
    finally:
        if code:
            import traceback
            traceback.print_exc()
        os._exit(code)

def reap(*pids):
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def run_jobs(telemetry, count, payload="ok", behaviour=lambda ctx: None):
    from framework.runner.bus import Bus
    Relay.behaviours = {payload: behaviour}
    app = Relay()
    handler = app.worker_handlers["deliveries"]
    bus = Bus(telemetry.subscribe)
    executor = Executor(app, handler, handler.queue.options, tracing=telemetry.tracing, emit=bus.emit)
    for _ in range(count):
        executor.run(executor.attempt(lease_of(payload)))
    assert bus.errors == 0
"""

# The process that forks, as a script begins that forks workers: logs only.
TREE = """
supervisor = start(identity("supervisor", "supervisor"), load_settings())
"""


def spawn(source: str, env: Mapping[str, str], **kwargs: Any) -> subprocess.Popen[str]:
    """A Python process of its own that runs `source` after the prelude above."""
    code = PRELUDE + textwrap.dedent(source)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
    return subprocess.Popen([sys.executable, "-c", code], env=environment(env), text=True, cwd=ROOT, **pipes)


def run(source: str, env: Mapping[str, str], *, timeout: float = 30) -> str:
    """Runs it to its end, which must be exit 0 with nothing on standard error; gives its standard output."""
    process = spawn(source, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    assert err == "", err
    return out


def json_lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]
