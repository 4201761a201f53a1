"""What the ring's path writes by hand is what the SDK would have sent, decoded by the official messages."""

from __future__ import annotations

import asyncio
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from framework.model.outcome import Discard, JobInterrupted, Reject, RetryLater, Snooze
from framework.runner.bus import Bus
from framework.service.settings import Settings
from framework.telemetry.export.source import Source
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import LineWriter
from framework.telemetry.ring import records, wire
from framework.telemetry.ring.ring import create
from framework.telemetry.ring.ringtracing import RingTracing
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.sdk.spans import SpanTracing
from framework.worker.executor import Executor
from tests.support.received import SeenSpan, _spans
from tests.telemetry.helpers import SPAN, TRACE, TRACEPARENT, AsyncRelay, Relay, failure_of, lease_of

RARE = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.differing_executors,
]


class Both:
    """The same job through the SDK and through a ring."""

    def __init__(self, place: Any, **limits: Any) -> None:
        self.now = time.time()
        self.memory = InMemorySpanExporter()
        self.limits = SpanLimits(**{"max_links": 512, **limits})
        provider = TracerProvider(resource=Resource({}), span_limits=self.limits, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = provider.get_tracer("service")
        self.logs = Logs(Settings(log_format="json"), LineWriter(_nowhere()), process="x")
        common: dict[str, Any] = {"system": "spool", "linkage": "auto", "parent_within": 300}
        self.sdk = SpanTracing(provider.get_tracer("framework"), self.logs, **common)
        path = place / "0.q.m.ring"
        create(path, capacity=1 << 22)
        writer = RingWriter(path, {"resource": {}, "scope": ["framework", ""], "system": "spool"})
        self.source = Source(path, 0)
        self.reader = self.source.ring
        self.ring = RingTracing(self.logs, writer, sampler=provider.sampler, limits=self.limits, spans=True, **common)

    def run(self, lease: Any, handler: Any, *, ring: bool, kind: str = "sync") -> None:
        tracing: Any = self.ring if ring else self.sdk
        app = AsyncRelay() if kind == "async" else Relay()
        app.behaviours = {"ok": awaited(handler) if kind == "async" else handler}
        found = app.worker_handlers["deliveries"]
        bus = Bus(self.ring.on) if ring else Bus()
        options = replace(found.queue.options, timeout=None)
        executor = Executor(app, found, options, tracing=tracing, emit=bus.emit, clock=lambda: self.now)
        attempt = executor.attempt(lease)
        if kind == "async":
            asyncio.run(executor.run_async(attempt, call=awaiting))
        elif kind == "thread":
            with ThreadPoolExecutor(1) as threads:
                threads.submit(executor.run, attempt).result()
        else:
            executor.run(attempt)
        assert bus.errors == 0

    def spans(self, lease: Any, handler: Any, kind: str = "sync") -> tuple[SeenSpan, SeenSpan]:
        """(by the SDK, by ring and exporter), without what differs by nature: the time of the end, the resource."""
        self.memory.clear()
        self.now = time.time()
        self.run(lease, handler, ring=False, kind=kind)
        (by_sdk,) = _spans(encode_spans(self.memory.get_finished_spans()))
        before = self.reader.head
        self.run(lease, handler, ring=True, kind=kind)
        (self.record,) = self.reader.records(before, self.reader.head)
        self.source.cells.aggregate()
        body, _, position = self.source.spans(1 << 20)
        self.reader.set_sent(position)
        (by_ring,) = _spans(ExportTraceServiceRequest.FromString(body))
        assert by_ring.end >= by_ring.start
        assert self.record.span_id.hex() == by_ring.span_id
        same: dict[str, Any] = {"end": 0, "scope": "", "resource": {}}
        return replace(by_sdk, **same), replace(by_ring, **same)


async def awaiting(awaitable: Any) -> Any:
    return await awaitable


def awaited(handler: Any) -> Any:
    async def behave(ctx: Any) -> None:
        await asyncio.sleep(0)
        handler(ctx)

    return behave


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


@pytest.fixture(scope="module")
def both(tmp_path_factory: Any) -> Both:
    return Both(tmp_path_factory.mktemp("both"))


def doing(error: BaseException | None) -> Any:
    def handler(_: Any) -> None:
        if error is not None:
            raise error

    return handler


ENDS = [
    None, ValueError("no ☃"), Reject("never"), RetryLater("soon"), JobInterrupted("timeout"),
    JobInterrupted("draining"), Snooze(delay=5), Discard("old"),
]  # fmt: skip
HISTORY = (failure_of(lease_of(), trace_id="1" * 32, span_id="2" * 16),)
LEASES = {
    "root": {},
    "child": {"headers": {"traceparent": TRACEPARENT}},
    "unsampled parent of an old job": {"headers": {"traceparent": TRACEPARENT[:-1] + "0"}, "age": 1000},
    "state": {"headers": {"traceparent": TRACEPARENT, "tracestate": "vendor=1,other=x", "baggage": "a=b"}},
    "baggage alone": {"headers": {"baggage": "a=b"}},
    "again": {"headers": {"traceparent": TRACEPARENT}, "attempt": 3, "delivery": 5, "history": HISTORY},
    "later version": {"headers": {"traceparent": f"01-{TRACE}-{SPAN}-01-more"}},
    "not a traceparent": {"headers": {"traceparent": f"00-{TRACE}-{SPAN}-01-more"}},
    "nothing": {"headers": {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}},
    "capitals": {"headers": {"traceparent": TRACEPARENT.upper()}},
    "forbidden version": {"headers": {"traceparent": f"ff-{TRACE}-{SPAN}-01"}},
}


@pytest.mark.parametrize("case", LEASES)
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_every_end_of_every_kind_of_job_gives_the_sdks_span(both, case, end):
    lease = lease_of(**LEASES[case])
    by_sdk, by_ring = both.spans(lease, doing(end))
    assert strip(by_ring) == strip(by_sdk)
    assert {link.span_id for link in by_ring.links} == {link.span_id for link in by_sdk.links}


@pytest.mark.parametrize("kind", ["sync", "thread", "async"])
@pytest.mark.parametrize("case", LEASES)
def test_a_success_leaves_facts_of_which_the_exporter_makes_the_sdks_span(both, case, kind):
    lease = lease_of(**LEASES[case])
    by_sdk, by_ring = both.spans(lease, doing(None), kind)
    assert by_ring == by_sdk
    assert by_ring.attributes["worker.job.outcome"] == "succeeded"
    brings_more = case in ("state", "baggage alone", "again")
    assert both.record.kind == (records.ATTEMPT if brings_more else records.FACTS)


@pytest.mark.parametrize("job_id", ["j", "j" * 255, "ñ☃" * 100])
@pytest.mark.parametrize("attempt", [1, 7, 2**32])
def test_ids_and_numbers_of_any_size_arrive(both, job_id, attempt):
    lease = lease_of(attempt=attempt, delivery=attempt)
    lease = replace(lease, job=replace(lease.job, id=job_id))
    by_sdk, by_ring = both.spans(lease, doing(None))
    assert by_ring == by_sdk
    assert by_ring.attributes["messaging.message.id"] == job_id


def strip(span: SeenSpan) -> SeenSpan:
    """Without the text of a traceback, which names the path it took, and what only the SDK still says."""
    gone = ("exception.stacktrace", "exception.escaped")
    events = tuple((name, {k: v for k, v in values.items() if k not in gone}) for name, values in span.events)
    return replace(span, events=events)


SCALARS = st.one_of(
    st.text(max_size=200), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary()
)
KEYS = st.text(min_size=1, max_size=20) | st.sampled_from(["messaging.system.name", "error.type", "worker.job.outcome"])
VALUES = SCALARS | st.lists(st.text(max_size=5)) | st.lists(st.integers(0, 9)) | st.just(object())
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=5)
DEEDS = st.one_of(
    st.tuples(st.just("set_attribute"), KEYS, VALUES),
    st.tuples(st.just("set_attributes"), ATTRIBUTES),
    st.tuples(st.just("add_event"), st.text(max_size=9), ATTRIBUTES, st.integers(0, 2**63)),
    st.tuples(st.just("update_name"), st.text(min_size=1, max_size=30)),
    st.tuples(
        st.just("set_status"), st.sampled_from([StatusCode.OK, StatusCode.ERROR, StatusCode.UNSET]), st.just("why")
    ),
    st.tuples(st.just("set_status"), st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=9))),
    st.tuples(
        st.just("add_link"),
        st.builds(
            SpanContext, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans(), st.just(TraceFlags(1))
        ),
        ATTRIBUTES,
    ),
    st.tuples(st.just("record_exception"), st.builds(ValueError, st.text(max_size=9)), ATTRIBUTES, st.just(7)),
)


def do_all(deeds: Any, error: BaseException | None) -> Any:
    def handler(_: Any) -> None:
        span = trace.get_current_span()
        assert span.is_recording()
        for name, *arguments in deeds:
            getattr(span, name)(*arguments)
        if error is not None:
            raise error

    return handler


@given(st.lists(DEEDS, max_size=12), st.sampled_from([None, ValueError("no")]))
@settings(max_examples=150, deadline=None, suppress_health_check=RARE)
def test_whatever_a_handler_adds_to_the_current_span_arrives_as_through_the_sdk(both, deeds, error):
    lease = lease_of(headers={"traceparent": TRACEPARENT})
    by_sdk, by_ring = both.spans(lease, do_all(deeds, error))
    assert strip(by_ring) == strip(replace(by_sdk, links=by_ring.links))
    assert sorted(map(repr, by_ring.links)) == sorted(map(repr, by_sdk.links))


@given(st.lists(DEEDS, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=RARE)
def test_limits_hold_as_in_the_sdk(tmp_path_factory, deeds):
    small = Both(
        tmp_path_factory.mktemp("small"), max_span_attributes=12, max_events=2, max_event_attributes=2,
        max_link_attributes=1, max_attribute_length=7,
    )  # fmt: skip
    by_sdk, by_ring = small.spans(lease_of(headers={"traceparent": TRACEPARENT}), do_all(deeds, None))
    assert len(by_ring.events) == len(by_sdk.events)
    assert len(by_ring.attributes) == len(by_sdk.attributes) <= 12
    assert all(len(v) <= 7 for v in by_ring.attributes.values() if isinstance(v, str))
    assert sorted(map(repr, by_ring.links)) == sorted(map(repr, by_sdk.links))


NESTED = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


@given(st.text(max_size=300), NESTED)
@settings(max_examples=300, deadline=None)
def test_any_value_survives_the_wire(key, value):
    found = KeyValue.FromString(_content(wire.attribute(1, key, value)))
    assert found.key == key
    assert plain(found.value) == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, object(), 1 + 2j])
def test_what_otlp_has_no_place_for_is_left_out(value):
    assert wire.attribute(1, "k", value) == b""


def test_special_numbers_and_lone_surrogates():
    assert math.isnan(plain(AnyValue.FromString(wire.any_value(math.nan))))
    assert plain(AnyValue.FromString(wire.any_value("a\ud800b"))) == "a?b"


def _content(field: bytes) -> bytes:
    at = 1
    while field[at] & 0x80:
        at += 1
    return field[at + 1 :]


def test_children_baggage_and_context_are_those_of_the_process_span(both):
    seen: list[Any] = []

    def handler(_: Any) -> None:
        with both.tracer.start_as_current_span("child"):
            seen.append((trace.get_current_span().parent, baggage.get_baggage("a")))

    lease = lease_of(headers={"traceparent": TRACEPARENT, "baggage": "a=b", "tracestate": "v=1"})
    both.run(lease, handler, ring=True)
    record = next(both.reader.backwards())
    ((parent, value),) = seen
    assert (parent.span_id.to_bytes(8, "big"), parent.trace_id.to_bytes(16, "big")) == (record.span_id, record.trace_id)
    assert (value, parent.trace_state.to_header(), parent.is_remote) == ("b", "v=1", False)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_span_object_does_nothing_when_unsampled_or_over(both):
    kept: list[Any] = []
    lease = lease_of(headers={"traceparent": TRACEPARENT[:-1] + "0"})
    both.run(lease, lambda _: kept.append(trace.get_current_span()), ring=True)
    assert not kept[0].is_recording()
    assert not kept[0].get_span_context().trace_flags.sampled
    assert next(both.reader.backwards()).flags & records.SAMPLED == 0
    both.run(lease_of(), lambda _: kept.append(trace.get_current_span()), ring=True)
    kept[1].set_attribute("late", 1)
    kept[1].end(time.time_ns())
    assert kept[1].extras is None
