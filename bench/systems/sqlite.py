"""The yardstick of durable writes."""

from __future__ import annotations

from collections.abc import Mapping

from bench.spawn import Failed
from bench.systems.base import System, Workers


class Sqlite(System):
    """No queue: only enqueue of one row at a time."""

    name = "SQLite rows"
    configuration = "no queue: one row per transaction, WAL, synchronous=FULL"
    power = True
    producing = "bench.children.sqlite_rows"
    has_bulk = False

    def environ(self) -> Mapping[str, str]:
        return {"BENCH_SQLITE": str(self.place / "rows.db")}

    def start_workers(self, count: int) -> Workers:
        raise Failed("it has no workers")
