"""Protection against forks by the service's code: a forked child that returns into the framework's code ends there.

Only the parent goes on. A second worker, maintenance or supervisor would settle the same jobs, and nothing would watch
it.
"""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, Handle
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def leave_if_forked(pid: int) -> None:
    """End this process if its pid is not the one that it had before the service's code ran."""
    if os.getpid() != pid:
        os._exit(0)


@contextmanager
def parent_goes_on() -> Iterator[None]:
    """Guard a block that runs the service's code: a forked child that leaves the block ends there."""
    pid = os.getpid()
    try:
        yield
    finally:
        leave_if_forked(pid)


def end_forked_at_next_turn(loop: AbstractEventLoop) -> None:
    """End a child that a task or callback of this loop has forked before it runs the code of other jobs on the loop."""

    def end() -> None:
        ready = getattr(loop, "_ready", None)
        with suppress(RuntimeError):  # the loop is closed and does not turn any more
            if ready is not None:
                ready.appendleft(Handle(os._exit, (0,), loop))
            else:  # another implementation: what is due in the current turn still runs
                loop.call_soon(os._exit, 0)

    os.register_at_fork(after_in_child=end)
