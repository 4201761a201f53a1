"""Two: resources that all handlers share, opened once in each worker process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Self

import httpx

from framework import Slot
from tests.typing.services.shop.queues import ShopQueues


class Pool:
    opened = False

    @contextmanager
    def connection(self) -> Generator[None, None, None]:
        yield

    def __enter__(self) -> Self:
        self.opened = True
        return self

    def __exit__(self, *_: object) -> None:
        self.opened = False


class Resources(ShopQueues):
    db: Pool
    http: httpx.AsyncClient

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        with super().lifespan(slot), Pool() as self.db:
            yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200))
        async with super().alifespan(slot), httpx.AsyncClient(transport=transport) as self.http:
            yield
