"""pgqueuer on PostgreSQL. BENCH_URL: postgresql://postgres@127.0.0.1:PORT/postgres; argument `worker`: it consumes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job

from bench.children.marks import hit
from bench.children.producing import LANES, AsyncProducer, Payload, loop_factory, serve

URL = os.environ["BENCH_URL"]
ENTRYPOINT = "work"
CHUNK = 1000  # rows of an insert
BATCH = int(os.environ.get("BENCH_PG_BATCH", "200"))


class Inserts(AsyncProducer):
    """One connection for one job after the other and for bulk; a pool of 32 for 32 at once."""

    async def open(self) -> None:
        connection = await asyncpg.connect(URL)
        self._queries = Queries(AsyncpgDriver(connection))
        if not await self._queries.schema_is_installed():
            await self._queries.install()
        self._pool = await asyncpg.create_pool(URL, min_size=LANES, max_size=LANES)

    async def aput(self, item: Payload) -> None:
        await self._queries.enqueue(ENTRYPOINT, json.dumps(item).encode())

    async def _side_by_side(self, items: Sequence[Payload]) -> None:
        alone, self._queries = self._queries, Queries(AsyncpgPoolDriver(self._pool))
        try:
            await super()._side_by_side(items)
        finally:
            self._queries = alone

    def bulk(self, items: Sequence[Payload]) -> None:
        self.run(self._many(items))

    async def _many(self, items: Sequence[Payload]) -> None:
        for at in range(0, len(items), CHUNK):
            rows: list[bytes | None] = [json.dumps(item).encode() for item in items[at : at + CHUNK]]
            await self._queries.enqueue([ENTRYPOINT] * len(rows), rows, [0] * len(rows))


async def consume() -> None:
    connection = await asyncpg.connect(URL)
    queuer = PgQueuer.from_asyncpg_connection(connection)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, queuer.shutdown.set)

    @queuer.entrypoint(ENTRYPOINT)
    async def work(job: Job) -> None:
        item = json.loads(job.payload or b"{}")
        hit(item["seq"], item["sent"])

    await queuer.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=1))


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(consume())
    else:
        serve(Inserts())
