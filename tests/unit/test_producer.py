"""The way of a job into the engine, and every error on it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from framework import (
    DeadLetter,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    Queue,
    QueueFull,
    WorkerApp,
)
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.errors import EngineError, EngineUnavailable, SettingsError
from framework.model.job import Job, JobId
from framework.model.options import QueueOptions
from framework.service.producer import BATCH, Producer

NOW = 1_700_000_000.0
LENGTH = 2 * BATCH + 88  # of a queue that is full


class Item(BaseModel):
    number: int


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    items = Queue[Item]("items", max_length=LENGTH, max_payload_bytes=40, ttl=60)
    loose = Queue[Any]("loose", max_length=None)


class Engine(MemoryEngine):
    """In memory; fails with `error` at the enqueue number `at`, after or before storing."""

    def __init__(self, error: BaseException | None = None, at: int = 1, after: bool = False) -> None:
        super().__init__(MemoryStore(), incarnation="p", clock=lambda: NOW)
        self.error, self.at, self.after = error, at, after
        self.batches: list[int] = []
        self.opened: list[str] = []
        self.closed = 0

    def open(self, queues: Sequence[QueueOptions]) -> None:
        super().open(queues)
        self.opened += [options.name for options in queues]

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        self.batches.append(len(jobs))
        failing = self.error is not None and len(self.batches) == self.at
        stored = super().enqueue(jobs) if not failing or self.after else []
        if failing and self.error is not None:
            raise self.error
        return stored

    def close(self) -> None:
        self.closed += 1
        super().close()

    def jobs(self, queue: str = "items") -> list[Job]:
        return [view.job for state in ("ready", "delayed") for view in self.browse(queue, state)]  # type: ignore[arg-type]


def connect(engine: Engine, **options: Any) -> Producer:
    return Producer(engine, options=lambda queue: queue.options, clock=lambda: NOW, **options)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    producer = connect(engine)
    with App.items.connected(producer), App.loose.connected(producer), App.dead.connected(producer):
        yield engine


def test_one_job(engine: Engine) -> None:
    job_id = App.items.enqueue(Item(number=1))
    (job,) = engine.jobs()
    assert (job.id, job.queue, job.payload, job.enqueued_at) == (job_id, "items", b'{"number":1}', NOW)
    assert (job.not_before, job.ttl, job.chosen_id, job.scheduled_for) == (None, 60.0, False, None)
    assert job.headers == {"content-type": "application/json"}
    assert re.fullmatch(r"[0-9a-f]{32}", job_id)
    assert len(job.uid) == 16


def test_a_dict_that_fits_is_taken(engine: Engine) -> None:
    App.items.enqueue({"number": "7"})  # type: ignore[arg-type]
    assert engine.jobs()[0].payload == b'{"number":7}'


def test_ids_differ_and_sort_by_time(engine: Engine) -> None:
    ids = App.loose.enqueue_many(range(1000))
    assert len(set(ids)) == 1000
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)
    assert len({job.uid for job in engine.jobs("loose")}) == 1000


@pytest.mark.parametrize(
    ("options", "not_before"),
    [
        ({"delay": 5}, NOW + 5),
        ({"delay": 0.25}, NOW + 0.25),
        ({"delay": timedelta(minutes=1)}, NOW + 60),
        ({"delay": 0}, None),
        ({"run_at": datetime.fromtimestamp(NOW + 9, UTC)}, NOW + 9),
        ({"run_at": datetime.fromtimestamp(NOW + 9, timezone(timedelta(hours=-7)))}, NOW + 9),
        ({"run_at": datetime(1999, 1, 1, tzinfo=UTC)}, datetime(1999, 1, 1, tzinfo=UTC).timestamp()),
    ],
)
def test_when(options: Any, not_before: float | None, engine: Engine) -> None:
    App.items.enqueue(Item(number=1), **options)
    assert engine.jobs()[0].not_before == not_before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"delay": -1}, "delay=-1: write 0 or more seconds"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"delay": float("inf")}, "delay=inf"),
        ({"delay": 1e12}, "delay=1e+12: write 0 or more seconds, and no moment beyond the year 9999"),
        ({"delay": 10**400}, "delay=inf"),
        ({"delay": -(10**400)}, "delay=-inf"),
        ({"delay": timedelta.max}, "delay=8.64e+13: write 0 or more"),
        (
            {"run_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))},
            "its moment in UTC is not within the years 1 to 9999",
        ),
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "its moment in UTC is not within the years 1 to 9999"),
        (
            {"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))},
            "its moment in UTC is not within the years 1 to 9999",
        ),
        ({"run_at": datetime(2026, 1, 1)}, "run_at=2026-01-01T00:00:00 has no time zone"),
        ({"run_at": "2026-01-01"}, "run_at='2026-01-01' is no datetime: write"),
        ({"delay": 1, "run_at": datetime(2026, 1, 1, tzinfo=UTC)}, "delay and run_at exclude each other"),
        ({"job_id": ""}, "job_id='': 1 to 255 printable"),
        ({"job_id": "x" * 256}, "… (256 characters): 1 to 255 printable"),
        ({"job_id": "a\nb"}, "1 to 255 printable"),
        ({"job_id": "a\0b"}, "1 to 255 printable"),
        ({"job_id": "\ud800"}, "1 to 255 printable"),
        ({"job_id": 7}, "job_id=7 is int: write 1 to 255 printable characters"),
    ],
)
def test_bad_options_queue_nothing(options: Any, complaint: str, engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(complaint)) as refused:
        App.items.enqueue(Item(number=1), **options)
    assert isinstance(refused.value, ValueError)
    assert engine.batches == []


def test_a_chosen_id_queues_once(engine: Engine) -> None:
    assert App.items.enqueue(Item(number=1), job_id="order 1/ü") == "order 1/ü"
    assert App.items.enqueue(Item(number=2), job_id="order 1/ü") == "order 1/ü"
    (job,) = engine.jobs()
    assert (job.payload, job.chosen_id) == (b'{"number":1}', True)


def test_a_dead_letter_queue_takes_no_enqueue(engine: Engine) -> None:
    with pytest.raises(InvalidPayload, match="queue 'dead' is a dead-letter queue: jobs cannot be enqueued into it"):
        App.dead.enqueue(DeadLetter("a", "b", 1, "error", ()))


@pytest.mark.parametrize("many", [False, True])
def test_too_large(many: bool, engine: Engine) -> None:
    big: Any = Item(number=10**40)
    with pytest.raises(
        PayloadTooLarge, match="payload has 52 bytes, max_payload_bytes is 40: store the content elsewhere"
    ):
        App.items.enqueue_many([big]) if many else App.items.enqueue(big)
    assert engine.batches == []


def test_full(engine: Engine) -> None:
    App.items.enqueue_many(Item(number=n) for n in range(LENGTH))
    with pytest.raises(QueueFull) as full:
        App.items.enqueue(Item(number=1))
    assert full.value.enqueued == ()


def test_batches_and_the_partial_result_of_a_full_queue(engine: Engine) -> None:
    with pytest.raises(QueueFull) as full:
        App.items.enqueue_many([Item(number=n) for n in range(LENGTH + 100)])
    assert engine.batches == [BATCH, BATCH, 188]
    assert list(full.value.enqueued) == [job.id for job in engine.jobs()]
    assert len(full.value.enqueued) == LENGTH


def test_the_partial_result_of_a_bad_payload(engine: Engine) -> None:
    payloads: list[Any] = [{"number": n} for n in range(BATCH)] + [{"number": "x"}]
    with pytest.raises(InvalidPayload) as invalid:
        App.items.enqueue_many(payloads)
    assert list(invalid.value.enqueued) == [job.id for job in engine.jobs()]
    assert len(invalid.value.enqueued) == BATCH


def test_a_bad_payload_among_many_is_named_by_its_place(engine: Engine) -> None:
    with pytest.raises(InvalidPayload, match=rf"^payload {BATCH + 2}, counted from 0: queue 'items': payload"):
        App.items.enqueue_many([*({"number": n} for n in range(BATCH + 2)), {"number": "x"}])  # type: ignore[list-item]
    with pytest.raises(PayloadTooLarge, match=r"^payload 1, counted from 0: queue 'items': payload has 52 bytes"):
        App.items.enqueue_many([Item(number=1), Item(number=10**40)])
    with pytest.raises(InvalidPayload, match=r"^queue 'items': payload does not fit"):  # of one it is clear
        App.items.enqueue_many([{"number": "x"}])  # type: ignore[list-item]


@pytest.mark.parametrize("one", [Item(number=1), "text", b"bytes", {"number": 1}], ids=str)
def test_one_payload_is_no_iterable_of_payloads(engine: Engine, one: Any) -> None:
    with pytest.raises(InvalidPayload, match=f"takes an iterable of payloads, not one {type(one).__name__}"):
        App.loose.enqueue_many(one)
    assert engine.batches == []


def test_a_generator_is_read_batch_by_batch(engine: Engine) -> None:
    stored_meanwhile = []

    def payloads() -> Iterator[int]:
        for number in range(2 * BATCH + 1):
            stored_meanwhile.append(len(engine.batches))
            yield number

    assert len(App.loose.enqueue_many(payloads(), delay=3)) == 2 * BATCH + 1
    assert (stored_meanwhile[BATCH - 1], stored_meanwhile[BATCH], stored_meanwhile[-1]) == (0, 1, 2)
    assert {job.not_before for job in engine.jobs("loose")} == {NOW + 3}


def test_no_payloads(engine: Engine) -> None:
    assert App.items.enqueue_many([]) == []
    assert engine.batches == []


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (EngineUnavailable("disk full"), EnqueueFailed, "queue 'items': not queued: disk full"),
        (EngineError("unsafe root"), EnqueueFailed, "queue 'items': not queued: unsafe root"),
        (EnqueueFailed("said by the engine"), EnqueueFailed, "said by the engine"),
        (QueueFull("no room"), QueueFull, "no room"),
        (OSError(5, "I/O"), EnqueueUncertain, "queue 'items': a may or may not be queued: OSError"),
        (EnqueueUncertain("fsync", job_id="a"), EnqueueUncertain, "fsync"),
    ],
)
def test_engine_errors(raised: Exception, expected: type[EnqueueError], text: str) -> None:
    with App.items.connected(connect(Engine(raised))), pytest.raises(expected, match=re.escape(text)) as error:
        App.items.enqueue(Item(number=1), job_id="a")
    if isinstance(error.value, EnqueueUncertain):
        assert error.value.job_id == "a"
    if error.value is not raised:
        assert error.value.__cause__ is raised


def test_uncertain_after_it_was_stored_and_again_with_its_id() -> None:
    engine = Engine(RuntimeError("connection lost"), after=True)
    with App.items.connected(connect(engine)):
        with pytest.raises(EnqueueUncertain) as uncertain:
            App.items.enqueue(Item(number=1), job_id="chosen")
        assert App.items.enqueue(Item(number=1), job_id=uncertain.value.job_id) == "chosen"
    assert len(engine.jobs()) == 1


def test_uncertain_in_the_second_batch_lists_the_first() -> None:
    engine = Engine(RuntimeError("connection lost"), at=2)
    with App.loose.connected(connect(engine)), pytest.raises(EnqueueUncertain) as uncertain:
        App.loose.enqueue_many(range(2 * BATCH))
    assert list(uncertain.value.enqueued) == [job.id for job in engine.jobs("loose")]
    assert uncertain.value.job_id not in uncertain.value.enqueued


def test_an_interrupt_is_no_enqueue_error() -> None:
    with App.items.connected(connect(Engine(KeyboardInterrupt()))), pytest.raises(KeyboardInterrupt):
        App.items.enqueue(Item(number=1))


@pytest.mark.parametrize("error", [EngineError("wrong owner"), SettingsError("WORKER_QUEUES__ITEMS__TTL=x: no")])
def test_a_queue_that_cannot_be_declared(error: Exception) -> None:
    def options(queue: Queue[Any]) -> QueueOptions:
        raise error

    with App.items.connected(Producer(Engine(), options=options)), pytest.raises(EnqueueFailed, match=str(error)):
        App.items.enqueue(Item(number=1))


def test_a_queue_is_declared_once(engine: Engine) -> None:
    for _ in range(3):
        App.items.enqueue(Item(number=1))
    App.loose.enqueue_many([1])
    assert engine.opened == ["items", "loose"]


def test_closing_is_idempotent() -> None:
    engine = Engine()
    producer = connect(engine)
    producer.close()
    producer.close()
    assert (producer.closed, engine.closed) == (True, 1)


async def test_async_enqueue_runs_beside_the_loop_in_the_callers_context(engine: Engine) -> None:
    threads: set[int] = set()
    original = engine.enqueue

    def enqueue(jobs: Sequence[Job]) -> list[JobId]:
        threads.add(threading.get_ident())
        return original(jobs)

    engine.enqueue = enqueue  # type: ignore[method-assign]
    job_id = await App.items.aenqueue(Item(number=1), delay=1, job_id="a")
    ids = await App.items.aenqueue_many([Item(number=2), Item(number=3)])
    await asyncio.gather(*(App.loose.aenqueue(n) for n in range(20)))
    assert [job.id for job in engine.jobs()] == [*ids, job_id]
    assert len(engine.jobs("loose")) == 20
    assert threading.get_ident() not in threads
    with pytest.raises(InvalidPayload):
        await App.items.aenqueue({"number": "x"})  # type: ignore[arg-type]


class Spans:
    """Telemetry's side of an enqueue."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.log: list[Any] = []

    def one(self, queue: str, job_id: str, size: int) -> Any:
        self.log.append(("one", queue, job_id, size))
        return Span(self, {"traceparent": f"tp-{job_id}"})

    def many(self, queue: str, job_ids: Sequence[str]) -> Any:
        self.log.append(("many", queue, len(job_ids)))
        return Span(self, [{"traceparent": f"tp-{job_id}"} for job_id in job_ids])


class Span:
    def __init__(self, spans: Spans, headers: Any) -> None:
        self.spans, self.headers = spans, headers

    def __enter__(self) -> Any:
        return self.headers

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.spans.log.append(("end", kind))


def test_each_job_carries_its_spans_context() -> None:
    engine, spans = Engine(), Spans()
    with App.items.connected(connect(engine, sending=spans)):
        job_id = App.items.enqueue(Item(number=1))
        ids = App.items.enqueue_many([Item(number=2), Item(number=3)])
    assert spans.log == [("one", "items", job_id, 12), ("end", None), ("many", "items", 2), ("end", None)]
    assert [job.headers["traceparent"] for job in engine.jobs()] == [f"tp-{i}" for i in [job_id, *ids]]


def test_a_span_sees_the_error_that_the_caller_sees() -> None:
    spans = Spans()
    producer = connect(Engine(EngineUnavailable("x")), sending=spans)
    with App.items.connected(producer), pytest.raises(EnqueueFailed):
        App.items.enqueue(Item(number=1))
    assert spans.log[-1] == ("end", EnqueueFailed)
