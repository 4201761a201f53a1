"""What was enqueued comes out: whole, in order, once."""

from __future__ import annotations

import threading

import pytest

from framework.model.job import Job
from framework.model.options import QueueOptions
from tests.support.settling import ack

from .engines import Engine, Owner
from .helpers import FAR, JOBS, a_job, assert_nothing_to_claim, ids, listed, normal, pass_time, put, take, take_one


@pytest.mark.parametrize("payload", [b"", b"{}", bytes(range(256)) * 3, b"\n" * 5000, b"\x00" * 1_048_576], ids=len)
def test_a_payload_comes_back_byte_for_byte(engine: Engine, payload: bytes) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", payload=payload)
    assert take_one(broker).job.payload == payload


def test_every_field_of_a_job_comes_back(engine: Engine) -> None:
    broker = engine.open(JOBS)
    job = Job(
        id="übung/../№1 \U0001f9ea",
        uid=bytes(range(16)),
        queue="jobs",
        payload=b'{"a": 1}',
        headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "naïve": "☃ = '\"\\\n", "empty": ""},
        enqueued_at=engine.now() + 0.000123,
        not_before=engine.now() - 1.5,
        ttl=86_400.125,
        chosen_id=True,
        scheduled_for=1_699_999_999.5,
    )
    broker.enqueue([job])
    assert normal(take_one(engine.open()).job) == normal(job)


def test_what_the_caller_does_with_his_headers_later_changes_nothing(engine: Engine) -> None:
    broker = engine.open(JOBS)
    headers = {"a": "1"}
    put(engine, broker, "a", headers=headers)
    headers["a"] = "2"
    assert dict(take_one(broker).job.headers) == {"a": "1"}


def test_the_first_claim_is_attempt_one_of_delivery_one(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    lease = take_one(broker)
    assert (lease.queue, lease.attempt, lease.delivery, lease.is_dead_letter) == ("jobs", 1, 1, False)
    assert list(lease.job.history) == []


def test_jobs_enqueued_one_by_one_come_out_in_order(engine: Engine) -> None:
    broker = engine.open(JOBS)
    names = [f"job-{n}" for n in range(25)]
    for name in names:
        put(engine, broker, name)
    assert ids(take(broker, 1) + take(broker, 7) + take(broker, 17)) == names


def test_a_batch_keeps_its_order(engine: Engine) -> None:
    """More than an engine is likely to store at once."""
    broker = engine.open(JOBS)
    names = [f"{n}" for n in range(600)]
    put(engine, broker, *names)
    got = [name for _ in range(10) for name in ids(take(broker, 60))]
    assert got == names


def test_each_of_two_producers_keeps_its_order(engine: Engine) -> None:
    one, two = engine.open(JOBS), engine.open()
    for n in range(10):
        put(engine, one, f"one-{n}")
        put(engine, two, f"two-{n}")
    got = ids(take(engine.open(), 20))
    for producer in ("one", "two"):
        assert [name for name in got if name.startswith(producer)] == [f"{producer}-{n}" for n in range(10)]


def test_jobs_that_come_while_others_are_claimed_stay_behind(engine: Engine) -> None:
    broker, producer = engine.open(JOBS), engine.open()
    got = []
    for n in range(0, 40, 4):
        put(engine, producer, *(f"{n + i}" for i in range(4)))
        got += ids(take(broker, 3))
    got += ids(take(broker, 10))
    assert got == [f"{n}" for n in range(40)]


def test_a_claim_takes_no_more_than_its_limit(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abcde")
    assert len(broker.claim(["jobs"], limit=3, wait=0.2)) <= 3


def test_a_claimed_job_is_not_claimed_again(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    take_one(broker)
    assert_nothing_to_claim(broker)
    assert_nothing_to_claim(engine.open())


def test_queues_do_not_mix(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    broker.enqueue([a_job(engine, "a"), a_job(engine, "b", queue="others"), a_job(engine, "c")])
    assert ids(take(broker, 2)) == ["a", "c"]
    assert_nothing_to_claim(broker)
    assert ids(take(broker, 1, "others")) == ["b"]


def test_a_job_in_the_future_waits(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "later", delay=FAR)
    put(engine, broker, "now")
    assert ids(take(broker)) == ["now"]
    assert_nothing_to_claim(broker)
    assert listed(broker, "delayed") == ["later"]


def test_a_job_whose_time_has_come_is_claimed(engine: Engine) -> None:
    broker = engine.open(JOBS)
    (job,) = put(engine, broker, "a", delay=engine.moment)
    pass_time(engine, broker, engine.moment)
    lease = take_one(broker)
    assert lease.eligible_at == pytest.approx(job.not_before, abs=0.01)
    assert (lease.attempt, lease.delivery) == (1, 1)


def test_a_moment_in_the_past_is_now(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", delay=-FAR)
    assert ids(take(broker)) == ["a"]


def test_eligible_at_of_a_fresh_job_is_when_it_was_enqueued(engine: Engine) -> None:
    broker = engine.open(JOBS)
    before = engine.now()
    put(engine, broker, "a")
    assert before - 0.05 <= take_one(broker).eligible_at <= engine.now() + 0.05


def test_two_consumers_never_get_the_same_job(engine: Engine) -> None:
    producer = engine.open(JOBS)
    names = {f"{n}" for n in range(300)}
    put(engine, producer, *names)
    got: dict[str, list[str]] = {"one": [], "two": []}
    together = threading.Barrier(2)

    def consume(name: str, broker: Owner) -> None:
        together.wait(10)
        while leases := broker.claim(["jobs"], limit=7, wait=0.2):
            got[name] += ids(leases)
            ack(broker, leases)

    threads = [threading.Thread(target=consume, args=(name, engine.open())) for name in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    everything = got["one"] + got["two"]
    assert len(everything) == len(set(everything))
    assert set(everything) == names
