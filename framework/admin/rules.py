"""Prometheus rules for a service, made from its declarations. This is data only; `alerts.py` prints it.

Over OTLP, Prometheus changes our names: `worker.queue.depth` becomes worker_queue_depth, a counter gets the suffix
_total, seconds get _seconds; `job` is service.namespace/service.name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from framework.model.options import QueueOptions

QUEUE: Final = "messaging_destination_name"
BY: Final = f"by (job, {QUEUE})"
STUCK_AFTER: Final = 300  # seconds; longer where one attempt may take longer
# Consumption of a month's budget: 2 % in an hour, 5 % in six. The short window ends the alert soon after the problem.
FAST, SLOW = (14.4, "1h", "5m"), (6.0, "6h", "30m")


@dataclass(frozen=True)
class Rule:
    """An alert rule or a recording rule.

    Attributes:
        name: the name of the alert or of the recorded series.
        expr: PromQL.
        wait: the rule's `for`; empty = at once.
        severity: page or ticket; empty = a recording rule.
        comment: why the rule is as it is.
        runbook: the address of what to do; empty = none.
    """

    name: str
    expr: str
    wait: str = ""
    severity: str = ""
    summary: str = ""
    description: str = ""
    comment: str = ""
    runbook: str = ""


@dataclass(frozen=True)
class Group:
    name: str
    rules: list[Rule] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def with_runbook(self, page: str) -> Group:
        """Return the group with alerts that name their section of this page, whose headings are the alerts' names."""
        rules = [replace(r, runbook=f"{page}#{r.name.lower()}") if r.severity else r for r in self.rules]
        return replace(self, rules=rules)


def general(queues: Sequence[QueueOptions], *, job: str = "") -> Group:
    """Return rules for any service, adapted to the timeouts of its queues.

    Args:
        job: the label of the series to select; empty = all services of the Prometheus.
    """
    group = Group("worker")
    group.rules.extend(_stuck(queues, job))
    for queue in queues:
        if queue.timeout is None:
            group.comments.append(f"{queue.name} has timeout=None: one job may take any time, so it is never 'stuck'.")
    for rule in (_dead_letters, _bad_files, _undeclared, _restart_loop, _saturated, _gone, _dropped):
        group.rules.append(rule(job))
    return group


def objectives(queues: Sequence[QueueOptions], *, job: str = "") -> Group:
    """Return recording rules and burn-rate alerts for every queue that declares an Slo."""
    group = Group("worker-slo")
    for queue in queues:
        if queue.slo is not None:
            group.rules.extend(_late_starts(queue, window, job) for window in ("5m", "30m", "1h", "6h"))
            group.rules.append(_burns(queue, FAST, "WorkerWaitBudgetBurnsFast", "page"))
            group.rules.append(_burns(queue, SLOW, "WorkerWaitBudgetBurnsSlowly", "ticket"))
    return group


# --- for any service ------------------------------------------------------------------------------------------------


def _stuck(queues: Sequence[QueueOptions], job: str) -> Iterable[Rule]:
    """Yield one rule for most queues, and one for each attempt length (in minutes) that exceeds five minutes."""
    slow: dict[int, list[str]] = {}
    unbounded = [queue.name for queue in queues if queue.timeout is None]
    for queue in queues:
        longest = 0.0 if queue.timeout is None else queue.timeout + queue.kill_after
        if longest > STUCK_AFTER:
            slow.setdefault(math.ceil(longest / 60) * 60, []).append(queue.name)
    others = sorted({*unbounded, *(name for names in slow.values() for name in names)})
    yield _stuck_rule(STUCK_AFTER, _match(job=job, without=others))
    for age, names in sorted(slow.items()):
        yield _stuck_rule(age, _match(job=job, only=names))


def _stuck_rule(age: int, where: str) -> Rule:
    window = f"{age // 60}m"
    return Rule(
        "WorkerQueueStuck",
        f"max {BY} (worker_queue_oldest_job_age_seconds{where}) > {age}\n"
        f"unless on ({QUEUE})\n"
        f"sum by ({QUEUE}) (rate(messaging_process_duration_seconds_count{where}[{window}])) > 0\n"
        f"unless on ({QUEUE})\n"
        f"max by ({QUEUE}) (max_over_time(worker_queue_paused{where}[{window}])) > 0",
        wait="2m",
        severity="page",
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: jobs wait and none is processed",
        description="The oldest is {{ $value | humanizeDuration }} old. Look at: worker queues; the worker's log.",
    )


def _dead_letters(job: str) -> Rule:
    where = _match('worker_queue_state="dead"', job=job)
    return Rule(
        "WorkerDeadLetters",
        f"max {BY} (worker_queue_depth{where}) > 0",
        severity="ticket",
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: {{{{ $value }}}} dead letters",
        description="Look at: worker dead list; then replay or discard them.",
        comment="Not the counter: increase() does not see a series' first count, and a dead letter matters until "
        "it is replayed or discarded.",
    )


def _bad_files(job: str) -> Rule:
    where = _match('worker_queue_state="bad"', job=job)
    return Rule(
        "WorkerBadFiles",
        f"max {BY} (worker_queue_depth{where}) > 0",
        severity="ticket",
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: {{{{ $value }}}} stored files cannot be read",
        description="Each may be a job that does not run. Look at: worker bad list; then restore or discard them.",
    )


def _undeclared(job: str) -> Rule:
    return Rule(
        "WorkerQueueUndeclared",
        f"max {BY} (worker_queue_undeclared{_match(job=job)}) > 0",
        wait="15m",
        severity="ticket",
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: {{{{ $value }}}} jobs, and no running service declares it",
        description="Its service is stopped, or has renamed or dropped the queue. No worker runs these jobs. "
        "Look at: worker queues.",
    )


def _restart_loop(job: str) -> Rule:
    where = _match('worker_process_exit_reason!~"drained|recycled"', job=job)
    return Rule(
        "WorkerRestartLoop",
        f"sum by (job, worker_process_exit_reason) (increase(worker_process_restarts_total{where}[10m])) > 5",
        severity="page",
        summary="{{ $labels.job }}: processes restart again and again ({{ $labels.worker_process_exit_reason }})",
        description="{{ $value | humanize }} restarts in 10 minutes. Look at: the supervisor's log, process_exited.",
    )


def _saturated(job: str) -> Rule:
    where = _match(job=job)
    return Rule(
        "WorkerSaturated",
        f"sum {BY} (worker_slots_used{where}) / sum {BY} (worker_slots_limit{where}) > 0.9\n"
        f"and on ({QUEUE})\n"
        f"max by ({QUEUE}) (deriv(worker_queue_oldest_job_age_seconds{where}[10m])) > 0",
        wait="10m",
        severity="ticket",
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: all slots are busy and jobs wait ever longer",
        description="{{ $value | humanizePercentage }} in use. More workers, more concurrency, or less work.",
    )


def _gone(job: str) -> Rule:
    where = _match(job=job)
    return Rule(
        "WorkerGone",
        f"count by (job) (present_over_time(worker_queue_depth{where}[1h]))\n"
        f"unless on (job)\n"
        f"count by (job) (worker_queue_depth{where})",
        wait="1m",
        severity="page",
        summary="{{ $labels.job }}: no supervisor reports any more",
        description="Stopped, killed, or its telemetry does not arrive. Jobs are safe, but no worker runs them.",
        comment="Only maintenance reports depth, and it lives as long as its supervisor.",
    )


def _dropped(job: str) -> Rule:
    return Rule(
        "WorkerTelemetryDropped",
        f"sum by (job, signal) (increase(worker_telemetry_dropped_total{_match(job=job)}[10m])) > 0",
        severity="ticket",
        summary="{{ $labels.job }}: {{ $labels.signal }} were given up",
        description="{{ $value | humanize }} in 10 minutes: the collector was away, refused them, or was too slow. "
        "No job was touched by it.",
    )


# --- objectives -----------------------------------------------------------------------------------------------------


def _late_starts(queue: QueueOptions, window: str, job: str) -> Rule:
    """Return the recording rule for the share of attempts that started too late."""
    assert queue.slo is not None
    bound = f"{queue.slo.wait:g}"
    # Prometheus writes a whole number as 30 when the series is pushed over OTLP, as 30.0 when Prometheus scrapes it.
    within = f'le="{bound}"' if "." in bound else f'le=~"{bound}|{bound}[.]0"'
    name = "worker_job_queue_wait_duration_seconds"
    return Rule(
        f"queue:late_start:ratio_rate{window}",
        f"1 - sum {BY} (rate({name}_bucket{_match(within, job=job, queue=queue.name)}[{window}]))\n"
        f"  / sum {BY} (rate({name}_count{_match(job=job, queue=queue.name)}[{window}]))",
    )


def _burns(queue: QueueOptions, pace: tuple[float, str, str], name: str, severity: str) -> Rule:
    assert queue.slo is not None
    factor, long, short = pace
    limit = f"{burn_limit(factor, queue.slo.target):.6g}"
    where = _match(queue=queue.name)
    hours = {"1h": "the last hour", "6h": "the last six hours"}[long]
    return Rule(
        name,
        f"queue:late_start:ratio_rate{long}{where} > {limit} and queue:late_start:ratio_rate{short}{where} > {limit}",
        wait="" if severity == "page" else "15m",
        severity=severity,
        summary=f"Queue {{{{ $labels.{QUEUE} }}}}: jobs {'start' if severity == 'page' else 'keep starting'} late",
        description=f"{{{{ $value | humanizePercentage }}}} of attempts started more than {queue.slo.wait:g} s late in "
        f"{hours}; the objective is {100 * queue.slo.target:.6g} % in time.",
    )


def burn_limit(factor: float, target: float) -> float:
    """Return the share of late starts at which a budget is used up `factor` times too fast.

    For a lenient target that share could exceed all starts, and the alert could never fire. So the limit is at most
    halfway between the budget and all starts.
    """
    budget = 1 - target
    return min(factor * budget, (1 + budget) / 2)


# --- PromQL ---------------------------------------------------------------------------------------------------------


def _match(
    *matchers: str, job: str = "", queue: str = "", only: Sequence[str] = (), without: Sequence[str] = ()
) -> str:
    """Return `{…}`, or an empty text without matchers."""
    parts = [f"job={_quoted(job)}"] if job else []
    if queue:
        parts.append(f"{QUEUE}={_quoted(queue)}")
    if only:
        parts.append(f"{QUEUE}=~{_quoted(_any_of(only))}")
    if without:
        parts.append(f"{QUEUE}!~{_quoted(_any_of(without))}")
    parts.extend(matchers)
    return f"{{{', '.join(parts)}}}" if parts else ""


def _any_of(names: Sequence[str]) -> str:
    """Return queue names as one regular expression; a dot is the only character in them with a special meaning."""
    return "|".join(name.replace(".", "[.]") for name in names)


def _quoted(text: str) -> str:
    """Return a PromQL string. Its escapes are Go's; JSON's are a subset of these without surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)
