"""Services with odd habits, each of which once broke something. For test_odd.py."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import ContextDecorator, asynccontextmanager, contextmanager

from framework import Context, DeadLetter, Failure, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.ledger import note, ran

ONCE = RetryPolicy(max_retries=0)


class SlowExit(WorkerApp):
    jobs = Queue[str]("jobs", concurrency=2)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        note("closing")
        time.sleep(1)
        note("closed")

    @jobs.handler
    async def work(self, key: str) -> None:
        note(f"end {key}")


class OneEach(WorkerApp):
    jobs = Queue[str]("jobs", concurrency=5, max_jobs_per_process=1)

    @jobs.handler
    async def work(self, key: str) -> None:
        await asyncio.sleep(0.2)
        note(f"end {key} {os.getpid()}")


class HangsAtExit(WorkerApp):
    jobs = Queue[str]("jobs", max_jobs_per_process=1)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        time.sleep(1000)

    @jobs.handler
    def work(self, key: str) -> None:
        note(f"end {key}")


class QuitsAtStart(WorkerApp):
    good = Queue[str]("good")
    jobs = Queue[str]("jobs")

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        if slot.queue.name == "jobs":
            note("life")
            sys.exit(0)
        yield

    @good.handler
    def fine(self, key: str) -> None: ...

    @jobs.handler
    def work(self, key: str) -> None: ...


class ConstructsOnce(WorkerApp):
    """The supervisor's trial succeeds; every process of the service fails."""

    jobs = Queue[str]("jobs", workers=2)

    def __init__(self) -> None:
        with open(os.environ["LEDGER"]) as ledger:
            constructed = "constructed" in ledger.read()
        note("constructed")
        if constructed:
            raise RuntimeError("no second time")

    def on_failure(self, failure: Failure, ctx: Context) -> None: ...

    @jobs.handler
    def work(self, key: str) -> None: ...


class QuitsWhileIdle(WorkerApp):
    jobs = Queue[str]("jobs")
    many = Queue[str]("many")

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        if slot.queue.name == "jobs":
            threading.Timer(0.05, os._exit, (0,)).start()
        yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        quitting = asyncio.get_running_loop().call_later(0.05, sys.exit, 0)
        yield
        quitting.cancel()

    @jobs.handler
    def work(self, key: str) -> None: ...

    @many.handler
    async def work_async(self, key: str) -> None: ...


class FailsAtExit(WorkerApp):
    jobs = Queue[str]("jobs", workers=2, max_jobs_per_process=1)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        raise RuntimeError("teardown")

    @jobs.handler
    def work(self, key: str) -> None:
        note(f"end {key}")


class Forks(WorkerApp):
    sync = Queue[str]("sync", timeout=20, retry=ONCE)
    many = Queue[str]("many", timeout=20, concurrency=2, retry=ONCE)

    @sync.handler
    def work(self, key: str) -> None:
        child = self.child()
        time.sleep(0.2)
        self.end(key, child)

    @many.handler
    async def work_async(self, key: str) -> None:
        child = self.child()
        await asyncio.sleep(0.2)
        self.end(key, child)

    def child(self) -> multiprocessing.process.BaseProcess:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        return child

    def end(self, key: str, child: multiprocessing.process.BaseProcess) -> None:
        child.terminate()
        child.join(10)
        note(f"end {key} {child.exitcode}")
        child.kill()


class ComesBackTwice(WorkerApp):
    sync = Queue[str]("sync", retry=ONCE)
    many = Queue[str]("many", concurrency=2, retry=ONCE)

    @sync.handler
    def work(self, key: str) -> None:
        self.fork(key)

    @many.handler
    async def work_async(self, key: str) -> None:
        self.fork(key)

    def fork(self, key: str) -> None:
        if key == "fork" and os.fork() == 0:
            return
        note(f"end {key} {os.getpid()}")


class Subtasks(WorkerApp):
    jobs = Queue[str]("jobs", timeout=2, kill_after=1, concurrency=5, retry=ONCE)

    @jobs.handler
    async def work(self, key: str) -> None:
        note(f"start {key}")
        if key == "blocker":
            await asyncio.sleep(0.3)
            await asyncio.gather(self.block())
        await asyncio.sleep(0.6)
        note(f"end {key}")

    async def block(self) -> None:
        time.sleep(600)


class Decorated(WorkerApp):
    jobs = Queue[str]("jobs", timeout=1, kill_after=5, retry=ONCE)

    class Span(ContextDecorator):
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    @Span()
    def slow(self) -> None:
        time.sleep(60)

    @jobs.handler
    def work(self, key: str) -> None:
        self.slow()


elsewhere = Queue[DeadLetter]("letters")


class Sender(WorkerApp):
    jobs = Queue[str]("jobs", dead_letter=elsewhere, retry=ONCE)

    @jobs.handler
    def work(self, key: str) -> None:
        raise ValueError(key)


class Reader(WorkerApp):
    letters = elsewhere

    @letters.handler
    def read(self, letter: DeadLetter) -> None:
        note("start letter")
        time.sleep(600)


class FailsInConstructor(WorkerApp):
    jobs = Queue[str]("jobs", workers=2)

    def __init__(self) -> None:
        note(f"constructor {os.getppid()}")
        if "TRIED" in os.environ and len(ran("constructor")) == 1:
            return  # where the service is tried before its start
        raise SystemExit(f"{'x' * 100}")

    @jobs.handler
    def work(self, key: str) -> None: ...


def exit_slowly() -> None:
    note("exiting")
    time.sleep(0.5)


if "EXITS_SLOWLY" in os.environ:
    atexit.register(exit_slowly)
for closing in os.environ.get("CLOSES", "").split():
    os.close(int(closing))
if "IMPORTED" in os.environ:
    print(os.environ["IMPORTED"])


class Prints(WorkerApp):
    jobs = Queue[str]("jobs", retry=ONCE)

    @jobs.handler
    def work(self, key: str) -> None:
        note(f"start {key}")
        print("from a handler")
        print("from a handler", file=sys.stderr)
        note(f"printed {key} {os.readlink('/proc/self/fd/1')}")


class Exits(WorkerApp):
    start = Queue[str]("start")
    run = Queue[str]("run", retry=ONCE)
    hook = Queue[str]("hook", retry=ONCE)
    many = Queue[str]("many", concurrency=2)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        if slot.queue.name == "start":
            sys.exit("text of the lifespan")
        yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        sys.exit("text of alifespan")
        yield

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        if ctx.queue == "hook":
            sys.exit("text of the hook")

    @start.handler
    def started(self, key: str) -> None: ...

    @run.handler
    def ran(self, key: str) -> None:
        sys.exit("text of the handler")

    @hook.handler
    def failed(self, key: str) -> None:
        raise ValueError(key)

    @many.handler
    async def many_at_once(self, key: str) -> None: ...
