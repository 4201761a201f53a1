"""What a producer hands along reaches every run of its job: trace, trace state, baggage and the sampling decision, over
retries, dead letters and replay, in both engines, by the ring and by the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import TracerProvider

from framework.model.events import AttemptLost
from framework.model.job import Lease, RunRecord, span_id_of
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome, Settlement
from framework.model.retry import RetryPolicy
from framework.service.app import Context, WorkerApp
from framework.service.producer import Producer
from framework.service.queues import DeadLetter, Queue
from framework.worker.executor import Executor
from tests.contract.engines import Engine, MemoryEngine, SpoolEngine
from tests.contract.helpers import pass_time, take_one
from tests.support.receiver import Receiver
from tests.telemetry.helpers import SPAN, TRACE, AsyncRelay, Station, lease_of, station
from tests.telemetry.rings import post, ring_station, rings_in

COMES_ALONG = {"baggage": "tenant=blue,plan=gold", "tracestate": "vendor=1,other=x"}
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", **COMES_ALONG}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00", **COMES_ALONG}
METRICS_OF_JOBS = ("worker.job.attempts", "messaging.process.duration", "worker.job.queue_wait.duration")


@dataclass
class Seen:
    """What a handler found around it."""

    queue: str
    tenant: object
    plan: object
    span: trace.SpanContext


class Relay(WorkerApp):
    """Fails as often as it is told."""

    letters = Queue[DeadLetter]("letters")
    jobs = Queue[str]("jobs", retry=RetryPolicy(max_retries=1, first_delay=0, jitter=False), dead_letter=letters)

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.failures = 0
        self.within: Callable[[], None] = lambda: None

    @jobs.handler
    def work(self, payload: str, ctx: Context) -> None:
        self._look(ctx.queue)
        self.within()
        if self.failures:
            self.failures -= 1
            raise OSError("not now")

    @letters.handler
    def report(self, letter: DeadLetter, ctx: Context) -> None:
        self._look(ctx.queue)

    def _look(self, queue: str) -> None:
        span = trace.get_current_span().get_span_context()
        self.seen.append(Seen(queue, baggage.get_baggage("tenant"), baggage.get_baggage("plan"), span))


@dataclass
class World:
    """An engine, a producer, and a worker that runs one job at a time; `send` gives what has arrived."""

    place: Path
    engine: Engine
    way: str
    receiver: Receiver
    app: Relay = field(default_factory=Relay)

    def __post_init__(self) -> None:
        self.options = {
            "jobs": replace(Relay.jobs.options, dead_letter="letters", timeout=None),
            "letters": replace(Relay.letters.options, is_dead_letter=True, timeout=None),
        }
        self.broker = self.engine.open(*self.options.values())
        self._rings = rings_in(self.place) if self.way == "ring" else None
        self.station: Station = ring_station(self.place, self._rings) if self._rings else station(self.place)
        self.producer = self.producer_of(self.station.telemetry.sending)

    def producer_of(self, sending: Any) -> Producer:
        def options(queue: Queue[Any]) -> QueueOptions:
            return self.options[queue.name]

        return Producer(self.broker, options=options, sending=sending, clock=self.engine.now)

    def enqueue(self, carrier: dict[str, str], payload: str = "x", **options: Any) -> str:
        """By a producer that was called with these headers, as a web framework would hand them on."""
        token = otel_context.attach(extract(carrier))
        try:
            with Relay.jobs.connected(self.producer):
                return Relay.jobs.enqueue(payload, **options)
        finally:
            otel_context.detach(token)

    def run(self, queue: str = "jobs") -> tuple[Lease, Outcome]:
        """One attempt of one job, settled."""
        pass_time(self.engine, self.broker, 0.01)
        lease = take_one(self.broker, queue)
        handler = self.app.worker_handlers[queue]
        executor = Executor(
            self.app, handler, self.options[queue], tracing=self.station.telemetry.tracing, emit=self.station.bus.emit,
            clock=self.engine.now,
        )  # fmt: skip
        outcome = executor.run(executor.attempt(lease))
        self.broker.settle([Settlement(lease, outcome)])
        return lease, outcome

    def run_through_all(self, job_id: str) -> list[Lease]:
        """Fails, fails for good, its letter is handled, it is replayed and runs: the leases of the four attempts."""
        self.app.failures = 2
        leases = [self.run()[0], self.run()[0], self.run("letters")[0]]
        view = self.broker.find("letters", job_id, "dead")
        assert view is not None
        assert self.broker.replay(view)
        return [*leases, self.run()[0]]

    def send(self) -> Receiver:
        """Closes telemetry: everything has arrived."""
        self.station.close()
        if self._rings:
            post(self.place, self._rings).flush()
        return self.receiver


@pytest.fixture(params=["memory", "spool"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = (MemoryEngine if request.param == "memory" else SpoolEngine)(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["ring", "sdk"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path, engine: Engine, way: str, receiver: Receiver) -> World:
    return World(tmp_path, engine, way, receiver)


def test_it_passes_through_retries_dead_letters_their_handler_and_replay(world: World) -> None:
    job_id = world.enqueue(PARENT)
    leases = world.run_through_all(job_id)

    assert [seen.queue for seen in world.app.seen] == ["jobs", "jobs", "letters", "jobs"]
    assert {(seen.tenant, seen.plan) for seen in world.app.seen} == {("blue", "gold")}
    assert {f"{seen.span.trace_id:032x}" for seen in world.app.seen} == {TRACE}
    assert {seen.span.trace_state.to_header() for seen in world.app.seen} == {"vendor=1,other=x"}
    assert all(lease.job.headers == leases[0].job.headers for lease in leases)

    receiver = world.send()
    (send,) = receiver.spans("send jobs")
    spans = sorted(receiver.spans("process jobs") + receiver.spans("process letters"), key=lambda span: span.start)
    assert [span.name for span in spans] == ["process jobs", "process jobs", "process letters", "process jobs"]
    assert {span.trace_state for span in (send, *spans)} == {"vendor=1,other=x"}
    assert {span.trace_id for span in (send, *spans)} == {TRACE}
    assert {span.parent_id for span in spans} == {send.span_id}
    assert [f"{seen.span.span_id:016x}" for seen in world.app.seen] == [span.span_id for span in spans]
    for before, after in pairwise(spans[:3]):
        assert [link.span_id for link in after.links] == [send.span_id, before.span_id]
    # After the replay the attempt before is still the last one that failed: a letter's handler is none.
    assert [link.span_id for link in spans[3].links] == [send.span_id, spans[1].span_id]


def test_it_comes_along_when_the_attempt_is_a_new_root(world: World) -> None:
    world.station.telemetry.tracing._planner._child_within = -inf  # as with trace_linkage="link"
    world.enqueue(PARENT)
    world.run()
    (seen,) = world.app.seen
    assert (seen.tenant, seen.plan) == ("blue", "gold")
    receiver = world.send()
    (send,), (span,) = receiver.spans("send jobs"), receiver.spans("process jobs")
    assert (span.parent_id, [link.span_id for link in span.links]) == ("", [send.span_id])
    assert span.trace_id != TRACE
    assert span.trace_state == "", "the state belongs to the other trace"


def test_an_unsampled_parent_gives_no_span_anywhere_and_every_count(world: World) -> None:
    job_id = world.enqueue(UNSAMPLED)
    leases = world.run_through_all(job_id)
    assert {lease.job.headers["traceparent"][-2:] for lease in leases} == {"00"}
    assert {seen.span.trace_flags.sampled for seen in world.app.seen} == {False}
    assert {f"{seen.span.trace_id:032x}" for seen in world.app.seen} == {TRACE}
    assert {seen.tenant for seen in world.app.seen} == {"blue"}
    receiver = world.send()
    assert receiver.spans() == []
    assert receiver.value("messaging.client.sent.messages") == 1
    outcomes = {p.attributes["worker.job.outcome"]: p.value for p in receiver.latest("worker.job.attempts")}
    assert outcomes == {"retried": 1, "dead_lettered": 1, "archived": 1, "succeeded": 1}
    assert {receiver.value(name) for name in METRICS_OF_JOBS} == {4}
    assert not [point.exemplars for name in METRICS_OF_JOBS for point in receiver.metrics(name) if point.exemplars]


@pytest.mark.parametrize("sampler", ["parentbased_always_off", "parentbased_traceidratio"])
def test_a_job_without_a_trace_is_decided_once_where_it_is_enqueued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Engine, way: str, receiver: Receiver, sampler: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    world = World(tmp_path, engine, way, receiver)
    world.enqueue({"baggage": COMES_ALONG["baggage"]})
    lease, _ = world.run()
    assert int(lease.job.headers["traceparent"][-2:], 16) & 1 == 0  # the flag beside it says that the id is random
    assert [(seen.tenant, seen.span.trace_flags.sampled) for seen in world.app.seen] == [("blue", False)]
    # A parent that is sampled is followed all the same.
    world.enqueue(PARENT)
    world.run()
    arrived = world.send()
    assert [span.trace_id for span in arrived.spans("process jobs")] == [TRACE]
    assert arrived.value("worker.job.attempts") == 2


def test_a_producer_without_opentelemetry_hands_on_what_its_caller_gave_it(world: World) -> None:
    """A host that configured nothing: its tracer makes no span, so the caller's is the parent."""
    from framework.telemetry.sending import SendSpans

    sending = SendSpans(trace.NoOpTracerProvider().get_tracer("host"), _no_meter, "spool")
    world.producer = world.producer_of(sending)
    world.enqueue(PARENT)
    lease, _ = world.run()
    assert lease.job.headers["traceparent"] == PARENT["traceparent"]
    assert {name: lease.job.headers[name] for name in COMES_ALONG} == COMES_ALONG
    (span,) = world.send().spans("process jobs")
    assert (span.trace_id, span.parent_id, span.trace_state) == (TRACE, SPAN, "vendor=1,other=x")


def _no_meter() -> Any:
    from opentelemetry.metrics import NoOpMeterProvider

    return NoOpMeterProvider().get_meter("host")


@pytest.mark.parametrize("carrier", [PARENT, UNSAMPLED], ids=["sampled", "unsampled"])
def test_what_a_handler_makes_and_enqueues_belongs_to_the_same_trace(world: World, carrier: dict[str, str]) -> None:
    provider = _provider_of(world.station)

    def within() -> None:
        if len(world.app.seen) == 1:
            with provider.get_tracer("service").start_as_current_span("own"):
                with Relay.jobs.connected(world.producer):
                    Relay.jobs.enqueue("from the handler")

    world.app.within = within
    world.enqueue(carrier)
    world.run()
    lease, _ = world.run()
    assert [(seen.tenant, f"{seen.span.trace_id:032x}") for seen in world.app.seen] == [("blue", TRACE)] * 2
    assert lease.job.headers["tracestate"] == COMES_ALONG["tracestate"]
    assert lease.job.headers["traceparent"][-2:] == carrier["traceparent"][-2:]
    spans = world.send().spans()
    if carrier is UNSAMPLED:
        assert spans == []
        return
    by_id = {span.span_id: span for span in spans}
    (span,) = [span for span in spans if span.span_id == f"{world.app.seen[1].span.span_id:016x}"]
    names = [span.name]
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    assert names == ["process jobs", "send jobs", "own", "process jobs", "send jobs"]
    assert span.parent_id == SPAN


def _provider_of(made: Station) -> TracerProvider:
    """The SDK's provider of a station: what handlers use."""
    telemetry: Any = made.telemetry
    provider = telemetry._providers.tracer
    assert isinstance(provider, TracerProvider)
    return provider


@pytest.mark.parametrize("sampled", [True, False])
def test_a_killed_attempt_keeps_trace_state_and_decision(world: World, sampled: bool) -> None:
    world.enqueue(PARENT if sampled else UNSAMPLED)
    lease = take_one(world.broker)
    identity = world.station.telemetry.tracing.identify(lease, world.engine.now())
    assert (identity.trace_id, identity.sampled) == (TRACE, sampled)
    run = RunRecord(
        0, lease.delivery, lease.attempt, world.engine.now(), identity.trace_id, identity.span_id, identity.sampled
    )
    # Another process tells: it has nothing but the run record and the job.
    world.station.bus.emit(_lost(lease, run, world.engine.now() + 1))
    receiver = world.send()
    spans = receiver.spans("process jobs")
    assert [(s.span_id, s.trace_state) for s in spans] == [(identity.span_id, "vendor=1,other=x")] * sampled
    assert receiver.value("worker.job.attempts", worker__job__outcome="lost") == 1


def _lost(lease: Lease, run: RunRecord, at: float) -> AttemptLost:
    fields: dict[str, Any] = {
        "lease": lease, "run": run, "owner": "gone", "reason": "worker_lost", "message": "", "outcome": "retried",
        "delay": 0.0, "ended_at": at, "max_attempts": 2,
    }  # fmt: skip
    return AttemptLost(**fields)


@pytest.mark.parametrize("batch", [2, 5])
def test_each_job_of_a_batch_carries_it(world: World, batch: int) -> None:
    token = otel_context.attach(extract(PARENT))
    try:
        with Relay.jobs.connected(world.producer):
            Relay.jobs.enqueue_many([str(number) for number in range(batch)])
    finally:
        otel_context.detach(token)
    for _ in range(batch):
        world.run()
    assert [seen.tenant for seen in world.app.seen] == ["blue"] * batch
    receiver = world.send()
    created = {span.span_id for span in receiver.spans("create jobs")}
    assert {span.parent_id for span in receiver.spans("process jobs")} == created
    assert {span.trace_state for span in receiver.spans()} == {"vendor=1,other=x"}


def test_one_trace_has_the_members_of_a_fan_in_and_what_follows_them(world: World) -> None:
    """The `send` span of the follow-up is around the enqueue of its members, and is the parent of its run."""
    with Relay.jobs.connected(world.producer):
        made = Relay.jobs.enqueue_many(["a", "b"], then=Relay.jobs.with_payload("all"))
    assert [world.run()[0].job.id for _ in range(3)] == [*made, made.follow_up]
    receiver = world.send()
    spans = {span.span_id: span for span in receiver.spans()}
    assert len({span.trace_id for span in spans.values()}) == 1
    *runs, last = sorted(receiver.spans("process jobs"), key=lambda span: span.start)
    around = spans[last.parent_id]
    assert (around.name, around.attributes["messaging.message.id"]) == ("send jobs", made.follow_up)
    assert [link.span_id for link in last.links] == [around.span_id]
    created = [spans[span.parent_id] for span in runs]
    assert [(span.name, span.parent_id) for span in created] == [("create jobs", around.span_id)] * 2
    assert receiver.value("messaging.client.sent.messages") == 3


async def test_jobs_that_run_at_once_see_each_their_own(
    tmp_path: Path, way: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody, seen = asyncio.Barrier(5), {}

    async def look(ctx: Context) -> None:
        await everybody.wait()  # all are inside now
        span = trace.get_current_span().get_span_context()
        seen[ctx.job_id] = baggage.get_baggage("tenant"), f"{span.span_id:016x}", span.trace_state.to_header()
        await everybody.wait()
        assert baggage.get_baggage("tenant") == seen[ctx.job_id][0]

    monkeypatch.setattr(AsyncRelay, "behaviours", {"look": look})
    rings = rings_in(tmp_path) if way == "ring" else None
    worker = ring_station(tmp_path, rings) if rings else station(tmp_path)
    executor = worker.executor(AsyncRelay())

    async def awaited(run: Any) -> Any:
        return await run

    headers = [{**PARENT, "baggage": f"tenant={n}", "tracestate": f"vendor={n}"} for n in range(5)]
    leases = [lease_of("look", headers=carried) for carried in headers]
    outcomes = await asyncio.gather(*(executor.run_async(executor.attempt(lease), call=awaited) for lease in leases))
    assert {outcome.kind.value for outcome in outcomes} == {"succeeded"}
    expected = {lease.job.id: (str(n), span_id_of(lease.job.uid, 1), f"vendor={n}") for n, lease in enumerate(leases)}
    assert seen == expected
    assert baggage.get_all() == {}
    worker.close()
    if rings:
        post(tmp_path, rings).flush()
    spans = {span.span_id: span.trace_state for span in receiver.spans("process deliveries")}
    assert spans == {span_id: state for _, span_id, state in expected.values()}
