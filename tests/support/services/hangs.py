"""A service whose handlers hang in every way that a stack must show: each in a function of its own, `hang_in_...`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note

LONG = 900
ONCE = RetryPolicy(max_retries=0)
_regex = re.compile(r"(a+)+$")


def hang_in_c_with_gil() -> None:
    mutex = ctypes.create_string_buffer(64)
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)  # no signal ends it


def hang_in_regex() -> None:
    _regex.match("a" * 64 + "b")


def hang_in_sum() -> None:
    sum(range(10**13))


def hang_in_swallowing_loop() -> None:
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def hang_in_busy_loop() -> None:
    turns = 0
    while True:
        try:
            while True:
                turns += 1
        except BaseException:
            pass


def hang_in_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    while True:
        try:
            lock.acquire()
        except BaseException:
            pass


async def hang_in_await() -> None:
    while True:
        try:
            await asyncio.sleep(LONG)
        except BaseException:
            pass


async def hang_in_gathered() -> None:
    await asyncio.gather(hang_in_await())


async def hang_in_blocked_loop() -> None:
    hang_in_swallowing_loop()


async def hang_in_loop_with_gil() -> None:
    hang_in_c_with_gil()


THREADS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        hang_in_c_with_gil, hang_in_regex, hang_in_sum, hang_in_swallowing_loop, hang_in_busy_loop, hang_in_lock
    )
}  # fmt: skip


def slow() -> None:
    while True:
        time.sleep(0.01)


async def slow_async() -> None:
    await asyncio.gather(asyncio.sleep(LONG))


HOGS = ["hang_in_c_with_gil", "hang_in_sum", "hang_in_regex"]  # no other thread of the process runs any more
SYNC = [kind for kind in THREADS if kind != "hang_in_regex"]  # `re` heeds SIGALRM, so the soft timeout ends it
ASYNC: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    made.__name__: made for made in (hang_in_await, hang_in_gathered, hang_in_blocked_loop, hang_in_loop_with_gil)
}
# The function that an attempt's span must name, where it is not the one that the payload names.
NAMED = {
    "hang_in_gathered": "hang_in_await",
    "hang_in_blocked_loop": "hang_in_swallowing_loop",
    "hang_in_loop_with_gil": "hang_in_c_with_gil",
}


class Hangs(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    sync = Queue[str]("sync", workers=2, timeout=0.2, kill_after=0.5, retry=ONCE, dead_letter=dead)
    threads = Queue[str]("threads", concurrency=2, timeout=0.2, kill_after=0.5, retry=ONCE, dead_letter=dead)
    many = Queue[str]("many", workers=2, timeout=0.2, kill_after=0.5, retry=ONCE, dead_letter=dead)

    @sync.handler
    @threads.handler
    def hang(self, kind: str, ctx: Context) -> None:
        ctx.log.info("about to hang", kind=kind)
        note(f"start {kind} {os.getpid()}")
        {**THREADS, "slow": slow}.get(kind, lambda: time.sleep(LONG))()

    @many.handler
    async def hang_async(self, kind: str, ctx: Context) -> None:
        ctx.log.info("about to hang", kind=kind)
        await {**ASYNC, "slow": slow_async}[kind]()
