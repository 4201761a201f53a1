"""`Queue(group=...)`: what producers, schedules, settings and the harness do with it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from framework import (
    Context,
    DeadLetter,
    DeclarationError,
    Every,
    InvalidArgument,
    Queue,
    RetryLater,
    RetryPolicy,
    SettingsError,
    Unique,
    WorkerApp,
)
from framework.model.extras import Extras, unpack
from framework.model.limits import Groups
from framework.service.options import resolve
from framework.service.plans import plans_of
from framework.service.settings import load_settings
from framework.testing import harness


class Mail(BaseModel):
    to: str
    number: int = 0


class Post(WorkerApp):
    fair = Queue[Mail]("fair", group=lambda mail: mail.to, concurrency=2)
    strict = Queue[Mail](
        "strict", group=lambda mail: mail.to, group_order="strict", retry=RetryPolicy(first_delay=60, jitter=False)
    )
    limited = Queue[Mail](
        "limited", group=lambda mail: mail.to, group_limit=2, unique=Unique(key=lambda mail: str(mail.number))
    )
    plain = Queue[Mail]("plain")
    fails: Callable[[Mail], bool]

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.fails = lambda mail: False

    @fair.handler
    @strict.handler
    @limited.handler
    @plain.handler
    def send(self, mail: Mail, ctx: Context) -> None:
        self.seen.append((mail.to, mail.number))
        if self.fails(mail) and ctx.attempt == 1:
            raise RetryLater("not yet")


def test_the_harness_lets_groups_take_turns() -> None:
    with harness(Post) as t:
        Post.fair.enqueue_many([Mail(to="big", number=n) for n in range(4)])
        Post.fair.enqueue(Mail(to="small"))
        assert t.drain() == 5
        assert t.app.seen == [("big", 0), ("small", 0), ("big", 1), ("big", 2), ("big", 3)]


def test_the_harness_keeps_a_strict_order_over_a_retry() -> None:
    with harness(Post) as t:
        Post.strict.enqueue_many([Mail(to="a", number=0), Mail(to="a", number=1), Mail(to="b", number=0)])
        t.app.fails = lambda mail: mail == Mail(to="a", number=0)
        assert t.drain() == 4
        assert t.app.seen == [("a", 0), ("b", 0), ("a", 0), ("a", 1)]


def test_the_key_lies_with_the_job_beside_its_unique_key() -> None:
    with harness(Post) as t:
        first, _ = Post.limited.enqueue(Mail(to="a")), Post.limited.enqueue_many([Mail(to="b", number=1)])
        views = [view for state in ("ready",) for view in t._engine.browse("limited", state)]
        assert [(view.job.extras.group, view.job.extras.unique_key) for view in views] == [("a", "0"), ("b", "1")]
        assert Post.limited.enqueue(Mail(to="a")) == first
        assert t.drain() == 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda mail: None, "returned NoneType: must be text of 1 to 255 characters"),
        (lambda mail: 7, "returned int: must be text"),
        (lambda mail: "", "returned text of 0 characters: must be text of 1 to 255"),
        (lambda mail: "x" * 256, "returned text of 256 characters: must be text of 1 to 255"),
        (lambda mail: "\ud800", "returned text of 1 characters"),
        (lambda mail: mail.nobody, "raised AttributeError"),
    ],
)
def test_a_function_that_gives_no_key_is_named_at_the_enqueue(function: Any, said: str) -> None:
    class App(WorkerApp):
        mails = Queue[Mail]("mails", group=function)

    with harness(App) as t:
        for enqueue in (
            lambda: App.mails.enqueue(Mail(to="secret@example.org")),
            lambda: App.mails.enqueue_many([Mail(to="secret@example.org")]),
        ):
            with pytest.raises(
                InvalidArgument, match=f"queue 'mails': the function of its group .*test_groups.py:.*{said}"
            ) as caught:
                enqueue()
            assert "secret" not in str(caught.value)
        assert t.enqueued(App.mails) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "tenant"}, "group='tenant': write a function, as in group=lambda message: message.customer"),
        ({"group": len, "group_limit": 0}, "group_limit=0: must be 1 or more"),
        ({"group": len, "group_limit": 10_001}, "group_limit=10001: must be at most 10,000"),
        ({"group": len, "group_limit": "1"}, "group_limit='1': must be a whole number"),
        ({"group": len, "group_limit": True}, "group_limit=True: must be a whole number"),
        ({"group": len, "group_order": "fifo"}, "group_order='fifo': write 'strict'"),
        ({"group": len, "group_order": "strict", "group_limit": 2}, "group_limit=2: with group_order='strict' one job"),
        ({"group_limit": 1}, "group_limit=1 needs the key of each job's group: add group=lambda"),
        ({"group_order": "strict"}, "group_order='strict' needs the key of each job's group"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=rf"test_groups.py:\d+: {said}"):
        Queue[Mail]("mails", **options)


def test_a_dead_letter_queue_has_no_groups() -> None:
    with pytest.raises(DeclarationError, match=r"Wrong.letters carries dead letters, which come by themselves: remove"):

        class Wrong(WorkerApp):
            letters = Queue[DeadLetter]("letters", group=lambda letter: letter.queue)


def test_the_options_are_what_was_declared() -> None:
    found = {queue.name: queue.options.groups for queue in Post.worker_queues.values()}
    assert found == {"fair": Groups(), "strict": Groups(1, strict=True), "limited": Groups(2), "plain": None}
    assert [queue.options.claims_ahead for queue in Post.worker_queues.values()] == [True, False, False, True]


def resolved(queue: Queue[Any], monkeypatch: pytest.MonkeyPatch, **environ: str) -> Groups | None:
    for name, value in environ.items():
        monkeypatch.setenv(f"WORKER_QUEUES__{queue.attribute.upper()}__{name}", value)
    return resolve(queue, load_settings(), Post).groups


@pytest.mark.parametrize(("value", "limit"), [("5", 5), ("none", None)])
def test_settings_change_the_limit(monkeypatch: pytest.MonkeyPatch, value: str, limit: int | None) -> None:
    assert resolved(Post.limited, monkeypatch, GROUP_LIMIT=value) == Groups(limit)


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("plain", "2", "PLAIN__GROUP_LIMIT: group_limit=2 needs the key"),
        ("limited", "0", "LIMITED__GROUP_LIMIT: group_limit=0: must be 1 or more"),
        ("strict", "2", "STRICT__GROUP_LIMIT: group_limit=2: with group_order='strict'"),
        ("limited", "few", "LIMITED__GROUP_LIMIT='few': input should be a valid integer"),
    ],
)
def test_wrong_settings_name_their_variable(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=f"WORKER_QUEUES__{said}"):
        resolved(Post.worker_queues[attribute], monkeypatch, GROUP_LIMIT=value)


def test_the_jobs_of_a_schedule_have_their_group() -> None:
    queue = Queue[Mail]("mails", group=lambda mail: mail.to, schedules=[Every(30, Mail(to="ada"))])
    (plan,) = plans_of([queue], {"mails": queue.options})
    job = plan.job(1.0, 2.0)
    assert (job.extras.group, json.loads(job.payload)["to"]) == ("ada", "ada")


def test_a_schedule_whose_payload_has_no_group_is_refused_at_the_start() -> None:
    queue = Queue[Mail]("mails", group=lambda mail: mail.to, schedules=[Every(30, Mail(to=""), key="often")])
    with pytest.raises(DeclarationError, match=r"schedule 'often': queue 'mails': the function of its group"):
        plans_of([queue], {"mails": queue.options})


@pytest.mark.parametrize("group", ["a", "ä", 'q"uote', "b\\s", "x" * 255, "{", '","group":"z', None])
@pytest.mark.parametrize(
    "rest",
    [{}, {"version": "1"}, {"unique_key": "{", "unique_scope": "done"}, {"other": {"inside": {"group": "no"}}}],
    ids=str,
)
def test_stored_extras_are_read_as_they_were_written(group: str | None, rest: dict[str, Any]) -> None:
    """Also by the short way, which reads what many jobs have in common once."""
    for _ in range(2):
        written = Extras(group=group, **rest)
        found = unpack(written.text) if written.text else written
        assert (found, found.text, found.ignored) == (written, written.text, ())


def test_a_stored_group_of_no_use_is_ignored_and_kept() -> None:
    for text in ('{"group":"","version":"1"}', '{"version":7,"group":"a"}'):
        assert unpack(text).text == text
        assert len(unpack(text).ignored) == 1
