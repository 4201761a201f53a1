"""Every promised metric is in Prometheus, once, with its labels; and its sums are those of what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.stack.prometheus import Labels, Prometheus
from tests.stack.promised import PROMISED, RESOURCE, Promise
from tests.stack.report import Report
from tests.stack.run import Run
from tests.stack.spans import Seen, Traces
from tests.support.programs import NotInTime, wait_for

_OURS = ("messaging_", "worker_", "otel_sdk_")
_LOOK = "[10m]"  # long enough for a run whose series have ended


class MetricChecks:
    """One run's series and sums.

    Args:
        run: it has ended.
        traces: the run's, complete: the other witness beside the ledger. None: they were refused.
    """

    def __init__(self, report: Report, prometheus: Prometheus, run: Run, traces: Traces | None = None) -> None:
        self._report, self._prometheus, self._run = report, prometheus, run
        self._attempts: list[Seen] = traces.attempts() if traces else []
        self._job = f"continuum/{run.service('worker')}"

    def last(self, metric: str, *by: str, program: str = "worker") -> Mapping[Any, float]:
        """The last values of a metric of this run, summed over all else."""
        job = f"continuum/{self._run.service(program)}"
        query = f'sum by ({", ".join(by)}) (last_over_time({metric}{{job="{job}"}}{_LOOK}))'
        return self._prometheus.totals(query, *by, at=self._run.ended + 60)

    # --- which series -----------------------------------------------------------------------------------------------

    def series(self) -> None:
        """Names, labels, and one series per slot."""
        names = {name for name in self._prometheus.names() if name.startswith(_OURS)}
        plain = {f"{name}{part}" for name, promise in PROMISED.items() for part in parts(promise)}
        rare = {name for name, promise in PROMISED.items() if promise.rare}
        self._report.none(plain - names - rare, "every promised metric is there", f"{len(PROMISED)} metrics")
        self._report.none(names - plain, "no metric that nobody promised")
        wrong, twice = [], []
        for name, promise in PROMISED.items():
            for part in parts(promise):
                rows = self._rows(name + part)
                wrong += [(name, odd) for row in rows if (odd := odd_labels(promise, row, part))]
                twice += self._too_many(name, promise, rows)
        self._report.none(wrong, "labels are those promised, never a job id, pid or host")
        self._report.none(twice, "one series per slot and attributes, kills or not")
        target = self._rows("target_info")
        double = [key for key, n in Counter((row["job"], row["instance"]) for row in target).items() if n > 1]
        self._report.none(double, "one target_info per slot, so that joins work", f"{len(target)} processes")

    def _rows(self, name: str) -> list[Labels]:
        jobs = "|".join(f"continuum/{self._run.service(program)}" for program in ("worker", "traffic"))
        selector = f'{name}{{job=~"{jobs}"}}'
        return list(self._prometheus.series(selector, self._run.began, self._run.ended + 60))

    def _too_many(self, name: str, promise: Promise, rows: list[Labels]) -> list[object]:
        own = [{key: value for key, value in row.items() if key != "__name__"} for row in rows]
        identity = RESOURCE - {"job", "instance"}
        bare = Counter(tuple(sorted((k, v) for k, v in row.items() if k not in identity)) for row in own)
        found: list[object] = [(name, key) for key, count in bare.items() if count > 1]
        instances = {row["instance"] for row in own if row["job"] == self._job}
        most = promise.processes or len(self._run.slots)
        if len(instances) > most:
            found.append(f"{name}: series of {len(instances)} processes, {most} slots")
        return found

    # --- sums -------------------------------------------------------------------------------------------------------

    def sums(self) -> None:
        """After the drain everything is counted, to the unit, whoever was killed."""
        self._settled(len(self._attempts))
        spans = Counter((self._queue(span), span.outcome) for span in self._attempts)
        counted = self.last("worker_job_attempts_total", "messaging_destination_name", "worker_job_outcome")
        self._report.equal(_plain(counted), _plain(spans), "attempts by queue and outcome = process spans")
        ended = Counter(self._queue(span) for span in self._attempts)
        for name in ("messaging_process_duration_seconds_count", "worker_job_queue_wait_duration_seconds_count"):
            self._report.equal(
                _plain(self.last(name, "messaging_destination_name")), _plain(ended), f"{name} = attempts"
            )
        self._jobs()
        self._spans()

    def _settled(self, wanted: int) -> None:
        """The collector's and Prometheus' part of the way takes a moment."""
        try:
            wait_for(lambda: sum(self.last("worker_job_attempts_total", "job").values()) == wanted, "the counts", 40)
        except NotInTime:
            pass  # the checks will tell

    def _jobs(self) -> None:
        run, report = self._run, self._report
        outcomes = Counter({k: int(v) for k, v in self.last("worker_job_attempts_total", "worker_job_outcome").items()})
        dead = sum(self.last("worker_job_dead_letters_total", "job").values())
        again = sum(self.last("worker_job_retries_total", "job").values())
        jobs = run.plan.jobs + 2 * run.digests  # a digest is itself a job, and is delivered by one
        report.equal(outcomes["succeeded"] + dead, jobs, "succeeded + dead letters = jobs")
        report.equal(outcomes["archived"], dead, "handled letters = dead letters")
        ends = outcomes["succeeded"] + dead + again + outcomes["released"] + outcomes["archived"]
        report.equal(ends, sum(outcomes.values()), "every attempt succeeded, was repeated, released, or its job died")
        sent = sum(self.last("messaging_client_sent_messages_total", "job", program="traffic").values())
        report.equal(sent, run.plan.jobs + run.digests, "messages sent by traffic")
        consumed = sum(self.last("messaging_client_consumed_messages_total", "job").values())
        started = sum(outcomes.values())
        if run.plan.kill_every:
            report.check(consumed >= started - outcomes["lost"], "messages consumed: those of the attempts at least",
                         f"{consumed:.0f} of {started}")  # fmt: skip
        else:
            report.equal(consumed, started, "messages consumed = attempts")
            sent = sum(self.last("messaging_client_sent_messages_total", "job").values())
            report.equal(sent, run.digests, "messages sent by the digests' handler")
            report.equal(
                outcomes["succeeded"] - run.digests,
                run.received["delivered"],
                "succeeded = delivered, says the receiver",
            )
            report.equal(len(run.ran), started, "attempts = lines of the ledger")
        depth = self.last("worker_queue_depth", "worker_queue_state")
        report.equal(
            _plain(depth), {"ready": 0, "delayed": 0, "in_flight": 0, "dead": dead, "bad": 0}, "depth after the drain"
        )
        restarts = self.last("worker_process_restarts_total", "worker_process_exit_reason")
        report.equal(restarts.get("killed", 0.0), sum(run.kills.values()), "restarts with reason killed = kills")
        report.equal(sum(restarts.values()), sum(run.kills.values()), "no other restarts")

    def _spans(self) -> None:
        """What the collector makes of spans agrees with the spans."""
        ended = Counter((self._queue(span), span.outcome) for span in self._attempts)
        job = self._job
        query = (
            f"sum by (messaging_destination_name, worker_job_outcome) (last_over_time(traces_span_metrics_calls_total"
            f'{{job="{job}", span_kind="SPAN_KIND_CONSUMER"}}{_LOOK}))'
        )
        labels = ("messaging_destination_name", "worker_job_outcome")
        at = self._run.ended + 60
        try:
            wait_for(lambda: self._prometheus.total(query, at) == sum(ended.values()), "the span metrics", 40)
        except NotInTime:
            pass  # the check will tell
        found = self._prometheus.totals(query, *labels, at=at)
        self._report.equal(_plain(found), _plain(ended), "the collector's span metrics = process spans")

    def dropped(self) -> None:
        """Spans were refused: counted as dropped, and nothing else is missing."""
        started = len(self._run.ran)
        self._settled(started)
        counted = sum(self.last("worker_job_attempts_total", "job").values())
        self._report.equal(int(counted), started, "attempts = lines of the ledger")
        dropped = self.last("worker_telemetry_dropped_total", "signal")
        self._report.check(dropped["traces"] >= started, "refused spans are counted, one per attempt at least",
                           f"{dropped['traces']:.0f} of {started} attempts")  # fmt: skip
        self._report.equal(int(dropped["metrics"]), 0, "dropped metrics")

    def _queue(self, span: Seen) -> str:
        return str(span.attributes["messaging.destination.name"])


def _plain(counts: Mapping[Any, float]) -> dict[object, int]:
    return {key: int(value) for key, value in sorted(counts.items(), key=str)}


def parts(promise: Promise) -> tuple[str, ...]:
    """The series of a metric, by what is added to its name."""
    return ("_bucket", "_sum", "_count") if promise.histogram else ("",)


def odd_labels(promise: Promise, row: Labels, part: str) -> object:
    """The labels that a series lacks or should not have; None: it is as promised."""
    labels = set(row) - {"__name__"} - RESOURCE - ({"le"} if part == "_bucket" else set())
    missing, extra = promise.labels - labels, labels - promise.labels - promise.maybe
    return {"missing": missing, "extra": extra} if missing or extra or set(row) < RESOURCE else None
