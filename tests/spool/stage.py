"""One operation as the enumerators run it: a beginning, one act, and what may be there afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EnqueueFailed, EnqueueUncertain
from framework.model.options import QueueOptions

from .seam import pass_on
from .world import JOBS, LETTERS, broker, job


@dataclass
class Stage:
    """What a case works on.

    Attributes:
        root: the directory. broker: the actor, whose system calls go through `calls`, the seam.
        stored: ids that were acknowledged before the act; each must be there once afterwards.
        held: what `prepare` left for the act.
    """

    root: Path
    broker: SpoolEngine
    calls: Any
    queues: tuple[QueueOptions, ...]
    stored: list[str] = field(default_factory=list)
    held: Any = None

    def store(self, *ids: str, **options: Any) -> None:
        """Jobs that are acknowledged."""
        self.broker.enqueue([job(job_id, **options) for job_id in ids])
        self.stored += ids

    def enqueue_in_vain(self, which: Callable[[str, Any], bool], *, after: bool = False) -> None:
        """Enqueue two jobs while the first such call fails, before it works or after. Returns when they are refused."""
        armed, failed = self.calls.hook, False

        def fail(name: str, args: Any, kwargs: Any, real: Any) -> Any:
            nonlocal failed
            fails = not failed and which(name, args)
            result = (armed or pass_on)(name, args, kwargs, real) if after or not fails else None
            if fails:
                failed = True
                raise OSError(errno.EIO, "injected")
            return result

        self.calls.hook = fail
        try:
            self.broker.enqueue([job("n"), job("m")])
        except EnqueueUncertain:
            raise
        except EnqueueFailed:
            return
        finally:
            self.calls.hook = armed
        raise EnqueueUncertain("it went elsewhere", job_id="n")


@dataclass(frozen=True)
class Case:
    """One operation.

    Attributes:
        enqueues: ids whose fate depends on what the caller is told.
        deletes: ids that may be gone afterwards, and must be when the act returned.
        refuses: ids that may be there afterwards, and must not be when the act returned.
        left: ids that a dead writer left in tmp: they may be there though the caller is told that his were not queued.
        twice: ids that are there twice, and must not be when the act returned.
        bad: files that may have been put aside.
        cancels: what it deletes is listed as cancelled.
    """

    name: str
    prepare: Callable[[Stage], None]
    act: Callable[[Stage], None]
    enqueues: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    queues: tuple[QueueOptions, ...] = (JOBS, LETTERS)
    left: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    bad: int = 0
    cancels: bool = False

    def stage(self, root: Path, calls: Any) -> Stage:
        """A stage whose broker makes its system calls through `calls`; prepared."""
        stage = Stage(root, broker(root, *self.queues, calls=calls), calls, self.queues)
        for queue in self.queues:  # the look for restored jobs is a case of its own
            stage.broker._spool.parts(queue.name).maintain._relink.done = True
        self.prepare(stage)
        return stage
