"""A dead-letter queue needs no handler: its dead letters are dead where they lie, until a service handles them."""

from __future__ import annotations

import pytest

from framework.model.options import QueueOptions
from tests.support.settling import rest, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS_WITH_LETTERS,
    a_failure,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    found,
    listed,
    pass_time,
    put,
    take_one,
)


def letters(service: str, *, handled: bool = False, ttl: float | None = None) -> QueueOptions:
    return QueueOptions("letters", is_dead_letter=True, handled=handled, service=service, ttl=ttl)


def kept(engine: Engine, *ids: str, ttl: float | None = None) -> Owner:
    """Dead letters of a queue that no service handles."""
    broker = engine.open(JOBS_WITH_LETTERS, letters("one", ttl=ttl))
    put(engine, broker, *ids)
    for _ in ids:
        bury_one(broker)
    return broker


def test_they_are_dead_and_nothing_waits(engine: Engine) -> None:
    broker = kept(engine, "a", "b")
    pass_time(engine, broker, engine.moment)
    assert_counts(broker, "letters", dead=2)
    assert broker.stats("letters").oldest_age == 0
    assert listed(broker, "dead", "letters") == ["a", "b"]
    assert listed(broker, "ready", "letters") == listed(broker, "delayed", "letters") == []
    view = found(broker, "a", "dead", "letters")
    assert (view.queue, view.state, view.job.queue) == ("letters", "dead", "jobs")
    assert view.job.history[-1].reason == "error"


def test_they_are_dead_also_where_only_the_name_is_known(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS)
    put(engine, broker, "a")
    bury_one(broker)
    assert_counts(broker, "letters", dead=1)


def test_they_are_replayed_and_discarded(engine: Engine) -> None:
    broker = kept(engine, "a", "b")
    assert broker.replay(found(broker, "a", "dead", "letters"))
    assert broker.discard(found(broker, "b", "dead", "letters"))
    assert_counts(broker, "letters")
    assert take_one(broker).job.id == "a"


def test_their_ttl_counts_from_their_death(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, letters("one", ttl=5 * engine.moment))
    put(engine, broker, "a", "b")
    engine.advance(4 * engine.moment)
    bury_one(broker)
    broker.maintain()
    assert_counts(broker, "letters", dead=1)
    engine.advance(4 * engine.moment)
    bury_one(broker)
    pass_time(engine, broker, 1.5 * engine.moment)
    assert listed(broker, "dead", "letters") == ["b"]


def test_a_letter_that_another_service_handles_is_never_ended_by_its_age(engine: Engine) -> None:
    """Also while that service is down, whatever this one declares."""
    other = engine.open(letters("two", handled=True))
    other.close()
    broker = kept(engine, "a", ttl=engine.moment)
    pass_time(engine, broker, 2 * engine.moment)
    assert_counts(broker, "letters", ready=1)
    assert broker.stats("letters").oldest_age >= engine.moment
    assert listed(broker, "ready", "letters") == ["a"]


@pytest.mark.parametrize("service", ["one", "two"])
def test_a_handler_that_comes_later_handles_what_waits(engine: Engine, service: str) -> None:
    broker = kept(engine, "a")
    handling = engine.open(letters(service, handled=True))
    assert_counts(broker, "letters", ready=1)
    lease = take_one(handling, "letters")
    assert (lease.job.id, lease.is_dead_letter) == ("a", True)
    rest(handling, lease)
    assert_counts(broker, "letters", dead=1)


def test_without_its_handler_what_waits_is_dead_again(engine: Engine) -> None:
    """Also what waits for a retry of the handler that is gone."""
    kept(engine, "a", "b").close()
    handling = engine.open(letters("one", handled=True))
    retry(handling, lease := take_one(handling, "letters"), delay=FAR, failure=a_failure(lease))
    assert_counts(handling, "letters", ready=1, delayed=1)
    handling.close()
    broker = engine.open(letters("one", ttl=engine.moment))
    assert_counts(broker, "letters", dead=2)
    assert sorted(listed(broker, "dead", "letters")) == ["a", "b"]
    pass_time(engine, broker, 1.5 * engine.moment)
    assert_nothing_to_claim(broker, "letters")
    assert_counts(broker, "letters")


def test_a_declaration_without_a_service_changes_nobodys(engine: Engine) -> None:
    engine.open(letters("two", handled=True)).close()
    broker = kept(engine)
    engine.open(letters("")).close()
    put(engine, broker, "a")
    bury_one(broker)
    assert_counts(broker, "letters", ready=1)
