"""An import in steps, within a tenant's session: hooks of two mixins around each run, checkpoints, progress."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType

from pydantic import BaseModel

from framework import Context, Item, Queue, Running, Snooze, WorkerApp

tenant: ContextVar[str] = ContextVar("tenant")


class Import(BaseModel):
    files: list[str]


class Tenants(WorkerApp):
    @contextmanager
    def around(self, job: Running) -> Generator[None, None, None]:
        with super().around(job):
            tenant.set(job.headers.get("tenant", f"{job.queue}/{job.job_id}/{job.attempt}"))
            yield


class Session:
    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sessions(WorkerApp):
    def around(self, job: Running) -> AbstractContextManager[object]:
        return Session()

    @asynccontextmanager
    async def aaround(self, job: Running) -> AsyncGenerator[None, None]:
        async with super().aaround(job):
            yield


class Importer(Tenants, Sessions):
    imports = Queue[Import]("imports")
    fast = Queue[Import]("fast")
    bulk = Queue[Import]("bulk")

    @imports.handler
    def read(self, job: Import, ctx: Context) -> None:
        begin: int = ctx.saved or 0
        for number, file in enumerate(job.files[begin:], begin):
            ctx.progress(number, len(job.files), file)
            ctx.save(number + 1)

    @fast.handler
    async def read_fast(self, job: Import, ctx: Context) -> None:
        ctx.progress(0.5)
        await ctx.asave({"files": job.files})

    @bulk.batch_handler(size=10, wait=timedelta(milliseconds=50))
    async def read_all(self, items: Sequence[Item[Import]]) -> None:
        for item in items:
            if not item.payload.files:
                item.reject("empty")
            item.ctx.progress(1)
            item.retry("later", delay=5)
            item.fail(Snooze(delay=1))
