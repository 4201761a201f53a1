"""Every job's trace in Jaeger is whole: send, attempts, requests, the receiver's side, retries, kills, dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from tests.stack.report import Report
from tests.stack.run import Run
from tests.stack.spans import Seen, Traces, fetch
from tests.support.ledger import Run as Ran
from tests.support.programs import NotInTime, wait_for

Attempts = Mapping[tuple[str, str], list[Seen]]
DEAD_LETTERS = "dead-letters"


def arrived(run: Run, jaeger: str) -> Traces:
    """All traces of a run, once its last attempt is there."""
    try:
        for ran in run.ran[-5:]:
            wait_for(partial(_has, jaeger, ran), "the last spans", 40)  # the collector decides about a trace after 10 s
    except NotInTime:
        pass  # the checks will tell
    ids = {ran.trace for ran in run.ran}
    found = Traces.in_jaeger(jaeger, ids)
    # An attempt that is a root of its own refers to its creation by a link only.
    linked = {trace for span in found.spans.values() for trace in span.linked_traces}
    return Traces.in_jaeger(jaeger, ids | linked) if linked - ids else found


def _has(jaeger: str, ran: Ran) -> bool:
    return any(span.span == ran.span for span in fetch(jaeger, ran.trace))


def check_traces(report: Report, run: Run, traces: Traces) -> None:
    """All of it for one run."""
    attempts = traces.attempts()
    by_job: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for span in attempts:
        by_job[span.name, str(span.attributes.get("messaging.message.id"))].append(span)
    report.none(traces.twice, "no span came twice", f"{len(traces.spans)} spans")
    _ledger(report, run, traces, attempts)
    _senders(report, run, traces, by_job)
    _requests(report, run, traces)
    _links(report, run, traces, by_job)
    _dead_letters(report, traces, attempts)
    _digests(report, run, traces)


def _ledger(report: Report, run: Run, traces: Traces, attempts: list[Seen]) -> None:
    missing = [ran for ran in run.ran if ran.span not in traces.spans]
    report.none(missing, "every attempt that ran has its span", f"{len(run.ran)} attempts, {len(run.slots)} slots")
    known = {ran.span for ran in run.ran}
    odd = [span for span in attempts if span.span not in known and span.outcome not in ("lost", "released")]
    silent = sum(span.span not in known for span in attempts)
    report.none(odd, "no span of an attempt that never ran", f"{silent} were killed before their handler")
    killed = [ran for ran in run.ran if not ran.ended]
    kept = [ran for ran in killed if (span := traces.spans.get(ran.span)) is None or not _is_lost(span)]
    report.none(kept, "attempts killed in their handler: outcome lost, error worker_lost", f"{len(killed)} of them")
    if run.plan.kill_every:
        report.check(killed, "some attempts were killed in their handler", f"kills: {dict(run.kills)}")


def _is_lost(span: Seen) -> bool:
    told = (span.outcome, span.status, span.attributes.get("error.type"))
    return told == ("lost", "error", "worker_lost")


def _senders(report: Report, run: Run, traces: Traces, by_job: Attempts) -> None:
    sent = [span for span in traces.spans.values() if span.kind == "producer"]
    by_id = {(str(span.attributes["messaging.message.id"]), span.span) for span in sent}
    cut = {f"{ran.job}-digest" for ran in run.ran if ran.queue == "digests" and ran.pid in run.killed}
    wrong, roots = [], 0
    for (_, job), spans in by_job.items():
        for span in spans:
            # A digest's handler that was killed after it had sent sends again, and that stores nothing: two for one id.
            creations = {link for link in span.links if (job, link) in by_id}
            roots += not span.parent
            if job not in cut and (len(creations) != 1 or span.parent not in ("", *creations)):
                wrong.append((span.name, job, span.outcome))
    report.none(wrong, "every attempt is linked to its `send`, and its child unless it waited long",
                f"{len(sent)} sends, {roots} attempts are roots of their own")  # fmt: skip
    expected = run.plan.jobs + run.digests
    by_traffic = [span for span in sent if span.service == run.service("traffic")]
    report.equal(len(by_traffic), expected, "traffic's `send` spans")


def _requests(report: Report, run: Run, traces: Traces) -> None:
    """send → process → client → server. What a killed process had not exported went with it: the SDK's own spans."""
    pids = {ran.span: ran.pid for ran in run.ran}
    wrong, whole, cut = [], 0, 0
    for span in traces.named("process deliveries"):
        clients = [s for s in traces.children[span.span] if s.kind == "client"]
        servers = [s for client in clients for s in traces.children[client.span]]
        if [s.service for s in servers] == [run.service("receiver")] and len(clients) == 1:
            whole += 1
        elif pids.get(span.span) in run.killed or span.span not in pids:
            cut += 1
        else:
            wrong.append((span.attributes["messaging.message.id"], span.outcome, len(clients), len(servers)))
    seen = f"{whole} whole" + (f", {cut} in killed processes without all of theirs" if cut else "")
    report.none(wrong, "send → process → HTTP client → receiver", seen)
    report.check(whole, "there are such chains", whole)
    orphans = [span for span in traces.spans.values() if span.parent and span.parent not in traces.spans]
    # Parents that the SDK of a killed process kept for itself: of a receiver's span, and of what a digest had sent.
    foreign = [span for span in orphans if not run.plan.kill_every or not _is_cut(span)]
    report.none(foreign, "no span without its parent", f"{len(orphans)} of a killed process's" if orphans else "")
    received = len(traces.named("POST /hooks"))
    report.equal(received, run.received["requests"], "the receiver's spans are as many as its requests")


def _is_cut(span: Seen) -> bool:
    job = str(span.attributes.get("messaging.message.id", ""))
    return span.kind == "server" or (span.name == "process deliveries" and job.endswith("-digest"))


def _links(report: Report, run: Run, traces: Traces, by_job: Attempts) -> None:
    wrong, followed = [], 0
    for spans in by_job.values():
        # A released attempt was not charged, so it left nothing in the job's history to refer to.
        charged = [span for span in spans if span.outcome != "released"]
        for before, after in pairwise(charged):
            followed += 1
            if before.span not in after.links:
                wrong.append((before.name, before.attributes["messaging.message.id"], before.outcome))
    report.none(wrong, "every repeated attempt is linked to the one before", f"{followed} pairs")
    statuses = Counter((span.outcome, span.status) for spans in by_job.values() for span in spans)
    right = {"succeeded": "unset", "archived": "unset", "released": "unset", "retried": "error", "lost": "error",
             "dead_lettered": "error"}  # fmt: skip
    odd = [pair for pair in statuses if right.get(pair[0]) != pair[1]]
    counts = Counter(span.outcome for spans in by_job.values() for span in spans)
    report.none(odd, "the status fits the outcome", dict(counts))


def _dead_letters(report: Report, traces: Traces, attempts: list[Seen]) -> None:
    handled = [span for span in traces.named(f"process {DEAD_LETTERS}") if span.outcome == "archived"]
    linked = {link for span in handled for link in span.links}
    dead = [span for span in attempts if span.outcome == "dead_lettered"]
    alone = [span for span in dead if span.span not in linked]
    report.none(alone, "every dead letter's handling is linked to the attempt that failed last", f"{len(dead)} letters")
    report.check(dead, "there are dead letters", len(dead))


def _digests(report: Report, run: Run, traces: Traces) -> None:
    """What a handler enqueues belongs to its own trace."""
    sends = [span for span in traces.named("send deliveries") if span.service == run.service("worker")]
    strays = [s for s in sends if (parent := traces.spans.get(s.parent)) is None or parent.name != "process digests"]
    report.none(strays, "what a digest's handler enqueues is its child", f"{len(sends)} digests")
    taken = [span for span in sends if any(s.kind == "consumer" for s in traces.children[span.span])]
    if not run.plan.kill_every:  # a second send of the same id stores nothing
        report.equal(len(taken), len(sends), "and each has an attempt below it")
