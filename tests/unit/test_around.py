"""The hooks `around` and `aaround`: when they are open, what they see, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from framework import Context, DeadLetter, Failure, Queue, Running, Snooze, WorkerApp
from framework.model.outcome import Kind
from framework.runner.resolving import check
from framework.service.settings import Settings
from framework.testing import harness
from framework.worker.executor.around import Around
from tests.unit.helpers import a_lease, an_executor, refusal

tenant = ContextVar("tenant", default="none")
seen: list[str] = []


class Tenants(WorkerApp):
    """The outer mixin."""

    @contextmanager
    def around(self, job: Running) -> Generator[None, None, None]:
        with super().around(job):
            tenant.set(job.headers.get("tenant", "?"))
            seen.append("tenant")
            try:
                yield
            finally:
                seen.append("/tenant")


class Sessions(WorkerApp):
    """The inner mixin, with a hook of each kind."""

    @contextmanager
    def around(self, job: Running) -> Generator[None, None, None]:
        with super().around(job):
            try:
                yield
            except BaseException as error:
                seen.append(type(error).__name__)
                if job.payload == "swallowed":
                    return
                raise
            if job.payload == "commit fails":
                raise OSError("commit")

    @asynccontextmanager
    async def aaround(self, job: Running) -> AsyncGenerator[None, None]:
        async with super().aaround(job):
            await asyncio.sleep(0)
            seen.append("async")
            yield
            await asyncio.sleep(0)
            seen.append("/async")


class App(Sessions, Tenants):
    dead = Queue[DeadLetter]("dead")
    jobs = Queue[str]("jobs", dead_letter=dead)
    later = Queue[str]("later")
    odd = Queue[str]("odd")

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        seen.append("failure")

    @jobs.handler
    def act(self, what: str) -> None:
        seen.append(f"{what} of {tenant.get()}")
        if what == "fails" or what == "swallowed":
            raise ValueError(what)
        if what == "snoozes":
            raise Snooze(delay=1)

    @later.handler
    async def later_act(self, what: str) -> None:
        await asyncio.sleep(0)
        self.act(what)

    @odd.handler
    def unfinished(self, what: str) -> Any:
        return asyncio.sleep(0)


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


def run(queue: str, what: str, app: WorkerApp | None = None) -> Kind:
    executor = an_executor(app or App(), queue=queue)
    attempt = executor.attempt(a_lease(f'"{what}"'.encode(), queue=queue))
    attempt.lease.job.headers.update(tenant="t1", traceparent="00-")  # type: ignore[attr-defined]
    if executor.handler.is_async:

        async def call(made: Any) -> Any:
            return await made

        return asyncio.run(executor.run_async(attempt, call=call)).kind
    return executor.run(attempt).kind


@pytest.mark.parametrize(
    ("what", "kind", "log"),
    [
        ("ok", Kind.SUCCEEDED, ["ok of t1"]),
        ("fails", Kind.RETRIED, ["fails of t1", "ValueError"]),
        ("snoozes", Kind.RELEASED, ["snoozes of t1", "Snooze"]),
        ("swallowed", Kind.SUCCEEDED, ["swallowed of t1", "ValueError"]),
        ("commit fails", Kind.RETRIED, ["commit fails of t1"]),
    ],
)
def test_hooks_of_all_classes_are_open_while_the_handler_runs(what: str, kind: Kind, log: list[str]) -> None:
    failed = ["failure"] if kind is Kind.RETRIED else []
    assert run("jobs", what) is kind
    assert seen == ["tenant", *log, "/tenant", *failed]
    seen.clear()
    assert run("later", what) is kind
    ended = ["/async"] if what in ("ok", "commit fails") else []
    assert seen == ["tenant", "async", log[0], *ended, *log[1:], "/tenant", *failed]
    assert tenant.get() == "none"


def test_it_knows_the_job() -> None:
    jobs: list[Running] = []

    class Known(App):
        @contextmanager
        def around(self, job: Running) -> Generator[None, None, None]:
            jobs.append(job)
            yield

    assert run("jobs", "ok", Known()) is Kind.SUCCEEDED
    assert jobs == [Running("jobs", "j1", 1, {"tenant": "t1"}, "ok")]


def test_a_handler_that_leaves_its_work_undone_fails_within_the_hooks() -> None:
    assert run("odd", "x") is Kind.RETRIED
    assert seen == ["tenant", "TypeError", "/tenant", "failure"]


def test_a_payload_that_can_not_be_read_opens_nothing() -> None:
    executor = an_executor(App(), queue="jobs")
    assert executor.run(executor.attempt(a_lease(b"7"))).kind is Kind.DEAD_LETTERED
    assert seen == ["failure"]


def test_a_class_without_the_hooks_has_none() -> None:
    class Plain(WorkerApp):
        jobs = Queue[str]("jobs")

        @jobs.handler
        def act(self, what: str) -> None: ...

    assert Around.of(Plain()) is None
    assert Around.of(App()) is not None


def test_a_hook_that_is_never_called_is_a_warning(tmp_path: Path) -> None:
    class OnlyAsync(WorkerApp):
        jobs = Queue[str]("only.jobs")

        @asynccontextmanager
        async def aaround(self, job: Running) -> AsyncGenerator[None, None]:
            yield

        @jobs.handler
        def act(self, payload: str) -> None: ...

    settings = Settings(engine_url=f"spool:{tmp_path}/spool")
    [warning] = check(OnlyAsync, settings)
    assert warning.startswith("OnlyAsync.aaround is never called: no handler here is async; write around")
    assert [text for text in check(App, settings) if "aaround" in text] == []


def nothing(self: WorkerApp, job: Running) -> Any:
    """The hook of an author who has forgotten the decorator, in another way than by `yield`."""


@pytest.mark.parametrize(
    ("hook", "queue", "said"),
    [
        ("around", "jobs", "Bad.around returned an object of type NoneType, which is no context manager"),
        ("around", "later", "Bad.around returned an object of type NoneType, which is no context manager"),
        ("aaround", "later", "Bad.aaround returned an object of type NoneType, which is no async context manager"),
    ],
)
def test_what_is_no_context_manager_fails_the_run_in_one_clear_line(hook: str, queue: str, said: str) -> None:
    bad = type("Bad", (App,), {hook: nothing})()
    executor = an_executor(bad, queue=queue)
    attempt = executor.attempt(a_lease(b'"ok"', queue=queue))

    async def call(made: Any) -> Any:
        return await made

    outcome = asyncio.run(executor.run_async(attempt, call=call)) if queue == "later" else executor.run(attempt)
    assert outcome.failure is not None
    assert outcome.failure.message.startswith(said)
    assert "ok of" not in " ".join(seen)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def around(self, job): yield", "A.around yields: write @contextmanager above it"),
        ("async def aaround(self, job): yield", "A.aaround yields: write @asynccontextmanager above it"),
        ("async def around(self, job): ...", "A.around is a coroutine function"),
        ("@asynccontextmanager\n    async def around(self, job): yield", "A.around is async: name it aaround"),
        ("@contextmanager\n    def aaround(self, job): yield", "A.aaround is not async: name it around"),
        ("@contextmanager\n    def around(self): yield", "A.around must take (self, job)"),
        ('around = Queue[int]("jobs")', "A.around takes the name of a hook of WorkerApp: rename it"),
        ("around = None", "A.around takes the name of a hook of WorkerApp: rename it"),
        ("@contextmanager\n    def around(self, x, y): yield", "A.around must take (self, job)"),
    ],
)
def test_mistakes_are_found_when_the_class_is_made(body: str, said: str, tmp_path: Path) -> None:
    source = f"from contextlib import asynccontextmanager, contextmanager\nclass A(WorkerApp):\n    {body}"
    assert said in refusal(source, tmp_path / "service.py")


def test_the_harness_opens_them() -> None:
    with harness(App) as t:
        App.jobs.enqueue("ok", headers={"tenant": "t7"})
        App.later.enqueue("ok")
        assert t.drain() == 2
        assert seen == ["tenant", "ok of t7", "/tenant", "tenant", "async", "ok of ?", "/async", "/tenant"]
