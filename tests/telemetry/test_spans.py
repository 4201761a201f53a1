"""The process span: ids, parent, links, status, context. Real executor, real SDK, real OTLP receiver."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import NoOpTracerProvider

from framework.model.attempt import Attempt
from framework.model.job import span_id_of, trace_id_of
from framework.model.outcome import Discard, JobInterrupted, Reject, RetryLater, Snooze
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import LineWriter
from framework.telemetry.sdk.spans import SpanTracing
from tests.telemetry.helpers import IDENTITY, SPAN, TRACE, TRACEPARENT, AsyncRelay, Relay, failure_of, lease_of


def relay(**behaviours: Any) -> Relay:
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None, **behaviours}
    return app


def only_span(receiver: Any, station: Any, name: str = "process deliveries") -> Any:
    station.close()
    (span,) = receiver.spans(name)
    return span


def test_an_attempt_is_a_child_of_what_made_the_job_and_links_to_it(receiver, stations):
    station = stations()
    lease = lease_of(headers={"traceparent": TRACEPARENT, "content-type": "application/json"}, delivery=3)
    attempt, _ = station.run(relay(), lease)
    span = only_span(receiver, station)
    assert (span.kind, span.trace_id, span.parent_id) == ("consumer", TRACE, SPAN)
    assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE, SPAN)]
    assert span.span_id == span_id_of(lease.job.uid, 3) == attempt.identity.span_id
    assert attempt.identity.sampled
    assert span.status == "unset"
    assert span.attributes == {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.system.name": "spool",
        "messaging.destination.name": "deliveries",
        "messaging.message.id": lease.job.id,
        "worker.job.attempt": 1,
        "worker.job.max_attempts": 4,
        "worker.job.queue_wait": pytest.approx(attempt.wait),
        "worker.job.redelivered": True,
        "worker.job.outcome": "succeeded",
    }
    assert abs(span.start - attempt.started_at * 1e9) < 1000


def test_a_job_without_a_trace_gets_a_root_with_an_id_that_anybody_can_derive(receiver, stations):
    station = stations()
    lease = lease_of(delivery=2)
    attempt, _ = station.run(relay(), lease)
    span = only_span(receiver, station)
    assert (span.parent_id, span.links) == ("", ())
    assert span.trace_id == trace_id_of(lease.job.uid, 2) == attempt.identity.trace_id
    assert span.span_id == span_id_of(lease.job.uid, 2)


@pytest.mark.parametrize(
    ("linkage", "age", "is_child"),
    [("auto", 299, True), ("auto", 301, False), ("parent", 10**6, True), ("link", 0, False)],
)
def test_linkage_decides_between_child_and_root_and_always_keeps_the_link(receiver, stations, linkage, age, is_child):
    station = stations(trace_linkage=linkage)
    lease = lease_of(headers={"traceparent": TRACEPARENT}, age=age)
    station.run(relay(), lease)
    span = only_span(receiver, station)
    expected = (TRACE, SPAN) if is_child else (trace_id_of(lease.job.uid, 1), "")
    assert (span.trace_id, span.parent_id) == expected
    assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE, SPAN)]


def test_the_age_up_to_which_it_is_a_child_is_a_setting(receiver, stations):
    station = stations(trace_parent_within=5)
    station.run(relay(), lease_of(headers={"traceparent": TRACEPARENT}, age=6))
    assert only_span(receiver, station).parent_id == ""


def test_an_attempt_links_to_the_attempt_before(receiver, stations):
    station = stations()
    app = relay(bad=lambda ctx: 1 / 0)
    first = lease_of("bad", headers={"traceparent": TRACEPARENT})
    attempt, outcome = station.run(app, first)
    second = lease_of(
        "ok", headers=first.job.headers, uid=first.job.uid, attempt=2, delivery=2, history=(outcome.failure,)
    )
    station.run(app, second)
    station.close()
    one, two = receiver.spans("process deliveries")
    assert [link.span_id for link in two.links] == [SPAN, one.span_id]
    assert one.status == "error"
    assert two.status == "unset"
    assert attempt.identity.span_id == one.span_id


def test_a_dead_letters_handler_links_to_the_attempt_that_failed_last(receiver, stations):
    station = stations()
    before = failure_of(lease_of(), trace_id="1" * 32, span_id="2" * 16)
    letter = lease_of(headers={"traceparent": TRACEPARENT}, age=4000, history=(before,), queue="dead-letters")
    executor = station.executor(relay())
    executor.run(executor.attempt(letter))
    span = only_span(receiver, station, "process dead-letters")
    assert [link.span_id for link in span.links] == [SPAN, "2" * 16]
    assert span.attributes["worker.job.outcome"] == "archived"


def fail(error: BaseException) -> Any:
    def behave(_: Any) -> None:
        raise error

    return behave


@pytest.mark.parametrize(
    ("error", "attempt", "outcome", "status", "error_type"),
    [
        (None, 1, "succeeded", "unset", None),
        (ValueError("no"), 1, "retried", "error", "ValueError"),
        (ValueError("no"), 4, "dead_lettered", "error", "ValueError"),
        (Reject("never"), 1, "dead_lettered", "error", "framework.Reject"),
        (RetryLater("soon"), 1, "retried", "error", "framework.RetryLater"),
        (JobInterrupted("timeout"), 1, "retried", "error", "timeout"),
        (JobInterrupted("draining"), 1, "released", "unset", None),
        (JobInterrupted("lease_lost"), 1, "lease_lost", "unset", None),
        (JobInterrupted("cancelled"), 1, "cancelled", "unset", None),
        (Snooze(delay=5), 1, "released", "unset", None),
        (Discard("old"), 1, "discarded", "unset", None),
    ],
)
def test_every_attempt_has_a_status_of_its_own(receiver, stations, error, attempt, outcome, status, error_type):
    station = stations()
    app = relay(bad=fail(error)) if error is not None else relay(bad=lambda ctx: None)
    station.run(app, lease_of("bad", attempt=attempt))
    span = only_span(receiver, station)
    assert span.attributes["worker.job.outcome"] == outcome
    assert span.status == status
    assert span.attributes.get("error.type") == error_type
    chosen = {Discard: "old", Reject: "never"}.get(type(error))
    assert span.attributes.get("worker.job.reason") == chosen
    events = [name for name, _ in span.events]
    assert events == (["exception"] if status == "error" else [])


def test_a_payload_that_does_not_fit_is_an_error_span(receiver, stations):
    station = stations()
    lease = lease_of()
    object.__setattr__(lease.job, "payload", b"{")
    station.run(relay(), lease)
    span = only_span(receiver, station)
    assert (span.status, span.attributes["error.type"]) == ("error", "invalid_payload")


def test_spans_that_a_handler_makes_are_children_with_ids_of_their_own(receiver, stations):
    station = stations()
    tracer = station.telemetry.tracing.tracer  # the very tracer that plans: even it must not leak
    app = relay(nested=lambda ctx: [tracer.start_span(f"inner {i}").end() for i in range(2)])
    attempt, _ = station.run(app, lease_of("nested"))
    station.close()
    inner = [span for span in receiver.spans() if span.name.startswith("inner")]
    assert [span.parent_id for span in inner] == [attempt.identity.span_id] * 2
    assert len({span.span_id for span in inner} | {attempt.identity.span_id}) == 3


@pytest.mark.parametrize("sampler", ["always_off", "traceidratio", "parentbased_always_on"])
def test_the_decision_in_the_run_record_is_that_of_the_span(receiver, stations, monkeypatch, sampler):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    station = stations()
    identities = []
    for number in range(60):
        flag = f"00-{TRACE[:-2]}{number:02d}-{SPAN}-0{number % 2}"
        lease = lease_of(headers={"traceparent": flag} if number % 3 else {})
        attempt, _ = station.run(relay(), lease)
        identities.append(attempt.identity)
    station.close()
    sampled = {i.span_id for i in identities if i.sampled}
    assert {span.span_id for span in receiver.spans()} == sampled
    assert all(i.trace_id and i.span_id for i in identities)
    if sampler != "always_off":
        assert 0 < len(sampled) < 60


class Moody(Sampler):
    """Decides anew each time it is asked, as a rate limit does."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "Moody"


def test_a_sampler_is_asked_once_for_an_attempt(receiver, stations):
    station = stations()
    moody = Moody()
    station.telemetry.tracing.tracer.sampler._otherwise = moody
    station.run(relay(), lease_of())
    assert moody.asked == 1


def leak(ctx: Any) -> None:
    otel_context.attach(otel_context.set_value("leaked", 1))
    structlog.contextvars.bind_contextvars(leaked=1)
    raise ValueError("and fail")


def interrupted(ctx: Any) -> None:
    leak_quietly = structlog.contextvars.bind_contextvars
    leak_quietly(leaked=2)
    raise JobInterrupted("draining")


@pytest.mark.parametrize("behaviour", [lambda ctx: None, leak, interrupted])
def test_the_ambient_context_is_empty_after_every_outcome(receiver, stations, behaviour):
    station = stations()
    structlog.contextvars.bind_contextvars(region="eu")  # bound before the job, by a lifespan: stays
    try:
        station.run(relay(bad=behaviour), lease_of("bad", headers={"traceparent": TRACEPARENT, "baggage": "a=1"}))
        assert otel_context.get_current() == otel_context.Context()
        assert structlog.contextvars.get_contextvars() == {"region": "eu"}
    finally:
        structlog.contextvars.clear_contextvars()


def test_what_leaked_into_the_ambient_context_does_not_reach_a_handler(receiver, stations):
    station = stations()
    seen = []
    app = relay(look=lambda ctx: seen.append((otel_context.get_value("leaked"), trace.get_current_span())))
    token = otel_context.attach(otel_context.set_value("leaked", 1))
    try:
        station.run(app, lease_of("look"))
    finally:
        otel_context.detach(token)
    assert seen[0][0] is None
    assert only_span(receiver, station).parent_id == ""


def test_baggage_is_current_in_the_handler_also_of_a_new_root(receiver, stations):
    station = stations(trace_linkage="link")
    seen = []
    headers = {"traceparent": TRACEPARENT, "baggage": "tenant=blue", "tracestate": "vendor=1"}
    app = relay(look=lambda ctx: seen.append(baggage.get_baggage("tenant")))
    station.run(app, lease_of("look", headers=headers))
    assert seen == ["blue"]


def test_tracestate_travels_on(receiver, stations):
    station = stations()
    station.run(relay(), lease_of(headers={"traceparent": TRACEPARENT, "tracestate": "vendor=1"}))
    assert only_span(receiver, station).trace_state == "vendor=1"


async def test_attempts_at_once_do_not_mix(receiver, stations):
    station = stations()
    app = AsyncRelay()
    seen: dict[str, int] = {}
    barrier = asyncio.Barrier(20)

    async def meet(ctx: Any) -> None:
        await barrier.wait()
        seen[ctx.job_id] = trace.get_current_span().get_span_context().span_id
        await barrier.wait()

    async def call(coroutine: Any) -> None:
        await coroutine

    app.behaviours = {"meet": meet}
    executor = station.executor(app)
    attempts = [executor.attempt(lease_of("meet")) for _ in range(20)]
    await asyncio.gather(*(asyncio.create_task(executor.run_async(a, call=call)) for a in attempts))
    assert seen == {a.lease.job.id: int(a.identity.span_id, 16) for a in attempts}
    station.close()
    assert {span.span_id for span in receiver.spans()} == {a.identity.span_id for a in attempts}


class Broken:
    def extract(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a propagator of the service's own")

    inject = extract
    fields: set[str] = set()


def test_a_broken_propagator_costs_the_span_and_not_the_job(receiver, stations):
    station = stations()
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Broken())
    try:
        _, outcome = station.run(relay(), lease_of())
        with station.telemetry.sending.one("deliveries", "id", 3) as headers:
            assert headers == {}
    finally:
        propagate.set_global_textmap(before)
    assert outcome.kind == "succeeded"
    assert otel_context.get_current() == otel_context.Context()


def test_a_provider_that_is_not_the_sdks_gets_spans_without_planned_ids(tmp_path, receiver, stations):
    with open(tmp_path / "x", "wb") as file:
        logs = Logs(_settings(), LineWriter(file.fileno()), process=IDENTITY.slot)
    tracer = NoOpTracerProvider().get_tracer("x")
    tracing = SpanTracing(tracer, logs, system="spool", linkage="auto", parent_within=300)
    lease = lease_of(headers={"traceparent": TRACEPARENT})
    identity = tracing.identify(lease, 1.0)
    assert (identity.trace_id, identity.sampled) == ("", False)
    attempt = Attempt(lease, Relay.deliveries.options, 1.0, identity)
    entered = tracing.enter(attempt)
    assert trace.get_current_span().get_span_context().span_id == int(SPAN, 16)
    tracing.leave(attempt, entered)
    assert otel_context.get_current() == otel_context.Context()


def _settings() -> Any:
    from framework.service.settings import Settings

    return Settings()
