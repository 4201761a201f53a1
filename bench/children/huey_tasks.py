"""Huey on SQLite. BENCH_FSYNC: 1 or 0."""

from __future__ import annotations

import os
from collections.abc import Sequence

from huey import SqliteHuey

from bench.children.marks import hit
from bench.children.producing import Payload, Producer, serve

FSYNC = os.environ["BENCH_FSYNC"] == "1"
huey = SqliteHuey(filename=os.environ["BENCH_SQLITE"], fsync=FSYNC, results=False, timeout=30)


@huey.task()
def work(item: Payload) -> None:
    hit(item["seq"], item["sent"])


class Pushes(Producer):
    def put(self, item: Payload) -> None:
        work(item)

    def bulk(self, items: Sequence[Payload]) -> None:
        """There is no way for many; filling without fsync saves time and is not reported as a figure."""
        connection = huey.storage.conn
        connection.execute("pragma synchronous=0")
        self.single(items)
        connection.execute(f"pragma synchronous={2 if FSYNC else 0}")


if __name__ == "__main__":
    from bench.children import huey_tasks

    serve(huey_tasks.Pushes())
