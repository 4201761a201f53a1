"""A service whose sync handlers run in threads, and do what the payload says. For test_threads.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import trace

from framework import Context, Queue, RetryPolicy, Slot, WorkerApp
from framework.engine.spool.engine import SpoolEngine
from framework.model.outcome import Settlement
from tests.support.ledger import note
from tests.support.services.acts import Task as Known
from tests.support.services.acts import misbehave

SHORT = RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False)
place = ContextVar("place", default="nowhere")
local = threading.local()


if "SETTLE" in os.environ:  # an engine that takes its time for a single job

    def settle(self: SpoolEngine, done: Sequence[Settlement], *, inner: Any = SpoolEngine.settle) -> None:
        if any(b"slow" in one.lease.job.payload for one in done):
            note("settling")
            time.sleep(float(os.environ["SETTLE"]))
        inner(self, done)

    SpoolEngine.settle = settle  # type: ignore[method-assign]


class Silent(Exception):
    """Its text takes for ever."""

    def __str__(self) -> str:
        time.sleep(600)
        return ""


class Task(Known):
    do: Any = "ok"


class Threads(WorkerApp):
    """As many at once as the environment says."""

    jobs = Queue[Task]("jobs", concurrency=8, timeout=1, kill_after=1, retry=SHORT)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        place.set("lifespan")
        self.main = threading.get_ident()
        self.lock = threading.Condition()
        yield
        note(f"closed {os.getpid()}")

    @jobs.handler
    def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()} {time.monotonic_ns()}")
        if task.misbehaves(ctx.attempt):
            self.misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt} {time.monotonic_ns()}")

    def misbehave(self, task: Task, ctx: Context) -> None:
        match task.do:
            case "sysexit":
                sys.exit(3)
            case "signal":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "who":
                span = trace.get_current_span().get_span_context()
                note(f"who {task.key} {threading.get_ident() != self.main} {place.get()} {span.trace_id:032x}")
                place.set(task.key)
                ctx.log.info("from the handler", key=task.key)
                structlog.get_logger().info("from a library", key=task.key)
            case "local":
                note(f"local {task.key} {getattr(local, 'seen', 'none')}")
                local.seen = task.key
            case "umask":
                os.umask(0o077)
            case "chdir":
                os.chdir("/")
            case "look":
                old = os.umask(0o022)
                os.umask(old)
                note(f"look {old:o} {os.getcwd()}")
            case "close":
                os.closerange(3, 4096)
            case "astray":  # a call into C that fails after the soft timeout: its error travels first
                with self.lock:
                    one, other = socket.socketpair()
                    one.settimeout(1.3)
                    other.setblocking(False)
                    one.recv(1)
            case "regex":  # a computation in C that keeps the interpreter for years
                re.match("(a+)+$", "a" * 64 + "b")
            case "execute":
                os.execv("/bin/sleep", ["sleep", "600"])
            case "error_text":
                raise Silent()
            case "fork_back":  # the child comes back out of the handler
                if os.fork() == 0:
                    return
            case _:
                misbehave(task, ctx)
