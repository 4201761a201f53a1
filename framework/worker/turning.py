"""The event loop of a worker: handlers can neither stop nor close it, and what they leave does not delay its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from framework.process.forks import end_forked_at_next_turn
from framework.worker.tasks import MainTask, ours, task_of_job

LEFT_BEHIND = 0.3  # seconds within which tasks and async generators that handlers left must end


def run(main: Coroutine[Any, Any, None], on_exit: Callable[[BaseException], None]) -> None:
    """Run `main` on a new loop, as `asyncio.run` does.

    Args:
        on_exit: takes a SystemExit or KeyboardInterrupt that a task or callback raised; the loop goes on.
    """
    loop = asyncio.new_event_loop()
    close = loop.close
    setattr(loop, "close", _refuse)  # noqa: B010 - a thread could close the loop in a moment when it is stopped
    try:
        asyncio.set_event_loop(loop)
        loop.set_task_factory(task_of_job)
        end_forked_at_next_turn(loop)
        task = MainTask(main, loop=loop)
        _turn(loop, task, on_exit)
        task.result()
    finally:
        try:
            if not loop.is_closed():
                _turn(loop, MainTask(_leave(loop), loop=loop), on_exit)
        finally:
            asyncio.set_event_loop(None)
            close()


def _turn(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], on_exit: Callable[[BaseException], None]) -> None:
    """Run the loop until the task is done; start it again whenever something stops it."""
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            if not task.done():
                on_exit(error)


async def _leave(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left; abandon what does not end. Do not wait for threads: closing the loop leaves them alone."""
    ours.set(True)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    left.add(loop.create_task(loop.shutdown_asyncgens()))
    await asyncio.wait(left, timeout=LEFT_BEHIND)


def _refuse() -> None:
    raise RuntimeError("this event loop is the worker's: a handler cannot close it")
