"""The service of the soaks: its handlers keep a ledger of everything that runs, and many of them misbehave.

Ledger lines, appended atomically; P is `pid:start`, which names one life of a process, T is CLOCK_MONOTONIC in ns:

    R job queue attempt delivery span P T     a run record is about to be written
    S job queue attempt span P T what         a handler begins
    H span T                                  it is still at it
    E span T how                              it ends, by `ok` or by the name of an exception
    C P what                                  a handler started a child process
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any, Literal

from opentelemetry import trace
from pydantic import BaseModel

from framework import Context, DeadLetter, Queue, RetryPolicy, Snooze, WorkerApp
from framework.engine.ledger import Ledger
from framework.process.scoreboard import process_start

Act = Literal[
    "ok", "work", "fail", "snooze", "abort", "exit", "slow", "swallow", "ignore_term", "hold_gil", "leak", "child",
    "escaped", "daemon", "fork", "block_loop",
]  # fmt: skip
BEAT = 0.02  # seconds between signs of life


class Task(BaseModel):
    do: Act = "ok"
    seconds: float = 0.0
    until: int = 0  # misbehaves up to this attempt only; 0 = always


# --- the ledger -----------------------------------------------------------------------------------------------------

_ledger = -1
_life: tuple[int, str] = (0, "")


def note(line: str) -> None:
    """One line by one append."""
    global _ledger
    if _ledger < 0:
        _ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(_ledger, (line + "\n").encode())


def life() -> str:
    """`pid:start` of this process."""
    global _life
    pid = os.getpid()
    if _life[0] != pid:
        _life = (pid, f"{pid}:{process_start(pid)}")
    return _life[1]


class Noted:
    """Writes when a run begins and ends. `__exit__` is closed to interruption, so the end is noted once."""

    def __init__(self, what: str, context: Context) -> None:
        self._what = what
        self._context = context
        self._span = f"{trace.get_current_span().get_span_context().span_id:016x}"

    def __enter__(self) -> Noted:
        c = self._context
        note(f"S {c.job_id} {c.queue} {c.attempt} {self._span} {life()} {time.monotonic_ns()} {self._what}")
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        note(f"E {self._span} {time.monotonic_ns()} {kind.__name__ if kind else 'ok'}")

    def beat(self) -> None:
        """A sign of life."""
        note(f"H {self._span} {time.monotonic_ns()}")


def note_run_records() -> None:
    """The ledger's real `begin`, with a line before it: what is charged without that line had never started."""
    inner = Ledger.begin

    def begin(self: Ledger, lease: Any, run: Any) -> None:
        place = f"{lease.job.id} {lease.queue} {lease.attempt} {lease.delivery}"
        span = run.ids[16:].hex() if any(run.ids) else "-"
        note(f"R {place} {span} {life()} {time.monotonic_ns()}")
        inner(self, lease, run)

    Ledger.begin = begin  # type: ignore[method-assign]


# --- misbehaving ----------------------------------------------------------------------------------------------------


def child(what: str) -> None:
    """A process that would outlive us, in our group, in a session of its own, or as a daemon nobody is parent of."""
    code = "import time; time.sleep(900)"
    if what == "fork":
        pid = os.fork()
        if pid == 0:
            os.closerange(3, 64)
            time.sleep(900)
            os._exit(0)
        note(f"C {pid}:{process_start(pid)} fork")
        return
    if what == "daemon":
        code = (
            "import os, sys, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
            "    ledger = os.open(os.environ['LEDGER'], os.O_WRONLY | os.O_APPEND)\n"
            "    os.write(ledger, f'C {os.getpid()}:{fields[19]} daemon\\n'.encode())\n"
            "    time.sleep(900)\n"
        )
    process = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=what != "child")
    if what == "daemon":
        process.wait()
    else:
        note(f"C {process.pid}:{process_start(process.pid)} {what}")


def swallow(seconds: float, noted: Noted) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(BEAT)
            noted.beat()
        except BaseException:
            continue


def misbehave(task: Task, noted: Noted) -> None:
    match task.do:
        case "fail":
            raise ValueError("as told")
        case "snooze":
            if time.monotonic_ns() % 2:
                raise Snooze(delay=0.05)
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "work" | "slow":
            end = time.monotonic() + task.seconds
            while time.monotonic() < end:
                time.sleep(BEAT)
                noted.beat()
        case "swallow":
            swallow(task.seconds or 900, noted)
        case "ignore_term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            swallow(task.seconds or 900, noted)
        case "hold_gil":
            # PyDLL keeps the GIL, and no signal ends the sleep: like a long computation in C.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(int(task.seconds) or 900)
        case "leak":
            hoard.append(bytearray(os.urandom(1)) * (100 << 20))
        case "child" | "escaped" | "daemon" | "fork":
            child(task.do)
        case _:
            pass


hoard: list[bytearray] = []


async def misbehave_async(task: Task, noted: Noted) -> None:
    match task.do:
        case "work" | "slow" | "swallow" | "ignore_term":
            end = time.monotonic() + (task.seconds or 900)
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(BEAT)
                    noted.beat()
                except asyncio.CancelledError:
                    if task.do in ("work", "slow"):
                        raise
        case "block_loop":
            time.sleep(task.seconds or 900)
        case _:
            misbehave(task, noted)


# --- the service ----------------------------------------------------------------------------------------------------


class Soak(WorkerApp):
    dead = Queue[DeadLetter](
        "dead", kill_after=1, timeout=1, retry=RetryPolicy(max_retries=5, first_delay=0.05, factor=1)
    )
    sync = Queue[Task](
        "sync",
        workers=2,
        timeout=0.5,
        kill_after=0.5,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        dead_letter=dead,
        max_length=1500,
        max_memory="220MiB",
    )
    many = Queue[Task](
        "many",
        concurrency=8,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        max_length=1500,
    )
    threads = Queue[Task](
        "threads",
        concurrency=8,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        max_length=1500,
    )

    @sync.handler
    @threads.handler
    def act(self, task: Task, ctx: Context) -> None:
        with Noted(task.do, ctx) as noted:
            if not task.until or ctx.attempt <= task.until:
                misbehave(task, noted)

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        with Noted(task.do, ctx) as noted:
            if not task.until or ctx.attempt <= task.until:
                await misbehave_async(task, noted)

    @dead.handler
    def bury(self, letter: DeadLetter, ctx: Context) -> None:
        with Noted("letter", ctx):
            pass


if "LEDGER" in os.environ:
    note_run_records()
