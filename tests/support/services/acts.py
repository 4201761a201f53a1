"""What handlers of tests do where their payload says so: fail, hang, abort, leak, leave children behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel

from framework import Context, Snooze
from tests.support.ledger import note

Act = Literal[
    "ok", "fail", "abort", "exit", "snooze", "snooze_when_draining",
    "sleep", "hang", "steps", "work", "slow", "swallow", "ignore_term", "block_loop", "hold_gil", "leak",
    "child", "escaped_child", "clean_child", "fork", "closed_fork", "forked_child", "daemon", "marked_daemon",
]  # fmt: skip
LONG = 900.0  # seconds of what never ends by itself
BEAT = 0.02  # seconds between signs of life


class Task(BaseModel):
    do: Act = "ok"
    key: str = ""
    seconds: float = 0.0
    until: int = 0  # misbehaves up to this attempt only; 0 = always

    def misbehaves(self, attempt: int) -> bool:
        return not self.until or attempt <= self.until


def no_beat() -> None:
    """Give no sign of life."""


def misbehave(task: Task, ctx: Context, beat: Callable[[], None] = no_beat) -> None:
    """Do what a task says, in a sync handler; `beat` is called while it works."""
    seconds = task.seconds or LONG
    match task.do:
        case "fail":
            raise ValueError(f"{task.key} fails")
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "snooze":
            if time.monotonic_ns() % 2:
                raise Snooze(delay=0.05)
        case "snooze_when_draining":
            while not ctx.should_stop:
                time.sleep(0.01)
            raise Snooze()
        case "sleep" | "hang":
            time.sleep(seconds)
        case "steps":  # work that needs its time, whatever the clock says
            for _ in range(int(task.seconds / 0.05)):
                time.sleep(0.05)
        case "work" | "slow":
            end = time.monotonic() + task.seconds
            while time.monotonic() < end:
                time.sleep(BEAT)
                beat()
        case "swallow":
            swallow(seconds, beat)
        case "ignore_term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            swallow(seconds, beat)
        case "block_loop":
            time.sleep(seconds)
        case "hold_gil":
            # PyDLL keeps the GIL, and no signal ends the sleep: like a long computation in C.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(int(seconds))
        case "leak":
            hoard = bytearray(int(task.seconds or 100) * 2**20)
            hoard[::4096] = b"x" * len(hoard[::4096])
            hoards.append(hoard)
        case "fork":
            if os.fork() == 0:
                time.sleep(LONG)
        case "ok":
            pass
        case _:
            start_child(task.do)


hoards: list[bytearray] = []


def swallow(seconds: float, beat: Callable[[], None]) -> None:
    """Go on whatever is raised here."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(BEAT)
            beat()
        except BaseException:
            note("swallowed")


async def misbehave_async(task: Task, ctx: Context, beat: Callable[[], None] = no_beat) -> None:
    """Do what a task says, in an async handler."""
    match task.do:
        case "sleep" | "hang":
            await asyncio.sleep(task.seconds or LONG)
        case "snooze_when_draining":
            while not ctx.should_stop:
                await asyncio.sleep(0.01)
            raise Snooze()
        case "steps":
            for _ in range(int(task.seconds / 0.05)):
                await asyncio.sleep(0.05)
        case "work" | "slow" | "swallow" | "ignore_term":
            end = time.monotonic() + (task.seconds or LONG)
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(BEAT)
                    beat()
                except asyncio.CancelledError:
                    if task.do in ("work", "slow"):
                        raise
                    note("swallowed")
        case _:
            misbehave(task, ctx, beat)


SLEEP = ["sleep", "900"]


def start_child(kind: str) -> None:
    """Start a process that would outlive its worker, and note its pid."""
    match kind:
        case "child":
            pid = subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep({LONG})"]).pid
        case "escaped_child":  # out of the group
            code = f"import time; time.sleep({LONG})"
            pid = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True).pid
        case "clean_child":  # nothing of ours in its environment, and out of the group
            pid = subprocess.Popen(SLEEP, env={"PATH": "/usr/bin:/bin"}, start_new_session=True).pid
        case "closed_fork":
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 64)
                time.sleep(LONG)
                os._exit(0)
        case "forked_child":  # no exec, and out of the group
            pid = os.fork()
            if pid == 0:
                os.setsid()
                time.sleep(LONG)
        case "daemon":  # without any environment
            return start_daemon({})
        case "marked_daemon":
            return start_daemon(dict(os.environ))
        case _:
            raise ValueError(kind)
    return note(f"child {pid}")


def start_daemon(environ: dict[str, str]) -> None:
    """Fork twice, into a session of its own: the parent of the daemon is gone at once."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            note(f"child {os.getpid()}")
            os.execve("/bin/sleep", SLEEP, environ)
        os._exit(0)
    os.waitpid(pid, 0)
