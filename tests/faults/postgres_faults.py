"""Breaks a PostgreSQL server, and the connections to it, under load, and checks what workers and producers make of it.

    ROUNDS=1000 SECONDS=3600 python -m tests.faults.postgres_faults

It ends after ROUNDS faults, or after SECONDS. ONLY_FAULTS=hole,cut names some of them.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.faults import report as reports
from tests.faults.load import RECOVERED, Load
from tests.faults.report import Report
from tests.proxy import Proxy
from tests.support import postgres

FREE = "-c statement_timeout=0 -c default_transaction_read_only=off"


class World(Load):
    """A server behind a proxy, under load."""

    def __init__(self, place: Path, report: Report) -> None:
        self.server = postgres.Server(max_connections="25")
        list(postgres.migrated(self.server))
        self.proxy = Proxy(self.server.port)
        super().__init__(place, report, self.proxy.url())

    # --- faults -----------------------------------------------------------------------------------------------------

    @contextmanager
    def control(self) -> Iterator[Any]:
        with psycopg.connect(self.server.url, autocommit=True, options=FREE) as connection:
            yield connection

    @contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """For all sessions, also those that are open."""
        with self.control() as connection:
            connection.execute(f"alter system set {name} = '{value}'")
            connection.execute("select pg_reload_conf()")
        yield
        with self.control() as connection:
            connection.execute(f"alter system reset {name}")
            connection.execute("select pg_reload_conf()")

    @contextmanager
    def killed(self) -> Iterator[None]:
        self.server.stop(signal.SIGKILL)
        yield
        self.server.start()

    @contextmanager
    def restarted(self) -> Iterator[None]:
        self.server.stop(signal.SIGINT)
        yield
        self.server.start()

    @contextmanager
    def refused_connections(self) -> Iterator[None]:
        self.proxy.refuse()
        yield
        self.proxy.heal()

    @contextmanager
    def hole(self) -> Iterator[None]:
        self.proxy.hole()
        yield
        self.proxy.heal()

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.proxy.cut(reset=self.random.random() < 0.5)
        yield

    @contextmanager
    def terminated(self) -> Iterator[None]:
        with self.control() as connection:
            self._terminate(connection)
        yield

    def _terminate(self, connection: Any) -> None:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' "
            "and pid <> pg_backend_pid()"
        )

    @contextmanager
    def too_many(self) -> Iterator[None]:
        others = []
        self.proxy.refuse()
        with self.control() as connection:
            self._terminate(connection)
            with suppress(psycopg.OperationalError):
                while True:
                    others.append(psycopg.connect(self.server.url))
        self.proxy.heal()
        yield
        for one in others:
            one.close()

    @contextmanager
    def slow(self) -> Iterator[None]:
        self.proxy.delay = 0.1
        yield
        self.proxy.delay = 0.0

    @contextmanager
    def serializable(self) -> Iterator[None]:
        with self.setting("default_transaction_isolation", "serializable"), self.terminated():
            yield

    def faults(self) -> dict[str, tuple[Callable[[], Any], bool]]:
        """By name, what breaks and mends it, and whether no verb works meanwhile."""
        return {
            "killed": (self.killed, True),
            "restarted": (self.restarted, True),
            "refused": (self.refused_connections, True),
            "hole": (self.hole, True),
            "read_only": (lambda: self.setting("default_transaction_read_only", "on"), True),
            "too_many": (self.too_many, True),
            "cut": (self.cut, False),
            "terminated": (self.terminated, False),
            "slow": (self.slow, False),
            "statement_timeout": (lambda: self.setting("statement_timeout", "1ms"), False),
            "serializable": (self.serializable, False),
        }

    # --- a round ----------------------------------------------------------------------------------------------------

    def round(self, name: str, *, late: float) -> None:
        """One fault, and the recovery from it."""
        begin, total = self.faults()[name]
        with begin():
            if total:
                self.unready(name)
            time.sleep(self.random.uniform(0.0, 1.0))
        self.recovery(name, late)

    def close(self) -> None:
        self.proxy.heal()
        super().close()
        self.proxy.close()
        self.server.stop(signal.SIGKILL)


def soak(rounds: int, seconds: float, seed: int, *, late: float = RECOVERED, only: str = "") -> Report:
    """Return the report of a run; each fault comes once before any comes again."""
    report = Report("postgres", seed=seed)
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place, closing(World(Path(place), report)) as world:
        world.start()
        names = [name for name in world.faults() if not only or name in only.split(",")]
        left: list[str] = []
        while time.monotonic() < end and counts.total() < rounds:
            left = left or world.random.sample(names, len(names))
            name = left.pop()
            world.round(name, late=late)
            counts[name] += 1
        world.finish()
    report.tried["faults"] = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    report.part = "" if counts.total() >= rounds else f"{counts.total()} of {rounds} faults"
    return report


def run(budget_seconds: float) -> Report:
    """For `make faults`."""
    seconds = reports.number("SECONDS", max(20.0, budget_seconds - 15))
    return soak(int(reports.number("ROUNDS", 1000)), seconds, reports.seed(), only=os.environ.get("ONLY_FAULTS", ""))


if __name__ == "__main__":
    reports.print_and_exit(run(3600))
