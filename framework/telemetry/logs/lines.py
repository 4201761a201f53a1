"""Log lines for events: one `match` that gives each event its keys and its level."""

from __future__ import annotations

from typing import Any

from framework.model import events as e
from framework.model.attempt import Attempt, NoTracing
from framework.model.jobscope import keys_of
from framework.model.outcome import Kind
from framework.service.app import Logger
from framework.telemetry.logs.logs import LEVELS, Logs
from framework.telemetry.names import ERROR_TYPE

_LEVEL_OF_OUTCOME = {"retried": "warning", "lease_lost": "warning", "dead_lettered": "error"}
_PLANNED_EXITS = frozenset({"drained", "recycled"})
_SILENT = frozenset({e.JobsClaimed, e.JobsSettled, e.QueueObserved})  # they would make one or more lines per job


class LogTracing(NoTracing):
    """Tracing without spans. Log lines still name their job."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def logger(self, attempt: Attempt) -> Logger:
        return self._logs.bound(keys_of(attempt.lease))


class Lines:
    """A writer of one line for each event worth reading. Durations are in seconds, rounded to the microsecond."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._say = logs.say
        levels = {kind.value: _LEVEL_OF_OUTCOME.get(kind, "info") for kind in Kind}
        # Looked up for every job. Where the level is above info, most outcomes are not in it.
        self._level_of = {kind: level for kind, level in levels.items() if logs.passes(LEVELS[level])}

    def say_lost(self) -> None:
        """Write how many lines were dropped, as soon as a line can be written."""
        self._logs.say_lost()

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
                self._job_trouble(event)

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
        elif event.outcome == "discarded":
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
        self._say("error" if event.outcome == "dead_lettered" else "warning", "attempt_lost", **keys)

    def _exited(self, event: e.ProcessExited) -> None:
        keys: dict[str, Any] = {"slot": event.process, "pid": event.pid, "reason": event.reason}
        keys["code"] = event.code
        if event.restart_in is not None:
            keys["restart_in"] = round(event.restart_in, 3)
        if event.detail:
            keys["detail"] = event.detail
        self._say("info" if event.reason in _PLANNED_EXITS else "warning", "process_exited", **keys)

    def _job_trouble(self, event: e.Event) -> None:
        match event:
            case e.LeasesLost():
                self._say("warning", "leases_lost", queue=event.queue, job_ids=list(event.job_ids))
            case e.JobsExpired():
                self._say("warning", "jobs_expired", queue=event.queue, count=event.count)
            case e.FileBad():
                keys = {"queue": event.queue, "file": event.file, "flaw": event.flaw, "place": event.place}
                self._say("warning", "file_bad", **keys)
            case e.QueueUndeclared():
                if event.first:
                    self._say("warning", "queue_undeclared", queue=event.queue, jobs=event.jobs)
            case e.JobsRescued():
                ids = list(event.job_ids)
                self._say("info", "jobs_rescued", queue=event.queue, job_ids=ids, owner=event.owner)
            case e.EngineFailed():
                self._say("warning", "engine_failed", verb=event.verb, error=event.error, retry_in=event.delay)
            case e.EngineRecovered():
                self._say("info", "engine_recovered", verb=event.verb, after=round(event.after, 3))
            case e.HookFailed():
                keys = {"hook": event.hook, "queue": event.queue, "job_id": event.job_id, "error": event.error}
                self._say("error", "hook_failed", **keys, traceback=event.traceback)
            case e.LoopBlocked():
                text = (
                    f"{event.process}: event loop blocked {event.seconds:.0f} s in {event.handler} ({event.where}): "
                    "use an async client or a sync handler"
                )
                self._say("warning", text, queue=event.queue, job_id=event.job_id, stack=event.stack)
            case e.ServiceMistake():
                keys = {"traceback": event.traceback} if event.traceback else {}
                self._say("error", event.text, slot=event.process, **keys)
            case _:
                self._process(event)

    def _process(self, event: e.Event) -> None:
        match event:
            case e.ProcessStarted():
                self._say("debug", "process_started", slot=event.process, pid=event.pid)
            case e.ProcessBecameReady():
                self._say("info", "process_ready", slot=event.process, pid=event.pid, after=round(event.after, 3))
            case e.ProcessKilled():
                keys = {"slot": event.process, "pid": event.pid, "kill_reason": event.kill_reason, "why": event.why}
                self._say("warning", "process_killed", **keys)
            case e.WorkerReady():
                self._say("debug", "worker_ready", slot=event.process, pid=event.pid)
            case e.WorkerLeaving():
                self._say("info", "worker_leaving", slot=event.process, pid=event.pid, why=event.why)
            case e.Draining():
                self._say("info", "draining", signal=event.signal, deadline=round(event.deadline, 3))
            case e.HooksNotCalled():
                self._say("warning", "hooks_not_called", hook=event.hook, count=event.count, why=event.why)
            case e.SupervisorNote():
                self._say(event.level, event.text)
