"""A service whose handlers leave their process changed: signals, timers, limits, descriptors, identity."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from framework import Context, DeadLetter, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.ledger import note


class Task(BaseModel):
    do: str = "nothing"
    key: str = ""
    seconds: float = 0.0
    meet: int = 0  # wait until so many have started: then each has a process of its own


def ignore(*_: object) -> None:
    pass


def leave(*_: object) -> None:
    sys.exit(0)


def loop_signals() -> None:
    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)

    asyncio.run(main())


def alarm_of_its_own() -> None:
    before = signal.signal(signal.SIGALRM, ignore)
    signal.alarm(1)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def lose_term() -> None:
    """Ends when the drain has begun: the ledger says so."""
    signal.signal(signal.SIGTERM, ignore)
    note("taken")
    while "draining" not in Path(os.environ["LEDGER"]).read_text():
        time.sleep(0.01)


def cancelled_by_term() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        note("taken")
        await asyncio.sleep(60)

    asyncio.run(main())


def own_handler(handler: Any, number: int = signal.SIGTERM) -> None:
    signal.signal(number, handler)
    note("taken")
    time.sleep(60)


def gone_directory() -> None:
    gone = Path(os.environ["LEDGER"]).with_name("gone")
    gone.mkdir()
    os.chdir(gone)
    shutil.rmtree(gone)


kept: list[Any] = []


def open_all(into: list[Any]) -> None:
    try:
        while True:
            into.append(socket.socket())
    except OSError:
        pass


def leak() -> None:
    open_all(kept)


def garbage() -> None:
    """Open until the next collection."""
    ring: list[Any] = []
    ring.append(ring)
    open_all(ring)


def close_and_reuse() -> None:
    os.closerange(3, 200)
    kept.extend(os.open("/", os.O_RDONLY) for _ in range(197))


def lower(limit: int, hard: bool) -> None:
    resource.setrlimit(limit, (64, 64 if hard else resource.getrlimit(limit)[1]))


ACTS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "term_default": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "term_ignored": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "term_blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM]),
    "term_own": lambda: signal.signal(signal.SIGTERM, ignore),
    "loop_signals": loop_signals,
    "alarm_own": alarm_of_its_own,
    "alarm_default": lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL),
    "alarm_ignored": lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
    "alarm_late": lambda: signal.alarm(100),
    "timer_stopped": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
    "term_kills": lambda: own_handler(signal.SIG_DFL),
    "term_exits": lambda: own_handler(leave),
    "term_ends": lambda: own_handler(lambda *_: os._exit(143)),
    "term_cancels": cancelled_by_term,
    "term_lost": lose_term,
    "usr1_kills": lambda: own_handler(signal.SIG_DFL, signal.SIGUSR1),
    "usr1_left": lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL),
    "others": lambda: [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGCHLD, signal.SIGUSR1)],
    "pipe": lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    "wakeup": lambda: signal.set_wakeup_fd(kept_writer()),
    "chdir": lambda: os.chdir("/"),
    "chdir_gone": gone_directory,
    "umask": lambda: os.umask(0o777),
    "recursion": lambda: sys.setrecursionlimit(100),
    "interpreter": lambda: [sys.setswitchinterval(1000), gc.disable()],
    "std_closed": lambda: os.closerange(0, 3),
    "std_null": lambda: os.dup2(os.open("/dev/null", os.O_WRONLY), 1),
    "nofile_soft": lambda: lower(resource.RLIMIT_NOFILE, False),
    "nofile_hard": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)),
    "fsize_hard": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    "close": lambda: os.closerange(3, 1000),
    "close_all": lambda: os.closerange(0, 1000),
    "close_and_reuse": close_and_reuse,
    "leak": leak,
    "garbage": garbage,
    "user": lambda: os.setuid(65534),
    "effective_user": lambda: os.seteuid(65534),
    "root": lambda: os.chroot("/tmp"),
}


def kept_writer() -> int:
    kept.append(pair := socket.socketpair())
    pair[1].setblocking(False)
    return int(pair[1].fileno())


def state() -> str:
    """What the next handler finds."""
    mask = os.umask(0)
    os.umask(mask)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    standard = [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in (0, 1, 2)]
    handlers = [signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGPIPE)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64, sys.getrecursionlimit() > 500
    interpreter = sys.getswitchinterval() < 1, gc.isenabled()
    shown = [getattr(handler, "__name__", str(handler)) for handler in handlers]
    return f"{os.getcwd()} {mask:o} {standard} {shown} {limits} {wakeup} {interpreter}"


class Spoiler(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    spoil = Queue[Task](
        "spoil", workers=1, timeout=60, kill_after=1, retry=RetryPolicy(max_retries=0), dead_letter=dead
    )
    many = Queue[Task]("many", workers=1, concurrency=8, timeout=60, retry=RetryPolicy(max_retries=0), dead_letter=dead)

    @contextmanager
    def lifespan(self, slot: Slot) -> Iterator[None]:
        if os.environ.get("LIFESPAN"):
            ACTS[os.environ["LIFESPAN"]]()
        yield

    @spoil.handler
    def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()} {threading.active_count()}")
        while task.meet and len(Path(os.environ["LEDGER"]).read_text().split("start meet")) <= task.meet:
            time.sleep(0.005)
        if task.seconds:
            time.sleep(task.seconds)
        if task.do == "report":
            note(f"state {task.key} {state()}")
        else:
            ACTS[task.do]()
        if task.do == "nothing":
            note(f"end {task.key} {ctx.attempt} {os.getpid()}")

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()}")
        await asyncio.sleep(task.seconds)
        if task.do == "report":
            note(f"state {task.key} {state()}")
        else:
            ACTS[task.do]()
        if task.do == "nothing":
            note(f"end {task.key} {ctx.attempt} {os.getpid()}")
