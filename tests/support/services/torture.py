"""A service whose handlers do what the payload says: work, fail, hang, abort, leak, fork."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Literal

from pydantic import BaseModel

from framework import Context, DeadLetter, Queue, RetryPolicy, Snooze, WorkerApp

Act = Literal[
    "ok", "fail", "sleep", "abort", "exit", "hang", "swallow", "leak", "child", "escaped_child", "hold_gil",
    "ignore_term", "block_loop", "steps", "clean_child", "daemon", "snooze_when_draining", "fork", "forked_child",
]  # fmt: skip


class Task(BaseModel):
    do: Act = "ok"
    key: str = ""
    seconds: float = 0.0
    until: int = 0  # misbehave up to this attempt only; 0 = always


def note(line: str) -> None:
    """One line of the ledger, by one atomic append."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, (line + "\n").encode())
    os.close(ledger)


def ran(prefix: str) -> list[str]:
    """Return the lines of the ledger that begin so."""
    with open(os.environ["LEDGER"]) as ledger:
        return [line for line in ledger if line.startswith(prefix)]


def swallow(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            note("swallowed")


def start_child(*, escaped: bool) -> None:
    code = "import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=escaped)
    note(f"child {process.pid}")


def start_daemon() -> None:
    """Twice forked, in a session of its own, with a cleaned environment: its parent is gone at once."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            note(f"child {os.getpid()}")
            os.execve("/bin/sleep", ["sleep", "600"], {})
        os._exit(0)
    os.waitpid(pid, 0)


def misbehave(task: Task, ctx: Context) -> None:
    match task.do:
        case "fail":
            raise ValueError(f"{task.key} fails")
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "sleep" | "hang":
            time.sleep(task.seconds or 600)
        case "swallow":
            swallow(task.seconds or 600)
        case "steps":  # work that needs its time, whatever the clock says
            for _ in range(int(task.seconds / 0.05)):
                time.sleep(0.05)
        case "leak":
            hoard = bytearray(int(task.seconds) * 2**20)
            hoard[::4096] = b"x" * len(hoard[::4096])
            keep.append(hoard)
        case "child":
            start_child(escaped=False)
        case "escaped_child":
            start_child(escaped=True)
        case "hold_gil":
            # PyDLL keeps the GIL, and no signal ends the sleep: like a long computation in C.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(int(task.seconds) or 600)
        case "ignore_term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            swallow(task.seconds or 600)
        case "snooze_when_draining":
            while not ctx.should_stop:
                time.sleep(0.01)
            raise Snooze()
        case "clean_child":  # nothing of ours in its environment, and out of the group
            child = subprocess.Popen(["sleep", "600"], env={"PATH": "/usr/bin:/bin"}, start_new_session=True)
            note(f"child {child.pid}")
        case "daemon":
            start_daemon()
        case "fork":
            if os.fork() == 0:
                time.sleep(600)
        case "forked_child":  # no exec, and out of the group
            pid = os.fork()
            if pid == 0:
                os.setsid()
                time.sleep(600)
            note(f"child {pid}")
        case _:
            pass


keep: list[bytearray] = []


class Torture(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    sync = Queue[Task](
        "sync",
        workers=2,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False),
        dead_letter=dead,
    )
    many = Queue[Task](
        "many",
        workers=1,
        concurrency=20,
        timeout=2,
        kill_after=1,
        retry=RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False),
    )

    @sync.handler
    def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()}")
        if not task.until or ctx.attempt <= task.until:
            misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt}")

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()}")
        if not task.until or ctx.attempt <= task.until:
            match task.do:
                case "sleep" | "hang":
                    await asyncio.sleep(task.seconds or 600)
                case "steps":
                    for _ in range(int(task.seconds / 0.05)):
                        await asyncio.sleep(0.05)
                case "swallow":
                    end = time.monotonic() + (task.seconds or 600)
                    while time.monotonic() < end:
                        try:
                            await asyncio.sleep(0.05)
                        except asyncio.CancelledError:
                            note(f"swallowed {task.key}")
                case "block_loop":
                    time.sleep(task.seconds or 600)
                case _:
                    misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt}")
