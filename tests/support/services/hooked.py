"""A service whose `on_failure` does what the id of the job says, `sleeps-1`: for test_lost_hooks.py."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from framework import Context, Failure, Queue, RetryPolicy, Slot, WorkerApp
from framework.runner import hooks
from tests.support.ledger import note

if "PATIENCE" in os.environ:  # seconds, in tests that wait for hooks to be killed
    hooks.PATIENCE = float(os.environ["PATIENCE"])
ONCE = RetryPolicy(max_retries=0)


class Hooked(WorkerApp):
    jobs = Queue[str]("jobs", workers=2, timeout=60, retry=ONCE)
    again = Queue[str]("again", workers=2, timeout=60, retry=RetryPolicy(first_delay=0, jitter=False))
    many = Queue[str]("many", concurrency=50, timeout=60, retry=ONCE)
    told = Queue[str]("told")

    @jobs.handler
    def abort(self, key: str) -> None:
        os.abort()

    @again.handler
    def hold(self, key: str, ctx: Context) -> None:
        note(f"hold {ctx.job_id} {ctx.attempt} {os.getpid()}")
        while ctx.attempt == 1:
            time.sleep(0.01)

    @many.handler
    async def hold_async(self, key: str) -> None:
        note(f"held {key}")
        await asyncio.sleep(600)

    @told.handler
    def take(self, key: str) -> None:
        note(f"taken {key}")

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        note(f"hook {ctx.job_id} {os.getpid()} {failure.reason} {failure.exception}")
        ctx.log.info("in the hook")
        act(ctx.job_id.partition("-")[0])
        note(f"done {ctx.job_id}")


def act(what: str) -> None:
    match what:
        case "sleeps":
            time.sleep(60)
        case "raises":
            raise ValueError("the reporter is down")
        case "quits":
            sys.exit("enough")
        case "exits":
            os._exit(0)
        case "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        case "forks":
            if os.fork() == 0:
                note(f"child {os.getpid()}")
                return
        case "daemon":
            if os.fork() == 0:
                os.setsid()
                note(f"child {os.getpid()}")
                os.execv("/bin/sleep", ["sleep", "600"])
        case "threads":
            for _ in range(20):
                threading.Thread(target=time.sleep, args=(600,)).start()
        case "descriptors":
            with suppress(OSError):
                while True:
                    os.dup(0)
        case "closes":
            os.closerange(3, 200)
        case "blocks":
            ctypes.PyDLL(None).sleep(60)
        case "ignores":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        case "enqueues":
            Hooked.told.enqueue("by the hook", job_id="told")


class Async(WorkerApp):
    jobs = Queue[str]("jobs", timeout=60, retry=ONCE)

    @jobs.handler
    def abort(self, key: str) -> None:
        os.abort()

    async def on_failure(self, failure: Failure, ctx: Context) -> None:
        await asyncio.sleep(0)
        note(f"hook {ctx.job_id} {os.getpid()}")
        if ctx.job_id == "swallows":
            while True:
                with suppress(BaseException):
                    await asyncio.sleep(600)
        if ctx.job_id == "hangs":
            await asyncio.sleep(600)


class Crowd(WorkerApp):
    """More lost attempts at once than can wait for their hook, which waits until it may go on."""

    jobs = Queue[str]("jobs", concurrency=1100, timeout=600, retry=ONCE)

    @jobs.handler
    async def hold(self, key: str) -> None:
        note(f"held {key}")
        await asyncio.sleep(600)

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        note(f"hook {ctx.job_id} {os.getpid()}")
        while not os.path.exists(os.environ["LEDGER"] + ".go"):
            time.sleep(0.01)


class Constructed(WorkerApp):
    """Its constructor fails in the hooks process, until it may succeed."""

    jobs = Queue[str]("jobs", timeout=60, retry=ONCE)

    def __init__(self) -> None:
        note(f"constructed {os.getpid()}")
        with open("/proc/self/oom_score_adj") as file:
            hooks = file.read().strip() == "1000"
        if hooks and not os.path.exists(os.environ["LEDGER"] + ".go"):
            raise OSError("no connection")

    @jobs.handler
    def abort(self, key: str) -> None:
        os.abort()

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        note(f"hook {ctx.job_id}")


class FailsToClose(WorkerApp):
    jobs = Queue[str]("jobs")

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        raise OSError("the pool is closed already")

    @jobs.handler
    def work(self, key: str) -> None: ...


class HangsInClosing(WorkerApp):
    jobs = Queue[str]("jobs")

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        while True:
            with suppress(BaseException):
                time.sleep(600)

    @jobs.handler
    def work(self, key: str) -> None: ...
