"""The yardstick: one row per transaction into SQLite, WAL, synchronous=FULL. No queue, only its durable write."""

from __future__ import annotations

import json
import os
import sqlite3

from bench.children.producing import Payload, Producer, serve


class Rows(Producer):
    def __init__(self) -> None:
        self._connection = sqlite3.connect(os.environ["BENCH_SQLITE"], isolation_level=None)
        self._connection.execute("pragma journal_mode=wal")
        self._connection.execute("pragma synchronous=full")
        self._connection.execute("create table if not exists job (id integer primary key, data blob not null)")

    def put(self, item: Payload) -> None:
        self._connection.execute("insert into job (data) values (?)", (json.dumps(item).encode(),))

    def close(self) -> None:
        self._connection.close()


if __name__ == "__main__":
    serve(Rows())
