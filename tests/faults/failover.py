"""Kills the primary of a pair of PostgreSQL servers under load, promotes its replica, and so on in turn.

    ROUNDS=100 SECONDS=1800 python -m tests.faults.failover

The service has a URL with both hosts. Replication is synchronous, so what was acknowledged is on the replica; some of
the primaries do not die, but are cut off without a word. It ends after ROUNDS failovers, or after SECONDS.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.faults import report as reports
from tests.faults.load import RECOVERED, Load
from tests.faults.report import Report
from tests.proxy import Proxy
from tests.support import postgres
from tests.support.postgres import Server, Standby


class Pair(Load):
    """A primary and its replica, each behind a proxy, and a service that knows both, under load."""

    def __init__(self, place: Path, report: Report) -> None:
        self.primary = Server()
        list(postgres.migrated(self.primary))
        self.standby = Standby(self.primary)
        self.standby.follows(synchronous=True)
        self.proxies = [Proxy(self.primary.port), Proxy(self.standby.port)]
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
        self.broken: Counter[str] = Counter()
        super().__init__(place, report, f"postgresql://postgres@{hosts}/postgres")

    def round(self, *, late: float) -> None:
        """Lose the primary, promote the replica, and see the service recover; then give the new primary a replica."""
        at = next(n for n, proxy in enumerate(self.proxies) if proxy.server == self.primary.port)
        name = self.random.choice(("killed", "cut off"))
        if name == "cut off":  # nobody answers any more, as when a machine is gone
            self.proxies[at].hole()
        else:
            self.primary.stop(signal.SIGKILL)
        self.unready(name)
        time.sleep(self.random.uniform(0.0, 2.0))
        self.primary.stop(signal.SIGKILL)  # what is cut off is fenced before another takes its place
        self.standby.promote()
        self.recovery(name, late)
        self.broken[name] += 1
        lost, self.primary = self.primary, self.standby
        self.standby = Standby(self.primary)
        lost.remove()
        self.standby.follows(synchronous=True)
        self.proxies[at].server = self.standby.port
        self.proxies[at].heal()

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.heal()
        super().close()
        for proxy in self.proxies:
            proxy.close()
        for server in (self.primary, self.standby):
            server.remove()


def soak(rounds: int, seconds: float, seed: int, *, late: float = RECOVERED) -> Report:
    """Return the report of a run."""
    report = Report("failover", seed=seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place, closing(Pair(Path(place), report)) as pair:
        pair.start()
        while time.monotonic() < end and pair.broken.total() < rounds:
            pair.round(late=late)
        pair.finish()
    report.tried["failovers"] = ", ".join(f"{name} {count}" for name, count in sorted(pair.broken.items()))
    report.part = "" if pair.broken.total() >= rounds else f"{pair.broken.total()} of {rounds} failovers"
    return report


def run(budget_seconds: float) -> Report:
    """For `make faults`."""
    seconds = reports.number("SECONDS", max(20.0, budget_seconds - 15))
    return soak(int(reports.number("ROUNDS", 100)), seconds, reports.seed())


if __name__ == "__main__":
    reports.print_and_exit(run(3600))
