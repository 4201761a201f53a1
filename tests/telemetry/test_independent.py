"""What we send is understood by receivers that are not ours, over http and grpc, from the rings and from the SDK."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from framework.process.scoreboard import EXPORTER
from framework.telemetry.names import LONG_BUCKETS, SCOPE
from tests.support.received import SeenSpan, Store
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree, trees
from tests.telemetry.independent import Foreign, Rotel, TestAgent, agent_program, rotel_program

TRACE, SENDER, STATE = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13", "vendor=it%20works"
RING: dict[str, str] = {}
SDK = {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"}  # only the SDK can do that, so it sends everything

needs_rotel = pytest.mark.skipif(rotel_program() is None, reason="no rotel for this Python")
needs_agent = pytest.mark.skipif(agent_program() is None, reason="no ddapm-test-agent: `make test` installs it")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path)


@pytest.fixture(params=[pytest.param(Rotel, marks=needs_rotel), pytest.param(TestAgent, marks=needs_agent)])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Foreign]:
    place = tmp_path / "foreign"
    place.mkdir()
    with request.param(place) as started:
        yield started


@dataclass
class Told:
    """What the tree's own log says of its attempts: the log does not come out of what is compared."""

    job: str
    attempt: int
    outcome: str
    trace: str
    span: str
    error: str


def work(tree: Tree, env: dict[str, str]) -> list[Told]:
    """One job that kills its process first, one that succeeds, one that fails first; stopped when all is done.

    The killer comes first and alone: what the SDK of its process had not sent would be missing.
    """
    parent = SpanContext(
        int(TRACE, 16), int(SENDER, 16), True, TraceFlags(TraceFlags.SAMPLED), TraceState.from_header([STATE])
    )
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
    try:
        for act in ("abort", "ok", "fail"):
            tree.enqueue(Torture.sync, Task(do=act, key=act, until=1), job_id=f"job-{act}")
    finally:
        context.detach(token)
    alone = {"WORKER_QUEUES__SYNC__WORKERS": "1", "OTEL_SERVICE_NAME": "tortured", "OTEL_SDK_DISABLED": "false"}
    tree.start("--queue", "sync", **alone, **env)
    tree.wait_event("job_finished", 3, outcome="succeeded")
    tree.wait_event("attempt_lost")
    has_rings = any(slot.name == EXPORTER for slot in tree.slots())
    assert has_rings == (not SDK.items() <= env.items()), "not the path that was asked for"
    assert tree.stop() == 0
    ended = tree.events("job_finished") + tree.events("attempt_lost")
    return [told(event) for event in ended]


def told(event: dict[str, Any]) -> Told:
    outcome = event.get("outcome") if event["event"] == "job_finished" else "lost"
    error = event.get("error.type") or ("worker_lost" if outcome == "lost" else "")
    return Told(event["job_id"], event["attempt"], str(outcome), event["trace_id"], event["span_id"], error)


# Every receiver by each protocol and from each path, and every protocol from each path; but not all eight.
@pytest.mark.parametrize(
    ("foreign", "protocol", "path"),
    [
        pytest.param(Rotel, "http/protobuf", RING, marks=needs_rotel, id="rotel-http-ring"),
        pytest.param(Rotel, "grpc", SDK, marks=needs_rotel, id="rotel-grpc-sdk"),
        pytest.param(TestAgent, "http/protobuf", SDK, marks=needs_agent, id="agent-http-sdk"),
        pytest.param(TestAgent, "grpc", RING, marks=needs_agent, id="agent-grpc-ring"),
    ],
    indirect=["foreign"],
)
def test_spans_metrics_and_logs_are_understood(
    tree: Tree, foreign: Foreign, protocol: str, path: dict[str, str]
) -> None:
    attempts = work(tree, foreign.env(protocol) | path)
    assert Counter((a.job, a.outcome) for a in attempts) == {
        ("job-ok", "succeeded"): 1,
        ("job-fail", "retried"): 1,
        ("job-fail", "succeeded"): 1,
        ("job-abort", "lost"): 1,
        ("job-abort", "succeeded"): 1,
    }
    wanted = {attempt.span for attempt in attempts}
    retried = {attempt.span for attempt in attempts if attempt.outcome == "retried"}
    seen = foreign.wait_for(
        lambda store: (
            wanted <= {span.span_id for span in store.spans()}
            and counted(store) == 5
            and retried <= {record.span_id for record in store.logs()}
        ),
        "spans, counts and logs",
    )
    check_spans(seen, attempts)
    check_metrics(seen, attempts)
    check_logs(seen, attempts)


@pytest.mark.parametrize(
    ("foreign", "protocol"),
    [
        pytest.param(Rotel, "http/protobuf", marks=needs_rotel, id="rotel-http"),
        pytest.param(TestAgent, "grpc", marks=needs_agent, id="agent-grpc"),
    ],
    indirect=["foreign"],
)
def test_compressed_requests_are_understood(tree: Tree, foreign: Foreign, protocol: str) -> None:
    attempts = work(tree, foreign.env(protocol, compression="gzip"))
    wanted = {attempt.span for attempt in attempts}
    foreign.wait_for(
        lambda store: wanted <= {span.span_id for span in store.spans()} and counted(store) == 5, "spans and counts"
    )


def counted(store: Store) -> float:
    return store.value("worker.job.attempts")


def check_spans(seen: Store, attempts: list[Told]) -> None:
    spans = {span.span_id: span for span in seen.spans("process sync")}
    assert len(spans) == len(seen.spans("process sync")) == len(attempts)
    for attempt in attempts:
        span = spans[attempt.span]
        assert (span.kind, span.trace_id, span.parent_id) == ("consumer", TRACE, SENDER)
        assert attempt.trace == TRACE
        assert span.trace_state == STATE
        assert span.scope == SCOPE
        assert span.resource["service.name"] == "tortured"
        assert span.resource["process.pid"] > 0
        assert span.end > span.start > 0
        assert span.status == ("error" if attempt.error else "unset")
        expected = {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.system.name": "spool",
            "messaging.destination.name": "sync",
            "messaging.message.id": attempt.job,
            "worker.job.attempt": attempt.attempt,
            "worker.job.max_attempts": 3,
            "worker.job.redelivered": attempt.attempt > 1,
            "worker.job.outcome": attempt.outcome,
        } | ({"error.type": attempt.error} if attempt.error else {})
        waited = span.attributes.pop("worker.job.queue_wait")
        assert isinstance(waited, float)
        assert waited >= 0
        assert span.attributes == expected
        assert [(link.trace_id, link.span_id) for link in span.links] == links_of(attempt, attempts)
        events = {"ValueError": ["exception"], "worker_lost": ["worker.black_box"]}
        assert [name for name, _ in span.events] == events.get(attempt.error, [])
    raised = next(span for span in spans.values() if "exception" in dict(span.events))
    assert raised.events[0][1]["exception.type"] == "ValueError"
    assert raised.events[0][1]["exception.message"] == "fail fails"
    assert "in misbehave" in raised.events[0][1]["exception.stacktrace"]


def links_of(attempt: Told, attempts: list[Told]) -> list[tuple[str, str]]:
    before = [a.span for a in attempts if a.job == attempt.job and a.attempt == attempt.attempt - 1]
    return [(TRACE, SENDER), *((TRACE, span) for span in before)]


def check_metrics(seen: Store, attempts: list[Told]) -> None:
    by_outcome = Counter(attempt.outcome for attempt in attempts)
    for outcome, count in by_outcome.items():
        assert seen.value("worker.job.attempts", worker__job__outcome=outcome) == count
    assert seen.value("messaging.process.duration") == len(attempts)
    assert seen.value("messaging.process.duration", error__type="ValueError") == 1
    assert seen.value("worker.job.queue_wait.duration") == len(attempts)
    assert seen.value("worker.job.retries") == 2
    for point in seen.latest("worker.job.attempts"):
        assert (point.kind, point.monotonic, point.cumulative, point.unit) == ("sum", True, True, "{attempt}")
    for point in seen.latest("messaging.process.duration"):
        assert (point.kind, point.cumulative, point.unit, point.bounds) == ("histogram", True, "s", LONG_BUCKETS)
        assert sum(point.buckets) == point.count
        assert point.total > 0
    led_to = {span for point in seen.metrics("messaging.process.duration") for _, span in point.exemplars}
    assert led_to
    assert led_to <= {attempt.span for attempt in attempts}
    assert {point.kind for point in seen.metrics("worker.queue.depth")} == {"gauge"}


def check_logs(seen: Store, attempts: list[Told]) -> None:
    """At least those of the processes that nobody killed; all carry the ids of their span."""
    finished = [record for record in seen.logs() if record.body == "job_finished"]
    known = {attempt.span: attempt for attempt in attempts}
    assert {record.span_id for record in finished} >= {a.span for a in attempts if a.outcome == "retried"}
    for record in finished:
        attempt = known[record.span_id]
        assert record.trace_id == attempt.trace
        assert record.attributes["job_id"] == attempt.job
        assert record.attributes["outcome"] == attempt.outcome
        assert record.resource["service.name"] == "tortured"


def test_our_own_receiver_agrees_with_them(foreign: Foreign, tree: Tree) -> None:
    """The tests beside this one trust our receiver: it decodes what a foreign one does."""
    with Receiver() as ours:
        attempts = work(tree, ours.env() | {"OTEL_LOGS_EXPORTER": "otlp"})
        for request in list(ours.requests):
            send(foreign, request)
        wanted = {attempt.span for attempt in attempts}
        theirs = foreign.wait_for(lambda s: wanted <= {span.span_id for span in s.spans()}, "the same spans")
        assert shape(theirs.spans()) == shape(ours.spans())


def shape(spans: list[SeenSpan]) -> set[str]:
    return {repr(span) for span in spans}


def send(foreign: Foreign, request: Any) -> None:
    kind = type(request).__name__.removeprefix("Export").removesuffix("ServiceRequest").lower()
    path = {"trace": "traces"}.get(kind, kind)
    asked = urllib.request.Request(
        f"http://127.0.0.1:{foreign.http}/v1/{path}",
        data=request.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as answer:
        assert answer.status == 200
