"""Log lines for events: a level, a text and keys for each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from framework.model import events as e
from framework.model.attempt import Attempt, NoTracing, SilentLogger
from framework.model.job import keys_of
from framework.model.outcome import Kind
from framework.service.app import Logger
from framework.telemetry.logs.logs import LEVELS, Logs
from framework.telemetry.names import ERROR_TYPE

_LEVEL_OF_OUTCOME = {"retried": "warning", "lease_lost": "warning", "dead_lettered": "error"}
_PLANNED_EXITS = frozenset({"drained", "recycled"})
# They would make one or more lines per job.
_SILENT = frozenset({e.JobsClaimed, e.JobCost, e.JobsSettled, e.QueueObserved})


class LogTracing(NoTracing):
    """Tracing without spans. Log lines still name their job; without `logs` a handler's lines are not written."""

    def __init__(self, logs: Logs | None) -> None:
        self._logs = logs

    def logger(self, attempt: Attempt) -> Logger:
        return SilentLogger() if self._logs is None else self._logs.bound(keys_of(attempt.lease))


class Lines:
    """A writer of one line for each event worth reading. Durations are in seconds, rounded to the microsecond."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._say = logs.say
        levels = {kind.value: _LEVEL_OF_OUTCOME.get(kind, "info") for kind in Kind}
        # Looked up for every job. Where the level is above info, most outcomes are not in it.
        self._level_of = {kind: level for kind, level in levels.items() if logs.passes(LEVELS[level])}
        if not logs.successes:
            self._level_of.pop(Kind.SUCCEEDED.value, None)

    def say_lost(self) -> None:
        """Write how many lines were dropped, as soon as a line can be written."""
        self._logs.say_lost()

    def remember(self, remember: Callable[[str, int, bytes], None]) -> None:
        """Give each line that a job logs also to `remember`, with the job's id and delivery."""
        self._logs.remember = remember

    def wants(self, kind: type[e.Event], outcome: str = "") -> bool:
        """Return whether such an event could make a line. `outcome`: the outcome of a JobFinished."""
        return kind not in _SILENT and (kind is not e.JobFinished or outcome in self._level_of)

    def on(self, event: e.Event) -> None:
        """Write an event's line; this is a Bus subscriber."""
        if type(event) in _SILENT:
            return
        match event:
            case e.JobFinished():
                self._finished(event)
            case e.AttemptLost():
                self._lost(event)
            case e.ProcessExited():
                self._exited(event)
            case _:
                self._other(event)

    def _finished(self, event: e.JobFinished) -> None:
        level = self._level_of.get(event.outcome)
        if level is None:
            return
        keys: dict[str, Any] = {
            "queue": event.queue,
            "job_id": event.job_id,
            "attempt": event.attempt,
            "outcome": event.outcome,
            "wait": round(event.wait, 6),
            "duration": round(event.duration, 6),
        }
        if event.reason is not None:
            keys |= {ERROR_TYPE: event.error_type, "reason": event.reason, "message": event.message}
        elif event.outcome == "discarded" or (event.outcome == "released" and event.message):
            keys["message"] = event.message
        if event.outcome in ("retried", "released"):
            keys["delay"] = round(event.delay, 6)
        if event.trace_id:
            keys |= {"trace_id": event.trace_id, "span_id": event.span_id}
        if level == "error" and event.traceback:
            keys["traceback"] = event.traceback
        self._say(level, "job_finished", **keys)

    def _lost(self, event: e.AttemptLost) -> None:
        if event.ended:  # its worker has already logged the outcome
            return
        run, lease = event.run, event.lease
        keys: dict[str, Any] = {
            "queue": lease.queue,
            "job_id": lease.job.id,
            "attempt": run.attempt,
            "outcome": event.how,
            "then": event.outcome,
            "duration": round(max(0.0, event.ended_at - run.started_at), 6),
            "delay": round(event.delay, 6),
            "owner": event.owner,
        }
        if event.reason is not None:
            keys |= {ERROR_TYPE: event.reason, "reason": event.reason, "message": event.message}
        if run.trace_id:
            keys |= {"trace_id": run.trace_id, "span_id": run.span_id}
        if (box := event.box) is not None:
            keys |= {"where": box.where, "peak_memory": box.peak_memory, "cpu_time": round(box.cpu_time, 3)}
        self._say("error" if event.outcome == "dead_lettered" else "warning", "attempt_lost", **keys)

    def _exited(self, event: e.ProcessExited) -> None:
        keys: dict[str, Any] = {"slot": event.process, "pid": event.pid, "reason": event.reason}
        keys["code"] = event.code
        if event.restart_in is not None:
            keys["restart_in"] = round(event.restart_in, 3)
        if event.detail:
            keys["detail"] = event.detail
        self._say("info" if event.reason in _PLANNED_EXITS else "warning", "process_exited", **keys)

    def _other(self, event: e.Event) -> None:
        match event:
            case e.QueueUndeclared(first=False):
                return
            case e.LoopBlocked():
                text = (
                    f"{event.process}: event loop blocked {event.seconds:g} s in {event.handler} ({event.where}): "
                    "use an async client or a sync handler"
                )
                self._say("warning", text, queue=event.queue, job_id=event.job_id, stack=event.stack)
            case e.ServiceMistake():
                keys = {"traceback": event.traceback} if event.traceback else {}
                self._say("error", event.text, slot=event.process, **keys)
            case e.ScheduleFired():
                self._fired(event)
            case e.ProcessKilled():
                self._killed(event)
            case e.SupervisorNote():
                self._say(event.level, event.text)
            case _ if type(event) in _LINES:
                level, text, keys_of = _LINES[type(event)]
                self._say(level, text, **{key: _value_of(event, key) for key in keys_of.split()})

    def _killed(self, event: e.ProcessKilled) -> None:
        keys: dict[str, Any] = {"slot": event.process, "pid": event.pid, "kill_reason": event.kill_reason}
        keys["why"] = event.why
        if event.where:
            keys |= {"where": event.where, "waited": round(event.waited, 6), "stack": event.stack}
        if event.log:
            keys["last_lines"] = list(event.log)
        self._say("warning", "process_killed", **keys)

    def _fired(self, event: e.ScheduleFired) -> None:
        keys: dict[str, Any] = {"queue": event.queue, "schedule": event.key, "tick": _utc(event.tick)}
        keys |= {"job_id": event.job_id, "late": round(event.late, 3)}
        if event.missed:
            self._say("warning", "schedule_missed", **keys, missed=event.missed)
        else:
            self._say("debug", "schedule_fired", **keys)


# By event, the level, the text and the keys of its line.
_LINES: Final[dict[type[e.Event], tuple[str, str, str]]] = {
    e.LeasesLost: ("warning", "leases_lost", "queue job_ids"),
    e.JobsExpired: ("warning", "jobs_expired", "queue count"),
    e.ScheduleRefused: ("warning", "schedule_refused", "queue schedule tick error"),
    e.QueuePaused: ("warning", "queue_paused", "queue by since"),
    e.QueueResumed: ("info", "queue_resumed", "queue by since"),
    e.QueueHeld: ("warning", "queue_held", "queue failed of error_type hold"),
    e.QueueReopened: ("info", "queue_reopened", "queue job_id"),
    e.OperatorActed: ("info", "operator_acted", "verb queue count actor job_id at"),
    e.FileBad: ("warning", "file_bad", "queue file flaw place"),
    e.QueueUndeclared: ("warning", "queue_undeclared", "queue jobs"),
    e.JobsRescued: ("info", "jobs_rescued", "queue job_ids owner"),
    e.EngineFailed: ("warning", "engine_failed", "verb error retry_in"),
    e.EngineRecovered: ("info", "engine_recovered", "verb after"),
    e.HookFailed: ("error", "hook_failed", "hook queue job_id error traceback"),
    e.HooksNotCalled: ("warning", "hooks_not_called", "hook count why"),
    e.ProcessStarted: ("debug", "process_started", "slot pid"),
    e.ProcessBecameReady: ("info", "process_ready", "slot pid after"),
    e.WorkerReady: ("debug", "worker_ready", "slot pid"),
    e.WorkerLeaving: ("info", "worker_leaving", "slot pid why"),
    e.Draining: ("info", "draining", "signal deadline"),
}
# By key, the event's field, where it has another name.
_FIELDS: Final = {"slot": "process", "retry_in": "delay", "schedule": "key"}


def _value_of(event: e.Event, key: str) -> Any:
    value = getattr(event, _FIELDS.get(key, key))
    if key in ("after", "deadline"):
        return round(value, 3)
    if key in ("tick", "since"):
        return _utc(value)
    return list(value) if key == "job_ids" else value


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
