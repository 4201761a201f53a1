"""Image thumbnails: CPU-bound, sync, a resource made in `lifespan`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from framework import Context, Failure, Queue, Reject, RetryPolicy, Slot, WorkerApp


class Image(BaseModel):
    source: Path
    target: Path
    width: int = 256


class Shrinker:
    def shrink(self, data: bytes, width: int) -> bytes:
        return data[:width]


class UnsupportedImage(Exception):
    pass


class Thumbnails(WorkerApp):
    shrinker: Shrinker
    images = Queue[Image](
        "images",
        workers=4,
        timeout=20,
        max_memory="512MiB",
        max_jobs_per_process=1000,
        retry=RetryPolicy(max_retries=3, give_up_on=(UnsupportedImage,)),
    )

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.shrinker = Shrinker()
        with super().lifespan(slot):
            yield

    @images.handler
    def resize(self, image: Image, ctx: Context) -> None:
        if not image.source.exists():
            raise Reject("the source is gone")
        image.target.write_bytes(self.shrinker.shrink(image.source.read_bytes(), image.width))
        ctx.log.info("resized", width=image.width, remaining=ctx.remaining)

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        if failure.attempt == ctx.max_attempts and failure.exception is not None:
            ctx.log.exception("last attempt failed", error=repr(failure.exception))
