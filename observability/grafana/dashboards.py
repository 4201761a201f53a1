"""The dashboards, as code: `make dashboards` writes dashboards/*.json, which Grafana reads and a test compares.

To add a panel, write it here. `Q` is the queue; the job label is the service, or `namespace/service`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.grafana.blocks import Column, Query, dashboard_of, heat, lines, number, rows, variable
from observability.grafana.log_lines import log_lines

TARGET = Path(__file__).parent / "dashboards"
RATE = "[$__rate_interval]"
Q = "messaging_destination_name"
ALL = 'job=~"$service"'
ONE = f'job=~"$service", {Q}=~"$queue"'
SENT = f'{Q}=~"$queue"'  # producers are services of their own
WAIT, PROCESS = "worker_job_queue_wait_duration_seconds", "messaging_process_duration_seconds"
DEPTH, AGE = "worker_queue_depth", "worker_queue_oldest_job_age_seconds"
USED, LIMIT = "worker_slots_used", "worker_slots_limit"

SERVICE = variable("service", "Service", f"label_values({DEPTH}, job)")
QUEUE = variable("queue", "Queue", f"label_values({DEPTH}{{{ALL}}}, {Q})", many=False)

RED_ABOVE_0 = ((None, "green"), (1, "red"))
SHARE = ((None, "red"), (0.9, "orange"), (0.99, "green"))
FULL = ((None, "green"), (0.8, "orange"), (0.95, "red"))


def rate(name: str, where: str, window: str = RATE) -> str:
    return f"rate({name}{{{where}}}{window})"


def success(where: str, window: str = RATE, by: str = "") -> str:
    """The share of attempts without an error."""
    group = f" by ({by})" if by else ""
    good = rate(f"{PROCESS}_count", where + ', error_type=""', window)
    return f"sum{group} ({good}) / sum{group} ({rate(f'{PROCESS}_count', where, window)})"


def quantiles(name: str, where: str) -> list[Query]:
    buckets = f"sum by (le) ({rate(f'{name}_bucket', where)})"
    return [(f"histogram_quantile({q}, {buckets})", f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)]


def buckets(name: str, where: str) -> str:
    return f"sum by (le) (increase({name}_bucket{{{where}}}{RATE}))"


def in_state(state: str, where: str) -> str:
    """Jobs of each queue. One process reports depth, the leading supervisor's maintenance: max, then queues may add."""
    return f'max by (job, {Q}) ({DEPTH}{{{where}, worker_queue_state="{state}"}})'


def used(where: str, by: str = "") -> str:
    group = f" by ({by})" if by else ""
    return f"sum{group} ({USED}{{{where}}}) / sum{group} ({LIMIT}{{{where}}})"


# --- all queues -----------------------------------------------------------------------------------------------------


def overview() -> dashboard.Dashboard:
    board = dashboard_of(
        "worker-overview", "Worker: overview", "All queues of all services on the framework.", [SERVICE]
    )
    firing = 'count(ALERTS{alertname=~"Worker.*", alertstate="firing"}) or vector(0)'
    board.with_panel(number("Alerts firing", "Of observability/prometheus/alerts.yml.", firing, steps=RED_ABOVE_0))
    board.with_panel(number("Ready", "Jobs that wait for a slot.", f"sum({in_state('ready', ALL)})"))
    oldest = ((None, "green"), (60, "orange"), (300, "red"))
    board.with_panel(number("Oldest", "Age of the oldest ready job.", f"max({AGE}{{{ALL}}})", unit="s", steps=oldest))
    done = f"sum({rate(f'{PROCESS}_count', ALL)})"
    board.with_panel(number("Attempts", "That ended, in a second.", done, unit="ops"))
    board.with_panel(
        number("Success", "Share of attempts without an error.", success(ALL), unit="percentunit", steps=SHARE)
    )
    board.with_panel(
        number("Dead letters", "That wait for a decision.", f"sum({in_state('dead', ALL)})", steps=RED_ABOVE_0)
    )
    board.with_panel(queues_table())
    board.with_panel(lines("Ready jobs", "Due, and no slot has taken them.", (in_state("ready", ALL), f"{{{{{Q}}}}}")))
    age = f"max by ({Q}) ({AGE}{{{ALL}}})"
    board.with_panel(lines("Age of the oldest ready job", "Zero where none waits.", (age, f"{{{{{Q}}}}}"), unit="s"))
    board.with_panel(in_and_out('messaging_destination_name=~".+"', ALL, f"{{{{{Q}}}}} "))
    share = (success(ALL, by=Q), f"{{{{{Q}}}}}")
    board.with_panel(lines("Success ratio", "Attempts without an error.", share, unit="percentunit", most=1))
    retries = f"sum by ({Q}, error_type) ({rate('worker_job_retries_total', ALL)})"
    board.with_panel(
        lines(
            "Retries by error", "Failed attempts that will be repeated.", (retries, f"{{{{{Q}}}}} {{{{error_type}}}}")
        )
    )
    dead = (in_state("dead", ALL), f"{{{{{Q}}}}}")
    bad = (in_state("bad", ALL), f"{{{{{Q}}}}} unreadable")
    undeclared = (f"max by (job, {Q}) (worker_queue_undeclared{{{ALL}}})", f"{{{{{Q}}}}} not declared")
    paused = (f"max by (job, {Q}) (worker_queue_paused{{{ALL}}}) > 0", f"{{{{{Q}}}}} paused")
    held = (f"max by (job, {Q}) (worker_queue_held{{{ALL}}}) > 0", f"{{{{{Q}}}}} held")
    about = (
        "Until they are replayed or discarded; files that cannot be read, and jobs of queues that nobody declares; "
        "1: a queue is paused, or its breaker holds it."
    )
    board.with_panel(lines("Dead letters", about, dead, bad, undeclared, paused, held))
    p95 = f"histogram_quantile(0.95, sum by (le, {Q}) ({rate(f'{WAIT}_bucket', ALL)}))"
    board.with_panel(
        lines(
            "Wait p95",
            "From due to started. A point leads to its trace.",
            (p95, f"{{{{{Q}}}}}"),
            unit="s",
            exemplars=True,
            logarithmic=True,
            width=12,
        )
    )
    late = f"queue:late_start:ratio_rate1h{{{ALL}}}"
    board.with_panel(
        lines(
            "Late starts in the last hour",
            "Of queues with an slo: the share of attempts that started later than promised.",
            (late, f"{{{{{Q}}}}}"),
            unit="percentunit",
            width=12,
        )
    )
    return board


def queues_table() -> Any:
    by = f"job, {Q}"
    sent = f"sum by ({Q}) ({rate('messaging_client_sent_messages_total', '', '[5m]')})".replace("{}", "")
    red = ((1.0, "red"),)
    # Producers have job labels of their own: the rate is put beside every service that reports a depth of the queue.
    into = f"max by ({by}) ({DEPTH}{{{ALL}}}) * 0 + on ({Q}) group_left () {sent}"
    columns = [
        Column("Ready", in_state("ready", ALL)),
        Column("Oldest", f"max by ({by}) ({AGE}{{{ALL}}})", unit="s", steps=((60.0, "orange"), (300.0, "red"))),
        Column("Delayed", in_state("delayed", ALL)),
        Column("In flight", in_state("in_flight", ALL)),
        Column("Dead", in_state("dead", ALL), steps=red),
        Column("In", into, unit="ops"),
        Column("Out", f"sum by ({by}) ({rate(f'{PROCESS}_count', ALL, '[5m]')})", unit="ops"),
        Column("Success", success(ALL, "[5m]", by), unit="percentunit"),
        Column("Slots used", used(ALL, by), unit="percentunit", steps=((0.95, "red"),)),
    ]
    # The names are Grafana's: the value of a field of the row that was clicked.
    url = "/d/worker-queue?var-service=${__data.fields.Service}&var-queue=${__data.fields.Queue}&${__url_time_range}"
    return rows(
        "Queues",
        "Of the last five minutes. A queue's name leads to its details.",
        {"job": "Service", Q: "Queue"},
        columns,
        link=("Queue", "Details of this queue", url),
    )


def in_and_out(sent: str, done: str, legend: str) -> Any:
    return lines(
        "In and out",
        "Jobs that are enqueued, and attempts that end, in a second. Producers count whatever their service.",
        (f"sum by ({Q}) ({rate('messaging_client_sent_messages_total', sent)})", f"{legend}in"),
        (f"sum by ({Q}) ({rate(f'{PROCESS}_count', done)})", f"{legend}out"),
        unit="ops",
    )


# --- one queue ------------------------------------------------------------------------------------------------------


def queue() -> dashboard.Dashboard:
    board = dashboard_of(
        "worker-queue", "Worker: queue", "One queue: how long jobs wait and run, how they end, why.", [SERVICE, QUEUE]
    )
    board.with_panel(number("Ready", "Jobs that wait for a slot.", f"sum({in_state('ready', ONE)})"))
    board.with_panel(number("Oldest", "Age of the oldest ready job.", f"max({AGE}{{{ONE}}})", unit="s"))
    board.with_panel(number("In flight", "Jobs that run, or are claimed.", f"sum({in_state('in_flight', ONE)})"))
    board.with_panel(number("Slots used", "Of all that serve it.", used(ONE), unit="percentunit", steps=FULL))
    board.with_panel(number("Success", "Of attempts.", success(ONE), unit="percentunit", steps=SHARE))
    board.with_panel(
        number("Dead letters", "That wait for a decision.", f"sum({in_state('dead', ONE)})", steps=RED_ABOVE_0)
    )
    _times(board)
    outcomes = f"sum by (worker_job_outcome) ({rate('worker_job_attempts_total', ONE)})"
    board.with_panel(
        lines(
            "Attempts by outcome",
            "lost: the process died under it. released: handed back, nothing charged.",
            (outcomes, "{{worker_job_outcome}}"),
            unit="ops",
            stacked=True,
        )
    )
    failed = rate(f"{PROCESS}_count", ONE + ', error_type!=""')
    errors = f"sum by (error_type) ({failed})"
    board.with_panel(
        lines("Errors by type", "Every failed attempt.", (errors, "{{error_type}}"), unit="ops", stacked=True)
    )
    dead = f"sum by (worker_dead_letter_reason, error_type) (increase(worker_job_dead_letters_total{{{ONE}}}[1h]))"
    board.with_panel(
        lines(
            "New dead letters in the last hour",
            "An increase: the first of a kind since the start of the service is not seen here, but in Depth.",
            (dead, "{{worker_dead_letter_reason}} {{error_type}}"),
        )
    )
    depth = f"max by (worker_queue_state) ({DEPTH}{{{ONE}}})"
    board.with_panel(lines("Depth", "Jobs in each state.", (depth, "{{worker_queue_state}}")))
    board.with_panel(in_and_out(SENT, ONE, ""))
    # Receiving is left out: it includes waiting for a job.
    taken = rate("messaging_client_operation_duration_seconds_bucket", ONE + ', messaging_operation_name!="receive"')
    operations = f"sum by (le, messaging_operation_name) ({taken})"
    board.with_panel(
        lines(
            "Engine operations, p95",
            "What enqueueing and settling take: a slow disk shows here.",
            (f"histogram_quantile(0.95, {operations})", "{{messaging_operation_name}}"),
            unit="s",
        )
    )
    return board


def _times(board: dashboard.Dashboard) -> None:
    """Wait and processing, as lines and as heat maps; a point leads to its trace."""
    wait, process = quantiles(WAIT, ONE), quantiles(PROCESS, ONE)
    about = "From the moment a job was due to the start of the attempt. A point leads to its trace."
    board.with_panel(lines("Wait", about, *wait, unit="s", exemplars=True, logarithmic=True, width=12))
    board.with_panel(heat("Wait, all attempts", about, buckets(WAIT, ONE)))
    about = "Of every attempt, whatever its end. A point leads to its trace."
    board.with_panel(lines("Processing", about, *process, unit="s", exemplars=True, logarithmic=True, width=12))
    board.with_panel(heat("Processing, all attempts", about, buckets(PROCESS, ONE)))


# --- processes ------------------------------------------------------------------------------------------------------


def workers() -> dashboard.Dashboard:
    board = dashboard_of("worker-workers", "Worker: processes", "Slots, processes, restarts and memory.", [SERVICE])
    states = "max by (job, worker_process_state) (worker_processes{%s})"
    ready = states % f'{ALL}, worker_process_state="ready"'
    board.with_panel(number("Ready", "Processes that take jobs, or keep house.", f"sum({ready})"))
    board.with_panel(number("Slots", "Jobs that may run at once.", f"sum({LIMIT}{{{ALL}}})"))
    board.with_panel(number("Slots used", "Of all slots.", used(ALL), unit="percentunit", steps=FULL))
    restarts = f"increase(worker_process_restarts_total{{{ALL}}}[1h])"
    board.with_panel(number("Restarts", "In the last hour, of any kind.", f"sum({restarts})"))
    lost = rate("worker_job_attempts_total", f'{ALL}, worker_job_outcome="lost"', "[5m]")
    lost = f"sum({lost}) or vector(0)"
    board.with_panel(
        number(
            "Lost attempts", "Whose process died under them.", lost, unit="ops", steps=((None, "green"), (1e-4, "red"))
        )
    )
    memory = f"worker_process_memory_bytes{{{ALL}}}"
    board.with_panel(number("Memory", "Resident, all processes.", f"sum({memory})", unit="bytes"))
    share = (used(ALL, Q), f"{{{{{Q}}}}}")
    board.with_panel(lines("Slots used, by queue", "1: full.", share, unit="percentunit", most=1, limit=0.9))
    kinds = f"sum by (job, worker_process_exit_reason) (increase(worker_process_restarts_total{{{ALL}}}[10m]))"
    about = "In 10 minutes. drained and recycled are planned; timeout is charged to the job that hung, or to a hook."
    board.with_panel(lines("Restarts by reason", about, (kinds, "{{worker_process_exit_reason}}"), stacked=True))
    board.with_panel(lines("Processes by state", "", (states % ALL, "{{worker_process_state}}")))
    process = f"max by (job, instance, worker_process_slot) ({memory})"
    slot = (process, "{{worker_process_slot}}")
    about = "Resident. A replaced process keeps its slot's line; max_memory replaces one that grows."
    board.with_panel(lines("Memory by process", about, slot, unit="bytes", width=12))
    attempts = f"sum by (job, instance, {Q}) ({rate(f'{PROCESS}_count', ALL)})"
    busy = f"sum by (job, instance, {Q}) ({USED}{{{ALL}}})"
    named = f"{attempts} * on (job, instance) group_left (worker_process_slot) ({process} * 0 + 1)"
    about = "One line for each slot; what the rescuer tells of the dead is maintenance's."
    line = (named, f"{{{{worker_process_slot}}}} {{{{{Q}}}}}")
    board.with_panel(lines("Attempts by process", about, line, unit="ops", width=12))
    slots = f"sum by (job, instance, {Q}) ({LIMIT}{{{ALL}}})"
    columns = [
        Column("Slots", slots),
        Column("Busy", busy),
        Column("Attempts/s", attempts.replace(RATE, "[5m]"), unit="ops"),
        Column("Memory", process, unit="bytes"),
    ]
    labels = {"job": "Service", "worker_process_slot": "Process", Q: "Queue", "instance": "Instance"}
    board.with_panel(rows("Worker processes", "One line for each slot; a replaced process keeps it.", labels, columns))
    return board


# --- telemetry itself -----------------------------------------------------------------------------------------------


def pipeline() -> dashboard.Dashboard:
    """Whether what the other dashboards show can be believed."""
    board = dashboard_of(
        "worker-pipeline", "Worker: telemetry", "Whether what the other dashboards show can be believed.", [SERVICE]
    )
    dropped = f"sum(increase(worker_telemetry_dropped_total{{{ALL}}}[1h]))"
    board.with_panel(number("Given up", "Spans and points, in an hour.", dropped, steps=RED_ABOVE_0))
    age = f"max(time() - max by (job) (timestamp({DEPTH}{{{ALL}}})))"
    stale = ((None, "green"), (60, "orange"), (120, "red"))
    board.with_panel(number("Oldest metrics", "Since a service last reported.", age, unit="s", steps=stale))
    failing = failed_or_zero("spans", "[5m]") + " + " + failed_or_zero("metric_points", "[5m]")
    steps = ((None, "green"), (0.001, "red"))
    board.with_panel(number("Collector: failing", "Items it could not deliver.", failing, unit="ops", steps=steps))
    full = "max(otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)"
    board.with_panel(number("Collector: queue", "How full.", full, unit="percentunit", steps=FULL))
    spans = f"sum({rate('otelcol_receiver_accepted_spans_total', '')})".replace("{}", "")
    board.with_panel(number("Spans", "That the collector takes in, in a second.", spans, unit="ops"))
    resident = "max(otelcol_process_memory_rss_bytes)"
    board.with_panel(number("Collector: memory", "Resident.", resident, unit="bytes"))
    lost = f"sum by (job, signal) ({rate('worker_telemetry_dropped_total', ALL)})"
    about = "The collector is away, refuses them or is too slow. Jobs feel nothing of it."
    board.with_panel(lines("Telemetry given up", about, (lost, "{{job}} {{signal}}"), unit="ops"))
    fresh = f"time() - max by (job) (timestamp({DEPTH}{{{ALL}}}))"
    about = "A service that stops reporting ends here before its alert fires."
    board.with_panel(lines("Age of the newest metrics", about, (fresh, "{{job}}"), unit="s", limit=60))
    board.with_panel(
        lines(
            "Collector: in",
            "refused: memory_limiter said no, and the services try again.",
            *(
                (f"sum(rate(otelcol_receiver_{verb}_{items}_total{RATE}))", f"{items.replace('_', ' ')} {verb}")
                for items in ("spans", "metric_points")
                for verb in ("accepted", "refused")
            ),
            unit="ops",
        )
    )
    board.with_panel(lines("Collector: out", "By exporter.", *out("sent"), unit="ops"))
    board.with_panel(
        lines("Collector: not delivered", "By exporter; after its retries.", *out("send_failed"), unit="ops")
    )
    queued = ("max by (exporter) (otelcol_exporter_queue_size)", "{{exporter}}")
    board.with_panel(lines("Collector: queues", "Batches that wait for a backend.", queued))
    return board


def failed_or_zero(items: str, window: str) -> str:
    """A counter that appears with its first failure; until then what was sent, times zero."""
    failed, sent = (f"sum(rate(otelcol_exporter_{verb}_{items}_total{window}))" for verb in ("send_failed", "sent"))
    return f"({failed} or {sent} * 0)"


def out(verb: str) -> list[Query]:
    queries = []
    for items in ("spans", "metric_points"):
        expr = f"sum by (exporter) (rate(otelcol_exporter_{verb}_{items}_total{RATE}))"
        if verb != "sent":
            expr += f" or sum by (exporter) (rate(otelcol_exporter_sent_{items}_total{RATE})) * 0"
        queries.append((expr, f"{{{{exporter}}}} {items.replace('_', ' ')}"))
    return queries


# --- files ----------------------------------------------------------------------------------------------------------


def files() -> dict[str, str]:
    """File name to JSON, of every dashboard."""
    found = {}
    boards = {"overview": overview, "queue": queue, "workers": workers, "pipeline": pipeline, "logs": log_lines}
    for name, make in boards.items():
        board = make().build()
        for number_, panel in enumerate(board.panels or (), 1):
            panel.id_val = number_
        found[f"{name}.json"] = json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
    return found


def main() -> None:
    """Writes the files, and removes those that no longer exist."""
    wanted = files()
    for path in TARGET.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
