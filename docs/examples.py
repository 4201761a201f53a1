"""An example of every event and of every end of an attempt, for `docs.emitted`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from framework.model import events as e
from framework.model.attempt import Tracing
from framework.model.black_box import BlackBox
from framework.model.job import Job, Lease, RunRecord
from framework.model.outcome import Discard
from framework.service.app import Context, WorkerApp
from framework.service.queues import Queue
from framework.worker.executor import Executor

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LEASE = Lease(
    job=Job("job-1", b"0" * 16, "deliveries", b'"ok"', {}, enqueued_at=1.0),
    queue="deliveries",
    attempt=1,
    delivery=1,
    eligible_at=1.0,
    token=None,
)
RUN = RunRecord(0, 1, 1, 2.0, TRACE, SPAN, sampled=True)
BOX = BlackBox("fetch", "/srv/relay.py", 41, "stack", ["{}"], 50_000_000, 1.5, {"oom_kill": 1})
FAILED = e.AttemptLost(LEASE, RUN, 3, "retried", "worker_lost", "deliveries/0", 3.0, 1.0, "signal SIGKILL", box=BOX)
FINISHED = e.JobFinished("deliveries", "job-1", 1, 3, 1, "succeeded", 0.1, 0.2, trace_id=TRACE, span_id=SPAN)
BROKEN = replace(FINISHED, reason="error", error_type="OSError", message="refused", traceback="Traceback", delay=1.0)

EVENTS: tuple[e.Event, ...] = (
    FINISHED,
    replace(BROKEN, outcome="retried"),
    replace(BROKEN, outcome="dead_lettered"),
    replace(FINISHED, outcome="released", delay=1.0, message="put back for a newer version: url: missing"),
    replace(FINISHED, outcome="discarded", message="its subscriber is gone"),
    FAILED,
    e.JobsRescued("deliveries", ("job-2",), "deliveries/0"),
    e.JobsExpired("deliveries", 1),
    e.ScheduleFired("deliveries", "weekly", 1_764_547_200.0, "job-4", 0, 0.002),
    e.ScheduleFired("deliveries", "weekly", 1_764_547_200.0, "job-4", 3, 7200.0),
    e.ScheduleRefused("deliveries", "weekly", 1_764_547_200.0, "queue 'deliveries' holds 100000 jobs"),
    e.QueuePaused("deliveries", "ada", 1_764_547_200.0),
    e.QueueResumed("deliveries", "ada", 1_764_547_260.0),
    e.QueueHeld("deliveries", 10, 20, "ConnectionError", 30.0),
    e.QueueReopened("deliveries", "job-1"),
    e.OperatorActed("replay", "deliveries", 1, "ada", "job-1", 1_764_547_200.0),
    e.LeasesLost("deliveries", ("job-3",)),
    e.HookFailed("on_failure", "deliveries", "job-1", "KeyError: 'x'", "Traceback"),
    e.HooksNotCalled("on_failure", 3, "the service has ended"),
    e.LoopBlocked("deliveries/0", "deliveries", "job-1", "Relay.deliver", 5.0, "relay.py:41", "stack"),
    e.ServiceMistake("deliveries/0", "deliveries/0 cannot start: OSError: no connection", "Traceback"),
    e.EngineFailed("claim", "No space left on device", 1.0),
    e.EngineRecovered("claim", 3.0),
    e.ProcessStarted("deliveries/0", 7),
    e.WorkerReady("deliveries/0", 7),
    e.ProcessBecameReady("deliveries/0", 7, 0.1),
    e.WorkerLeaving("deliveries/0", 7, "drain"),
    e.ProcessKilled("deliveries/0", 7, "timeout", "job-1 ran 15 s", "fetch (relay.py:41)", "stack", ["{}"]),
    e.ProcessExited("deliveries/0", 7, "crashed", -11, 0.5, "signal SIGSEGV"),
    e.ProcessExited("deliveries/0", 7, "drained", 0, None),
    e.Draining("SIGTERM", 25.0),
    e.SupervisorNote("Relay: 3 workers on spool:./var/spool, instance 0"),
    e.SupervisorNote("the file system has no journal", "warning"),
    e.JobCost(LEASE, 0.1, 4096),
    e.JobsClaimed("deliveries", 1, 0.001),
    e.JobsSettled("deliveries", "ack", 1, 0.001),
    e.FileBad("deliveries", "0179.e672c630.1.aabbccddeeff,0.1", "checksum of the content", "/spool/bad"),
    e.QueueUndeclared("retired", 3, first=True),
    e.QueueObserved("deliveries", 1, 0, 0, 0, 0, 0.0),
)


def missing() -> set[str]:
    """Events without an example."""
    return {kind.__name__ for kind in e.Event.__subclasses__()} - {type(event).__name__ for event in EVENTS}


class Example(WorkerApp):
    deliveries = Queue[str]("deliveries")

    @deliveries.handler
    def deliver(self, payload: str, ctx: Context) -> None:
        if payload == "old":
            raise Discard("its subscriber is gone")
        if payload != "ok":
            raise OSError("refused")


class Examples:
    """Runs of jobs."""

    @staticmethod
    def attempts(tracing: Tracing) -> Iterator[Callable[[], object]]:
        """One that succeeds, one that is discarded, one that fails."""
        app = Example()
        handler = app.worker_handlers["deliveries"]
        executor = Executor(app, handler, handler.queue.options, tracing=tracing, emit=lambda _: None, costs=True)
        for payload in (b'"ok"', b'"old"', b'"bad"'):
            lease = replace(LEASE, job=replace(LEASE.job, payload=payload))
            yield lambda lease=lease: executor.run(executor.attempt(lease))  # type: ignore[misc]
