"""The collector's sampling: what failed, was killed or took long is kept whole, of the rest a share, and no count knows
of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.stack.report import Report
from tests.stack.run import Run
from tests.stack.spans import Seen, Traces
from tests.support.programs import NotInTime, wait_for
from tests.support.receiver import Receiver

SLOW = 5e9  # ns from the first start to the last end in a trace, as otel-collector.yaml says
KEPT = 20  # percent of the rest, in this test


def of_run(run: Run, receiver: Receiver) -> Traces:
    """The spans of a run that came to a receiver."""
    services = {run.service(program) for program in ("worker", "traffic", "receiver")}
    return Traces.received(span for span in receiver.spans() if span.resource.get("service.name") in services)


def check_sampling(report: Report, run: Run, every: Receiver, kept: Receiver) -> Traces:
    """Compare what came with what was kept; return all that came."""
    came = of_run(run, every)
    odd = {trace for trace, spans in came.by_trace().items() if _is_odd(spans)}
    wanted = {span.span for span in came.spans.values() if span.trace in odd}
    try:
        wait_for(lambda: wanted <= set(of_run(run, kept).spans), "the traces that must be kept", 40)
    except NotInTime:
        pass  # the checks will tell
    left = of_run(run, kept)
    missing = [ran for ran in run.ran if ran.span not in came.spans]
    report.none(missing, "every attempt that ran came to the collector", f"{len(run.ran)} attempts")
    lost = [came.spans[span] for span in wanted - set(left.spans)]
    report.none([(one.name, one.trace, one.status) for one in lost], "failed, killed and slow traces are kept whole",
                f"{len(odd)} of {len(came.by_trace())} traces, {len(wanted)} spans")  # fmt: skip
    killed = [span for span in came.attempts() if span.outcome == "lost"]
    report.check(killed and all(span.span in left.spans for span in killed), "killed attempts among them", len(killed))
    _rest(report, came, left, odd)
    return came


def _rest(report: Report, came: Traces, left: Traces, odd: set[str]) -> None:
    rest = {trace: spans for trace, spans in came.by_trace().items() if trace not in odd}
    whole = {trace: len(spans) for trace, spans in left.by_trace().items()}
    kept = [trace for trace in rest if trace in whole]
    torn = [trace for trace in kept if whole[trace] != len(rest[trace])]
    report.none(torn, "a trace is kept whole or not at all", f"{len(kept)} of {len(rest)} others")
    share = len(kept) / max(1, len(rest))
    report.check(KEPT / 300 < share < KEPT / 40, f"about {KEPT} % of the others are kept", f"{share:.0%}")
    before, behind = (Counter(span.outcome for span in traces.attempts()) for traces in (came, left))
    report.check(behind["succeeded"] < before["succeeded"], "counting the spans that are left would be wrong",
                 f"{dict(behind)}, but there were {dict(before)}")  # fmt: skip


def _is_odd(spans: Sequence[Seen]) -> bool:
    """Whether the trace must be kept: an error, or long."""
    if any(span.status == "error" for span in spans):
        return True
    return max(span.end for span in spans) - min(span.start for span in spans) >= SLOW
