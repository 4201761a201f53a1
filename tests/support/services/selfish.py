"""Services whose handlers take the loop or the process for their own. For test_selfish.py and test_leaving.py."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from framework import Context, Failure, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.ledger import note
from tests.unit.test_exceptions import ODD

ONCE = RetryPolicy(max_retries=0)


async def leave_soon(error: BaseException) -> None:
    await asyncio.sleep(0.1)
    raise error


async def cancel(*, all_but_me: bool) -> None:
    mine = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is not mine or not all_but_me:
            task.cancel()
    await asyncio.sleep(0.1)


class Neighbours(WorkerApp):
    """Each key but `n…` does what would end its neighbours, were the loop its own."""

    many = Queue[str]("many", timeout=20, concurrency=20, retry=ONCE)

    @many.handler
    async def work(self, key: str, ctx: Context) -> None:
        note(f"start {key} {os.getpid()}")
        self.ctx = ctx
        await getattr(self, key, self.innocent)()
        note(f"end {key} {os.getpid()}")

    async def innocent(self) -> None:
        async with asyncio.TaskGroup() as group:  # tasks of its own, to be cancelled as well
            group.create_task(asyncio.sleep(1.5))
            group.create_task(asyncio.sleep(1.5))

    async def gather(self) -> None:
        await asyncio.gather(leave_soon(SystemExit(2)), asyncio.sleep(1))

    async def zero(self) -> None:
        await asyncio.wait_for(leave_soon(SystemExit(0)), 5)

    async def group(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave_soon(KeyboardInterrupt()))

    async def callback(self) -> None:
        asyncio.get_running_loop().call_later(0.1, sys.exit, 5)
        await asyncio.sleep(0.5)

    async def unheard(self) -> None:
        task = asyncio.create_task(leave_soon(SystemExit(6)))
        await asyncio.sleep(0.5)
        note(f"unheard {task.done()}")

    async def thread(self) -> None:
        await asyncio.to_thread(sys.exit, 4)

    async def cancels_all(self) -> None:
        await cancel(all_but_me=False)

    async def cancels_while_leaving(self) -> None:
        while not self.ctx.should_stop:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await cancel(all_but_me=False)

    async def cancels_others(self) -> None:
        await cancel(all_but_me=True)
        raise ValueError("that was not nice")

    async def cancels_in_thread(self) -> None:
        loop = asyncio.get_running_loop()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.to_thread(loop.call_soon_threadsafe, task.cancel)
        await asyncio.sleep(0.1)
        raise ValueError("nor was that")

    async def cancels_in_bare_thread(self) -> None:
        loop = asyncio.get_running_loop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        thread = threading.Thread(target=lambda: [loop.call_soon_threadsafe(task.cancel) for task in others])
        thread.start()
        thread.join()
        await asyncio.sleep(0.1)
        raise ValueError("nor this")

    async def forgets_alarm(self) -> None:
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.signal(signal.SIGALRM, before)
        await asyncio.sleep(0.4)
        raise ValueError("nobody was woken")

    async def stops(self) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.1)
        raise ValueError("went on")

    async def closes(self) -> None:
        loop = asyncio.get_running_loop()

        def close() -> None:
            for _ in range(200):
                loop.call_soon_threadsafe(loop.stop)
                for _ in range(100):
                    try:
                        loop.close()
                    except RuntimeError:
                        continue
                    note("closed")
                time.sleep(0.001)

        await asyncio.to_thread(close)
        raise ValueError("closed nothing")


class Leftovers(WorkerApp):
    jobs = Queue[str]("jobs", timeout=20, concurrency=5, retry=ONCE)
    single = Queue[str]("single", timeout=20, max_jobs_per_process=1, retry=ONCE)

    def __init__(self) -> None:
        self.kept: list[object] = []

    @jobs.handler
    async def work(self, key: str) -> None:
        if key == "task":
            self.kept.append(asyncio.create_task(self.stubborn()))
            await asyncio.sleep(0)
        elif key == "generator":
            kept = self.slow_to_close()
            await anext(kept)
            self.kept.append(kept)
        elif key == "thread":
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
        note(f"end {key}")

    async def stubborn(self) -> None:
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                note("swallowed")

    async def slow_to_close(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(600)

    @single.handler
    async def work_alone(self, key: str) -> None:
        self.kept.append(asyncio.create_task(self.stubborn()))
        threading.Thread(target=time.sleep, args=(600,)).start()
        ThreadPoolExecutor(1).submit(time.sleep, 600)
        atexit.register(time.sleep, 600)
        note(f"end {key}")


@atexit.register
def of_whom_it_registered() -> None:
    if "LEDGER" in os.environ:
        note(f"imported {os.getpid()}")


class Hooks(WorkerApp):
    jobs = Queue[str]("jobs", timeout=20, retry=ONCE)
    pool = ThreadPoolExecutor(2)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.place = tempfile.TemporaryDirectory()
        note(f"place {self.place.name}")
        atexit.register(note, f"atexit {os.getpid()}")
        yield
        note("closed")

    @jobs.handler
    def work(self, key: str) -> None:
        threading.Thread(target=self.later, args=("thread",)).start()
        self.pool.submit(self.later, "pool")
        note(f"end {key}")

    def later(self, what: str) -> None:
        while not os.path.exists(os.environ["LEDGER"] + ".go"):
            time.sleep(0.01)
        note(f"later {what}")


STATUS = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]


def inherited(where: str) -> None:
    out = subprocess.run(STATUS, capture_output=True, text=True, check=True).stdout
    note(f"run {where} {os.getpid()} {out.split()}")
    out = subprocess.run(STATUS, capture_output=True, text=True, check=True, restore_signals=False).stdout
    note(f"run {where} {os.getpid()} {out.split()}")


class Children(WorkerApp):
    """What its subprocesses inherit."""

    sync = Queue[str]("sync", retry=ONCE)
    asy = Queue[str]("asy", concurrency=2, retry=ONCE)

    def __init__(self) -> None:
        self.in_thread(lambda: inherited("init"))

    def in_thread(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.in_thread(lambda: inherited("lifespan"))
        yield

    @sync.handler
    def work(self, key: str) -> None:
        inherited("sync")
        self.in_thread(lambda: inherited("sync-thread"))
        if os.fork() == 0:
            os.execvp(
                "sh",
                [
                    "sh",
                    "-c",
                    f"echo run forked {os.getppid()} $({' '.join(STATUS[:1])} 'Sig[BI][lg]' {STATUS[-1]}) >> $LEDGER",
                ],
            )
        os.wait()
        note("end sync")

    @asy.handler
    async def work_async(self, key: str) -> None:
        inherited("asy")
        await asyncio.to_thread(inherited, "asy-thread")
        process = await asyncio.create_subprocess_exec("sleep", "600")
        process.send_signal(2)
        note(f"end asy {await process.wait()}")

    def on_failure(self, failure: Failure, ctx: Context) -> None: ...


class Held:
    alive: weakref.WeakSet[Held] = weakref.WeakSet()

    def __init__(self) -> None:
        self.alive.add(self)


class Fails(WorkerApp):
    """Says how much of earlier attempts is still held; and tells its reporter, which is async."""

    sync = Queue[str]("sync", kill_after=1, retry=ONCE)
    many = Queue[str]("many", kill_after=1, retry=ONCE)

    @sync.handler
    def work(self, key: str) -> None:
        self.fail(key, Held())

    @many.handler
    async def work_async(self, key: str) -> None:
        held = Held()
        await asyncio.sleep(0)
        self.fail(key, held)

    def fail(self, key: str, held: Held) -> None:
        note(f"alive {len(Held.alive)}")
        if key == "abort":
            os.abort()
        error = ValueError(key)  # a cycle, as it stands in the frame that its traceback holds
        raise error

    async def on_failure(self, failure: Failure, ctx: Context) -> None:
        await asyncio.sleep(0)
        note(f"told {failure.queue} {failure.reason}")
        if failure.message == "exit":
            sys.exit(3)
        if failure.message == "hang":
            await asyncio.sleep(600)


ENDS: list[Callable[[], BaseException]] = [
    *(make for make, _ in ODD),
    lambda: SystemExit(0),
    lambda: SystemExit("text"),
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    lambda: StopIteration(5),
    lambda: BaseExceptionGroup("g", [KeyboardInterrupt(), KeyError("b")]),
    RecursionError,
    MemoryError,
    lambda: BlockingIOError(11, "again"),
]  # fmt: skip


class Odd(WorkerApp):
    """Ends with the exception of that number."""

    sync = Queue[int]("sync", timeout=20, retry=ONCE)
    many = Queue[int]("many", timeout=20, concurrency=5, retry=ONCE)

    @sync.handler
    def work(self, number: int) -> None:
        raise ENDS[number]()

    @many.handler
    async def work_async(self, number: int) -> None:
        await asyncio.sleep(0)
        raise ENDS[number]()
