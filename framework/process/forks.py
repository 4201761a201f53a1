"""The service's code may fork, and the child may come back into ours. There only the parent goes on: a second worker,
maintenance or supervisor would settle the same jobs, and nobody would watch it."""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, Handle
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def leave_if_forked(pid: int) -> None:
    """End this process unless it has the pid that it had before the service's code ran."""
    if os.getpid() != pid:
        os._exit(0)


@contextmanager
def parent_goes_on() -> Iterator[None]:
    """Run the service's code in here: a child that leaves it, by a return or an exception, ends."""
    pid = os.getpid()
    try:
        yield
    finally:
        leave_if_forked(pid)


def end_forked_at_next_turn(loop: AbstractEventLoop) -> None:
    """Let a child that a task or callback of this loop has forked end before it runs anything else of the loop: the
    code of other jobs is due there, too."""

    def end() -> None:
        ready = getattr(loop, "_ready", None)
        with suppress(RuntimeError):  # closed: it turns no more
            if ready is not None:
                ready.appendleft(Handle(os._exit, (0,), loop))
            else:  # another implementation: what is due in this very turn still runs
                loop.call_soon(os._exit, 0)

    os.register_at_fork(after_in_child=end)
