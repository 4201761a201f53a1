"""The options of one job: priority, timeout, retry, ttl and headers, as a user gives them."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from framework import Context, DeadLetter, DeclarationError, InvalidArgument, Queue, RetryPolicy, WorkerApp
from framework.model.extras import Extras
from framework.model.options import QueueOptions, of_job
from framework.service.options import resolve
from framework.service.settings import Settings
from framework.testing import harness

from .helpers import a_lease


class Shop(WorkerApp):
    dead = Queue[DeadLetter]("shop.dead")
    mails = Queue[str]("shop.mails", dead_letter=dead, retry=RetryPolicy(max_retries=1, give_up_on=(KeyError,)))
    urgent = Queue[str]("shop.urgent", priority=2)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @mails.handler
    @urgent.handler
    def send(self, text: str, ctx: Context) -> None:
        self.seen.append((text, ctx.attempt, ctx.max_attempts, dict(ctx.headers)))
        if text.startswith("fail"):
            raise OSError(text)


def seen_texts(app: Shop) -> list[str]:
    return [text for text, *_ in app.seen]


def test_priorities_of_jobs_and_of_queues() -> None:
    with harness(Shop) as t:
        for text, priority in (("usual", None), ("patient", 9), ("first", 0)):
            Shop.mails.enqueue(text, priority=priority)
        Shop.mails.enqueue_many(["many/0", "many/1"], priority=1)
        Shop.urgent.enqueue("2")
        Shop.urgent.enqueue("5", priority=5)
        Shop.urgent.enqueue("1", priority=1)
        assert t.enqueued(Shop.urgent) == ["2", "5", "1"]  # in the order of their enqueue
        t.drain(Shop.mails)
        t.drain(Shop.urgent)
        assert seen_texts(t.app) == ["first", "many/0", "many/1", "usual", "patient", "1", "2", "5"]


def test_a_job_has_its_own_number_of_retries() -> None:
    with harness(Shop) as t:
        Shop.mails.enqueue("fail twice")
        Shop.mails.enqueue("fail once", retry=RetryPolicy(max_retries=0))
        Shop.mails.enqueue("fail often", retry=RetryPolicy(max_retries=3, first_delay=timedelta(minutes=1)))
        t.drain(raise_errors=False)
        attempts = [(text, attempt, most) for text, attempt, most, _ in t.app.seen]
        assert sorted(attempts) == [
            *(("fail often", n, 4) for n in range(1, 5)),
            ("fail once", 1, 1),
            *(("fail twice", n, 2) for n in (1, 2)),
        ]
        assert {letter.payload for letter in t.dead(Shop.dead)} == {"fail twice", "fail once", "fail often"}


async def test_headers_reach_the_handler_without_those_of_the_framework() -> None:
    with harness(Shop) as t:
        await Shop.mails.aenqueue("a", headers={"tenant": "acme ☃"})
        await Shop.mails.aenqueue_many(["b"], headers={"tenant": "b"})
        await Shop.mails.aenqueue("c")
        await t.adrain()
        assert [(text, headers) for text, _, _, headers in t.app.seen] == [
            ("a", {"tenant": "acme ☃"}), ("b", {"tenant": "b"}), ("c", {}),
        ]  # fmt: skip


def test_a_job_expires_by_its_own_ttl() -> None:
    with harness(Shop) as t:
        Shop.mails.enqueue("late", ttl=60)
        Shop.mails.enqueue("in time")
        t._clock.now += 61
        t.drain()
        assert seen_texts(t.app) == ["in time"]
        assert [letter.reason for letter in t.dead(Shop.dead)] == ["expired"]


def test_give_up_on_stays_the_queues_and_a_dead_letter_has_the_options_of_its_handler() -> None:
    options = QueueOptions("jobs", timeout=7, retry=RetryPolicy(max_retries=1, give_up_on=(KeyError,)))
    extras = Extras(timeout=2.5, retry={"max_retries": 4, "of a newer version": 1})
    own = of_job(options, a_lease(extras=extras))
    assert (own.timeout, own.retry.max_retries, own.retry.give_up_on) == (2.5, 4, (KeyError,))
    assert of_job(options, a_lease()) is options
    assert of_job(options, a_lease(queue="dead", home="jobs", extras=extras)) is options


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"priority": 10}, "priority=10: must be a whole number from 0 to 9"),
    ({"priority": "high"}, "priority='high': must be a whole number from 0 to 9"),
    ({"timeout": 0}, "timeout=0.0: must be more than 0 and at most 1e+09 s"),
    ({"timeout": "10"}, "timeout: '10' is no duration: write a number of seconds or a timedelta"),
    ({"timeout": math.nan}, "timeout=nan: must be more than 0 and at most 1e+09 s"),
    ({"ttl": -1}, "ttl=-1: must be more than 0 and at most 1e+09 s"),
    ({"ttl": math.inf}, "ttl=inf: must be more than 0 and at most 1e+09 s"),
    ({"retry": 3}, "retry=3: write RetryPolicy(max_retries=3)"),
    ({"retry": RetryPolicy(give_up_on=(OSError,))}, "retry: classes cannot be stored with a job: declare give_up_on"),
    ({"retry": RetryPolicy(max_delay=1e12)}, "retry={'max_retries': 10"),
    ({"headers": ["a"]}, "headers=['a']: write a dict of texts"),
    ({"headers": {"a": 1}}, "headers: the value of 'a' is not text but int"),
    ({"headers": {"": "x"}}, "headers: the name '' is not text of 1 to 100 printable characters"),
    ({"headers": {"TraceParent": "x"}}, "headers: 'TraceParent' is set by the framework: choose another name"),
    ({"headers": {"a": "x" * 32_768}}, "headers: more than 32,768 characters: put them into the payload"),
]


@pytest.mark.parametrize(("own", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_option_is_one_clear_line_and_nothing_is_queued(own: dict[str, Any], message: str) -> None:
    with harness(Shop) as t:
        with pytest.raises(InvalidArgument) as error:
            Shop.mails.enqueue("a", **own)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
        with pytest.raises(InvalidArgument) as error:
            Shop.mails.enqueue_many(["a", "b"], **own)
        assert error.value.enqueued == ()
        assert t.enqueued(Shop.mails) == []


def test_an_unknown_option_is_named() -> None:
    with harness(Shop), pytest.raises(TypeError, match="no option 'prio'; a job has priority, timeout, retry"):
        Shop.mails.enqueue("a", prio=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"priority": 10}, r"priority=10: must be 0 \(first\) to 9 \(last\)"),
        ({"priority": 1.5}, "priority=1.5: must be a whole number"),
        ({"starve_after": 0}, "starve_after=0.0: must be more than 0 seconds, or None for no limit"),
        ({"starve_after": "60"}, "'60' is no duration"),
    ],
)
def test_a_wrong_declaration_names_its_line(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=rf"test_own_options\.py:\d+: {message}"):
        Queue[str]("q", **declared)


def test_settings_change_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES__MAILS__PRIORITY", "3")
    monkeypatch.setenv("WORKER_QUEUES__MAILS__STARVE_AFTER", "none")
    options = resolve(Shop.mails, Settings(), Shop)
    assert (options.priority, options.starve_after) == (3, None)
