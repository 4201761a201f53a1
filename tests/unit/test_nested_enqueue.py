"""An enqueue on top of its own thread's, as signal handlers and finalizers make them, at every line of the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A trace function stands for the signal handler: it interrupts between any two lines, each of them once.
PLAY = """
import asyncio, faulthandler, json, logging, os, sys
mode = sys.argv[1]
faulthandler.dump_traceback_later(60, exit=True)
logging.getLogger("framework").setLevel(logging.ERROR)
from framework import Queue, WorkerApp
from framework.model.errors import EnqueueFailed

if mode == "traced":
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))

class App(WorkerApp):
    jobs = Queue[str]("jobs", max_length=None if mode == "traced" else 1_000_000)

numbers, loop = iter(range(10**9)), asyncio.new_event_loop()

def enqueue():
    match mode:
        case "many":
            return App.jobs.enqueue_many(["x"] * 20)
        case "chosen":
            return [App.jobs.enqueue("x", job_id=f"id {next(numbers)}")]
        case "same":
            return [App.jobs.enqueue("x", job_id="same")]
        case "delayed":
            return [App.jobs.enqueue("x", delay=1000)]
        case "async":
            return [loop.run_until_complete(App.jobs.aenqueue("x"))]
    return [App.jobs.enqueue("x")]

class Interruption:
    def __init__(self, line):
        self.left, self.came = line, False

    def __call__(self, frame, event, argument):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.came = True
                sys.settrace(None)
                stored.extend([App.jobs.enqueue("x")] if mode == "async" else enqueue())
                sys.settrace(self)
        return self

stored, line = enqueue(), 0
while True:
    line += 29 if mode == "many" else 1
    interruption = Interruption(line)
    sys.settrace(interruption)
    try:
        stored.extend(enqueue())
    finally:
        sys.settrace(None)
    if not interruption.came:
        break
where = App.jobs.sender()._engine.stats("jobs")
print(json.dumps([line, len(set(stored)), where.ready + where.delayed]))
sys.stdout.flush()
os._exit(0)
"""


def play(code: str, root: Path, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "WORKER_ENGINE_URL": f"spool:{root}", "WORKER_DURABILITY": "process", **environ},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("mode", ["plain", "grouped", "async", "delayed", "many", "chosen", "same", "traced"])
def test_it_stores_each_job_once_and_never_waits_for_what_it_interrupts(tmp_path: Path, mode: str) -> None:
    """Verified: the locks of the limit, the clock, the names, an id and the SDK each made it wait for itself."""
    durability = "power" if mode == "grouped" else "process"
    lines, told, stored = eval(play(PLAY, tmp_path / "spool", mode, WORKER_DURABILITY=durability))
    assert lines > 100
    assert told == stored


FIRST = """
import faulthandler, os, signal, sys
faulthandler.dump_traceback_later(60, exit=True)
from framework import Queue, WorkerApp
from framework.runner import connecting
from framework.model.errors import EnqueueFailed

class App(WorkerApp):
    jobs = Queue[str]("jobs")

def handler(*_):
    try:
        App.jobs.enqueue("nested")
    except EnqueueFailed as error:
        assert "interrupts the first enqueue" in str(error)
        print("refused")

signal.signal(signal.SIGUSR1, handler)

def trace(frame, event, argument):
    if event == "call" and frame.f_code.co_name == sys.argv[1]:
        sys.settrace(None)
        signal.raise_signal(signal.SIGUSR1)
    return None

sys.settrace(trace)
App.jobs.enqueue("first")
sys.settrace(None)
App.jobs.enqueue("second")
print(App.jobs.sender()._engine.stats("jobs").ready)
"""


@pytest.mark.parametrize(
    ("where", "expected"), [("open_producer", "refused\n2\n"), ("install", "refused\n2\n"), ("_store", "3\n")]
)
def test_the_first_enqueue_of_a_process_cannot_be_interrupted_by_another_but_says_so(
    tmp_path: Path, where: str, expected: str
) -> None:
    """Half of what it needs may be imported only. Verified: it waited for the lock that it had interrupted."""
    assert play(FIRST, tmp_path / "spool", where) == expected
