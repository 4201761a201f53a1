"""Dead letters: bury, rest, replay, discard."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.model.options import QueueOptions
from tests.support.settling import ack, rest, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_job,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    fail_once,
    found,
    ids,
    listed,
    pass_time,
    put,
    take,
    take_one,
)


def test_without_a_dead_letter_queue_a_job_is_dead_on_its_own(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    fail_once(broker)
    bury_one(broker, reason="rejected", message="no such address")
    assert_nothing_to_claim(broker)
    assert_counts(broker, dead=1)
    view = found(broker, "a", "dead")
    assert (view.queue, view.state, view.attempt, view.delivery) == ("jobs", "dead", 0, 2)
    assert [(failure.attempt, failure.reason) for failure in view.job.history] == [(1, "error"), (2, "rejected")]
    assert view.job.history[-1].message == "no such address"


def test_with_one_it_goes_there_and_is_claimed_as_a_letter(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    (job,) = put(engine, broker, "a", payload=b'{"n": 1}', headers={"h": "1"})
    fail_once(broker)
    bury_one(broker)
    assert_counts(broker)
    assert_nothing_to_claim(broker)
    letter = take_one(broker, "letters")
    assert (letter.queue, letter.is_dead_letter, letter.attempt, letter.delivery) == ("letters", True, 1, 3)
    assert (letter.job.queue, letter.job.id, letter.job.uid) == ("jobs", "a", job.uid)
    assert (letter.job.payload, dict(letter.job.headers)) == (b'{"n": 1}', {"h": "1"})
    assert [(failure.attempt, failure.queue) for failure in letter.job.history] == [(1, "jobs"), (2, "jobs")]


def test_two_queues_share_a_dead_letter_queue(engine: Engine) -> None:
    others = QueueOptions("others", dead_letter="letters")
    broker = engine.open(JOBS_WITH_LETTERS, others, LETTERS)
    broker.enqueue([a_job(engine, "a"), a_job(engine, "b", queue="others")])
    bury_one(broker)
    bury_one(broker, "others")
    letters = {letter.job.id: letter for letter in take(engine.open(), 2, "letters")}
    assert {job_id: letter.job.queue for job_id, letter in letters.items()} == {"a": "jobs", "b": "others"}
    assert_counts(broker, "letters", in_flight=2)


def test_replay_sends_each_letter_to_its_own_home(engine: Engine) -> None:
    others = QueueOptions("others", dead_letter="letters")
    broker = engine.open(JOBS_WITH_LETTERS, others, LETTERS)
    broker.enqueue([a_job(engine, "a"), a_job(engine, "b", queue="others")])
    bury_one(broker)
    bury_one(broker, "others")
    for letter in take(broker, 2, "letters"):
        rest(broker, letter)
    assert all(broker.replay(view) for view in list(broker.browse("letters", "dead")))
    assert ids(take(broker)) == ["a"]
    assert ids(take(broker, 1, "others")) == ["b"]


def test_a_letters_handler_has_attempts_of_its_own(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    fail_once(broker, "letters")
    letter = take_one(broker, "letters")
    assert (letter.attempt, letter.delivery, letter.is_dead_letter) == (2, 3, True)
    assert [(failure.attempt, failure.queue) for failure in letter.job.history] == [(1, "jobs"), (1, "letters")]


def test_a_letter_waits_since_its_death(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    engine.advance(engine.moment)
    before = engine.now()
    bury_one(broker)
    assert before - 0.05 <= take_one(broker, "letters").eligible_at <= engine.now() + 0.05


def test_a_letter_can_be_released(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    broker.release([take_one(broker, "letters")])
    letter = take_one(broker, "letters")
    assert (letter.attempt, letter.delivery, letter.is_dead_letter) == (1, 3, True)


def test_a_letter_whose_handler_fails_for_good_is_dead_on_the_dead_letter_queue(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    bury_one(broker, "letters")
    assert_nothing_to_claim(broker, "letters")
    assert_counts(broker, "letters", dead=1)
    assert [failure.queue for failure in found(broker, "a", "dead", "letters").job.history] == ["jobs", "letters"]


def test_a_letter_is_not_buried_any_deeper(engine: Engine) -> None:
    """Even if its dead-letter queue names one itself."""
    broker = engine.open(JOBS_WITH_LETTERS, QueueOptions("letters", dead_letter="deeper"), QueueOptions("deeper"))
    put(engine, broker, "a")
    bury_one(broker)
    bury_one(broker, "letters")
    assert_counts(broker, "letters", dead=1)
    assert_counts(broker, "deeper")


def resting(engine: Engine, *names: str, letters: QueueOptions = LETTERS) -> Owner:
    """Jobs that died and whose letters were handled."""
    broker = engine.open(JOBS_WITH_LETTERS, letters)
    put(engine, broker, *names)
    for _ in names:
        bury_one(broker)
    for letter in take(broker, len(names), "letters"):
        rest(broker, letter)
    return broker


def test_a_handled_letter_rests_listed(engine: Engine) -> None:
    broker = resting(engine, "a", "b")
    assert_nothing_to_claim(broker, "letters")
    assert_nothing_to_claim(broker)
    assert_counts(broker, "letters", dead=2)
    assert listed(engine.open(), "dead", "letters") == ["a", "b"]
    view = found(broker, "a", "dead", "letters")
    assert (view.queue, view.job.queue) == ("letters", "jobs")
    assert [failure.attempt for failure in view.job.history] == [1]


def test_an_acked_letter_is_gone(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    ack(broker, [take_one(broker, "letters")])
    assert_counts(broker, "letters")
    assert_counts(broker)


def test_a_resting_letter_is_deleted_at_the_ttl_of_its_dead_letter_queue(engine: Engine) -> None:
    """Counted from its death, not from the enqueue: an old job's letter is kept as long as a young one's."""
    letters = QueueOptions("letters", is_dead_letter=True, ttl=5 * engine.moment)
    broker = engine.open(JOBS_WITH_LETTERS, letters)
    put(engine, broker, "a")
    engine.advance(5.5 * engine.moment)
    bury_one(broker)
    rest(broker, take_one(broker, "letters"))
    broker.maintain()
    assert listed(broker, "dead", "letters") == ["a"]
    pass_time(engine, broker, 5.5 * engine.moment)
    assert listed(broker, "dead", "letters") == []
    assert_counts(broker, "letters")


def test_without_a_ttl_a_resting_letter_stays(engine: Engine) -> None:
    broker = resting(engine, "a")
    pass_time(engine, broker, engine.moment)
    assert listed(broker, "dead", "letters") == ["a"]


def test_nothing_but_a_resting_letter_is_deleted_at_a_ttl(engine: Engine) -> None:
    """Neither a letter that waits for its handler, nor a job that is dead on its own queue."""
    ttl = engine.moment
    broker = engine.open(
        QueueOptions("jobs", dead_letter="letters", ttl=ttl),
        QueueOptions("others", ttl=ttl),
        QueueOptions("letters", is_dead_letter=True, ttl=ttl),
    )
    broker.enqueue([a_job(engine, "a"), a_job(engine, "b", queue="others")])
    bury_one(broker)
    bury_one(broker, "others")
    pass_time(engine, broker, 1.5 * ttl)
    assert listed(broker, "ready", "letters") + listed(broker, "dead", "letters") == ["a"]
    assert listed(broker, "dead", "others") == ["b"]


def to_own_dead(engine: Engine, *names: str) -> tuple[Owner, str]:
    broker = engine.open(JOBS)
    put(engine, broker, *names)
    for _ in names:
        bury_one(broker)
    return broker, "jobs"


def to_rest(engine: Engine, *names: str) -> tuple[Owner, str]:
    return resting(engine, *names), "letters"


def to_a_failed_handler(engine: Engine, *names: str) -> tuple[Owner, str]:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, *names)
    for _ in names:
        bury_one(broker)
        bury_one(broker, "letters")
    return broker, "letters"


DEATHS: list[Callable[..., tuple[Owner, str]]] = [to_own_dead, to_rest, to_a_failed_handler]


@pytest.mark.parametrize("die", DEATHS)
def test_a_replayed_letter_runs_again_at_home(engine: Engine, die: Callable[..., tuple[Owner, str]]) -> None:
    broker, queue = die(engine, "a")
    view = found(broker, "a", "dead", queue)
    engine.advance(engine.moment)
    before = engine.now()
    assert broker.replay(view) is True
    assert broker.find(queue, "a", "dead") is None
    lease = take_one(broker)
    assert before - 0.05 <= lease.eligible_at <= engine.now() + 0.05
    assert (lease.job.id, lease.job.uid, lease.queue, lease.is_dead_letter) == ("a", view.job.uid, "jobs", False)
    assert (lease.attempt, lease.delivery) == (1, view.delivery + 1)
    assert list(lease.job.history) == list(view.job.history)


@pytest.mark.parametrize("die", DEATHS)
def test_a_replayed_letter_goes_to_the_end(engine: Engine, die: Callable[..., tuple[Owner, str]]) -> None:
    broker, queue = die(engine, "a")
    put(engine, broker, "b")
    assert broker.replay(found(broker, "a", "dead", queue))
    put(engine, broker, "c")
    assert ids(take(broker, 3)) == ["b", "a", "c"]


@pytest.mark.parametrize("verb", ["replay", "discard"])
@pytest.mark.parametrize("die", DEATHS)
def test_what_is_no_longer_there_is_neither_replayed_nor_discarded(
    engine: Engine, die: Callable[..., tuple[Owner, str]], verb: str
) -> None:
    broker, queue = die(engine, "a")
    view = found(broker, "a", "dead", queue)
    assert engine.open().replay(view) is True
    assert getattr(broker, verb)(view) is False
    assert_counts(broker, ready=1)


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_a_view_of_an_earlier_death_is_out_of_date(engine: Engine, verb: str) -> None:
    """Nobody has looked at the new failure yet."""
    broker, _ = to_own_dead(engine, "a")
    before = found(broker, "a", "dead")
    assert broker.replay(before)
    bury_one(broker)
    assert getattr(broker, verb)(before) is False
    assert getattr(broker, verb)(found(broker, "a", "dead")) is True


@pytest.mark.parametrize("die", DEATHS)
def test_a_discarded_letter_is_gone_and_no_other(engine: Engine, die: Callable[..., tuple[Owner, str]]) -> None:
    broker, queue = die(engine, "a", "b")
    assert broker.discard(found(broker, "a", "dead", queue)) is True
    assert listed(broker, "dead", queue) == ["b"]
    assert_nothing_to_claim(broker)


def test_a_letter_that_nobody_has_handled_can_be_replayed(engine: Engine) -> None:
    """A dead-letter queue without a handler is only a list: replay is the way out of it."""
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    assert broker.replay(found(broker, "a", "ready", "letters")) is True
    assert_nothing_to_claim(broker, "letters")
    lease = take_one(broker)
    assert (lease.job.id, lease.attempt, lease.delivery, lease.is_dead_letter) == ("a", 1, 2, False)


def test_a_letter_that_waits_for_its_handlers_retry_can_be_replayed(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    letter = take_one(broker, "letters")
    retry(broker, letter, delay=FAR, failure=a_failure(letter))
    assert broker.replay(found(broker, "a", "delayed", "letters")) is True
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery) == (1, 3)


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_a_letter_in_its_handlers_hands_is_neither_replayed_nor_discarded(engine: Engine, verb: str) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    before = found(broker, "a", "ready", "letters")
    letter = take_one(broker, "letters")
    for view in (before, found(broker, "a", "in_flight", "letters")):
        assert getattr(broker, verb)(view) is False
    rest(broker, letter)
    assert_counts(broker, "letters", dead=1)


@pytest.mark.parametrize("state", ["ready", "delayed"])
def test_a_job_that_nobody_holds_is_discarded(engine: Engine, state: str) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", "b", delay=FAR if state == "delayed" else 0)
    assert broker.discard(found(broker, "a", state)) is True  # type: ignore[arg-type]
    assert listed(broker, state) == ["b"]  # type: ignore[arg-type]
    assert_counts(broker, **{state: 1})


def test_a_handled_letter_is_kept_from_its_handling_on_however_old_its_death_is(engine: Engine) -> None:
    """A dead-letter queue that is worked off late must still show what it has handled."""
    ttl = 6 * engine.file_moment
    broker = engine.open(JOBS_WITH_LETTERS, QueueOptions("letters", is_dead_letter=True, ttl=ttl))
    put(engine, broker, "a")
    bury_one(broker)
    pass_time(engine, broker, 1.2 * ttl)
    rest(broker, take_one(broker, "letters"))
    pass_time(engine, broker, 0.2 * ttl)
    assert listed(broker, "dead", "letters") == ["a"]
    pass_time(engine, broker, 1.2 * ttl)
    assert listed(broker, "dead", "letters") == []
