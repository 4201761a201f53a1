"""Events: typed, frozen records of what happened. Worker, supervisor and maintenance emit them; logs and metrics
subscribe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from framework.model.black_box import BlackBox
from framework.model.frozen import frozen
from framework.model.job import Lease, Reason, RunRecord


@frozen
class Event:
    """The base class of all events. Durations are in seconds, moments in seconds since the epoch."""


# --- jobs, emitted by workers ---------------------------------------------------------------------------------------


@frozen
class JobsClaimed(Event):
    queue: str
    count: int
    duration: float


@frozen
class JobFinished(Event):
    """An attempt ended, and its process is alive. Emitted while the attempt's span is current, before the settlement.

    `outcome` is one of succeeded, retried, dead_lettered, released, discarded, archived, cancelled, lease_lost; `delay`
    is the delay of a retry or release; `wait` counts from the moment the job was eligible; `message` is the text of the
    error, or the reason for discarding or releasing the job.
    """

    queue: str
    job_id: str
    attempt: int
    max_attempts: int
    delivery: int
    outcome: str
    wait: float
    duration: float
    delay: float = 0.0
    reason: Reason | None = None
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    trace_id: str = ""
    span_id: str = ""


@frozen
class JobCost(Event):
    """The cost of a run that had a thread of its own. Emitted after its outcome is recorded.

    Attributes:
        cpu_time: processor seconds. memory_growth: bytes by which the peak of the process's memory grew.
    """

    lease: Lease
    cpu_time: float
    memory_growth: int


@frozen
class JobsSettled(Event):
    queue: str
    verb: Literal["ack", "retry", "dead_letter", "archive", "release"]
    count: int
    duration: float


@frozen
class LeasesLost(Event):
    queue: str
    job_ids: Sequence[str]


@frozen
class EngineFailed(Event):
    """A verb of the engine failed; it is tried again after `delay` seconds, and nothing is lost."""

    verb: str
    error: str
    delay: float


@frozen
class EngineRecovered(Event):
    verb: str
    after: float


@frozen
class QueueHeld(Event):
    """A breaker holds a queue for `hold` seconds: of the last `of` attempts in this process, `failed` have failed."""

    queue: str
    failed: int
    of: int
    error_type: str
    hold: float


@frozen
class QueueReopened(Event):
    """The attempt of a job of a held queue has succeeded: the hold ends."""

    queue: str
    job_id: str


@frozen
class HookFailed(Event):
    """`on_failure` or another hook of the service raised, or its process died; nothing changes for the job."""

    hook: str
    queue: str
    job_id: str
    error: str
    traceback: str


@frozen
class HooksNotCalled(Event):
    """`count` calls of a hook were given up; nothing changes for the jobs."""

    hook: str
    count: int
    why: str


@frozen
class LoopBlocked(Event):
    """A handler holds the event loop: everything else in the process waits."""

    process: str
    queue: str
    job_id: str
    handler: str
    seconds: float
    where: str
    stack: str


@frozen
class ServiceMistake(Event):
    """A mistake in the service that one line can explain, for instance a resource opened in the wrong lifespan."""

    process: str
    text: str
    traceback: str = ""


@frozen
class WorkerReady(Event):
    process: str
    pid: int


@frozen
class WorkerLeaving(Event):
    """A worker stops claiming. `why` is drain (also when SIGHUP replaces it), max_jobs_per_process, max_memory,
    hung job, interrupted in a library (threads), or `ruined: ` and what a handler has changed in the process."""

    process: str
    pid: int
    why: str


# --- jobs and queues, emitted by maintenance ------------------------------------------------------------------------


@frozen
class AttemptLost(Event):
    """An attempt whose process died before telemetry had it. Telemetry makes the missing span from this event.

    Attributes:
        outcome: what becomes of the job.
        reason: worker_lost or timeout; None if the kill was planned (released, no error). If the handler had ended: the
            reason of its failure, None = it had not failed.
        ended: the handler had ended, and `outcome` is the recorded outcome.
        error_type, message, traceback: details of a failure.
        about: what the dead process said of itself to telemetry, in its own words; empty: unknown.
        box: what is known of where it was killed.
    """

    lease: Lease
    run: RunRecord
    max_attempts: int
    outcome: str
    reason: Reason | None
    owner: str
    ended_at: float
    delay: float = 0.0
    message: str = ""
    ended: bool = False
    error_type: str = ""
    traceback: str = ""
    about: bytes = b""
    box: BlackBox | None = None

    @property
    def how(self) -> str:
        """Return the outcome under which telemetry counts the attempt."""
        return self.outcome if self.ended or self.reason is None else "lost"

    @property
    def failed(self) -> str:
        """Return the value of `error.type`; empty = no error."""
        return self.error_type or self.reason or ""


@frozen
class JobsRescued(Event):
    """Jobs that a dead process had claimed and not started; they can run again, and no attempt is spent."""

    queue: str
    job_ids: Sequence[str]
    owner: str


@frozen
class JobsExpired(Event):
    """Jobs that became dead letters because their ttl had ended before a handler could take them."""

    queue: str
    count: int


@frozen
class ScheduleFired(Event):
    """A tick of a schedule was handled.

    Attributes:
        tick: the planned moment, in seconds since the epoch. late: seconds from then until it was handled.
        job_id: the id of its job; empty: it came too late for one.
        missed: number of ticks until this one that got no job.
    """

    queue: str
    key: str
    tick: float
    job_id: str
    missed: int
    late: float


@frozen
class ScheduleRefused(Event):
    """The job of a tick does not fit into its full queue; the tick is tried again."""

    queue: str
    key: str
    tick: float
    error: str


@frozen
class QueueObserved(Event):
    """The counts of a queue; None: the engine cannot know."""

    queue: str
    ready: int | None
    delayed: int | None
    in_flight: int | None
    dead: int | None
    bad: int | None
    oldest_age: float | None
    paused: bool = False
    held: bool = False


@frozen
class QueuePaused(Event):
    """A queue was paused. `by`: who did it; empty: unknown. `since`: when. Maintenance emits it, some seconds late."""

    queue: str
    by: str
    since: float


@frozen
class QueueResumed(Event):
    """The pause of a queue has ended. `by`, `since`: as in QueuePaused."""

    queue: str
    by: str
    since: float


@frozen
class FileBad(Event):
    """A stored file cannot be a job: it is moved aside. Each observing process emits this once for a file."""

    queue: str
    file: str
    flaw: str
    place: str


@frozen
class QueueUndeclared(Event):
    """A queue in the store has jobs, and no running service declares it. `first`: this is new."""

    queue: str
    jobs: int
    first: bool


# --- processes, emitted by the supervisor ---------------------------------------------------------------------------


@frozen
class ProcessStarted(Event):
    process: str
    pid: int


@frozen
class ProcessBecameReady(Event):
    process: str
    pid: int
    after: float


@frozen
class ProcessKilled(Event):
    """The supervisor sends SIGKILL; `kill_reason` is planned or timeout.

    `where`, `stack` and `log` tell of the job to blame, or of an idle process: see BlackBox. Empty: unknown.
    `waited`: seconds from when the kill was due.
    """

    process: str
    pid: int
    kill_reason: str
    why: str
    where: str = ""
    stack: str = ""
    log: Sequence[str] = ()
    waited: float = 0.0


@frozen
class ProcessExited(Event):
    """`reason` is one of drained, recycled, crashed, killed, timeout, failed_to_start, failed_to_close, drain_timeout,
    out_of_memory, stuck, ruined."""

    process: str
    pid: int
    reason: str
    code: int
    restart_in: float | None
    detail: str = ""


@frozen
class Draining(Event):
    signal: str
    deadline: float


@frozen
class SupervisorNote(Event):
    """A line about the supervisor itself: start, platform warnings, budget exceeded, stop."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


# --- people, emitted by maintenance once it finds them in the journal -------------------------------------------------


@frozen
class OperatorActed(Event):
    """A person has changed something in the store.

    `verb` is one of replay, discard, cancel, restore, edit, pause, resume; `count`: of how many jobs, 0 for pause and
    resume; `job_id`: of the only one, else empty; `at`: when.
    """

    verb: str
    queue: str
    count: int
    actor: str
    job_id: str = ""
    at: float = 0.0
