"""The declaration of a pool: worker processes that several queues share."""

from __future__ import annotations

from framework.model.errors import DeclarationError
from framework.model.options import PoolOptions, parse_size
from framework.model.places import caller_place


class Pool:
    """Worker processes that serve all queues that name the pool. Its handlers are all async, or all sync.

    Write `light = Pool("light", concurrency=20)` beside `mails = Queue[Mail]("mails", pool=light)`.

    Args:
        name: 1 to 100 characters of `a-z 0-9 . _ -`; its processes are `light/0`, `light/1`.
        workers: processes; 0 is legal: then no worker of this service runs its queues.
        concurrency: jobs at once in one process, of all its queues together: on an event loop for async handlers, in
            threads for sync ones.
        max_jobs_per_process: a process is replaced after so many jobs.
        max_memory: a process is replaced above so much resident memory, for instance `512MiB`.

    Raises:
        DeclarationError: an option is out of its range; the message names file and line.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int = 1,
        concurrency: int = 1,
        max_jobs_per_process: int | None = None,
        max_memory: str | None = None,
    ) -> None:
        self.name, self.place = name, caller_place()
        self.attribute = self.owner = ""
        try:
            self.options = PoolOptions(
                name,
                workers=workers,
                concurrency=concurrency,
                max_jobs_per_process=max_jobs_per_process,
                max_memory=parse_size(max_memory),
            )
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{self.place}: {error}") from None

    def __set_name__(self, owner: type, attribute: str) -> None:
        if not self.attribute:
            self.attribute, self.owner = attribute, owner.__name__

    def __repr__(self) -> str:
        return f"<Pool {self.name!r}>"
