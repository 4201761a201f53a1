"""The goals, each judged by the medians of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.samples import Samples
from bench.systems.ours import OFF, TRACED
from bench.systems.peers import Celery, FastStream, HueyFsync, HueyNoFsync
from bench.systems.postgres import PgQueuer
from bench.systems.sqlite import Sqlite

PEERS = (HueyFsync.name, HueyNoFsync.name, FastStream.name, PgQueuer.name, Celery.name)


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        what: the left side; against: the right side, or the unit of a plain limit.
        value: None = could not be measured.
        spread: lowest and highest of the rounds, where there were several.
        stretch: a wish; it does not decide.
    """

    what: str
    value: float | None
    sign: str
    limit: float
    against: str
    spread: tuple[float, float] | None = None
    stretch: bool = False

    @property
    def met(self) -> bool | None:
        """None = not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.sign == "≥" else self.value <= self.limit


@dataclass(frozen=True)
class Goal:
    """A row of the list."""

    number: int
    title: str
    parts: Sequence[Part]

    @property
    def kill_reason(self) -> str:
        """met, NOT MET, or what is missing."""
        judged = [part.met for part in self.parts if not part.stretch]
        if False in judged:
            return "NOT MET"
        return "not measured" if None in judged else "met"


class _Judge:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def ratio(
        self, what: str, metric: str, limit: float, other: str, other_metric: str, *,
        ours: str = OFF, sign: str = "≥", stretch: bool = False,
    ) -> Part:  # fmt: skip
        """Ours divided by another's; the spread is that of the rounds, which were run side by side."""
        above, below = self._samples.of(ours, metric), self._samples.of(other, other_metric)
        against = f"× {other}" if other != ours or metric == other_metric else f"× its {other_metric}"
        if not above or not below or not median(below):
            return Part(what, None, sign, limit, against, stretch=stretch)
        pairs = [a / b for a, b in zip(above, below, strict=False) if b]
        ends = (min(pairs), max(pairs)) if len(pairs) > 1 else None
        return Part(what, median(above) / median(below), sign, limit, against, ends, stretch)

    def value(self, what: str, metric: str, limit: float, unit: str, *, ours: str = OFF) -> Part:
        """At most so much."""
        found = self._samples.of(ours, metric)
        ends = (min(found), max(found)) if len(found) > 1 else None
        return Part(what, median(found) if found else None, "≤", limit, unit, ends)

    def best_peer(self, what: str, metric: str) -> Part:
        """Below every peer that was measured."""
        others = {peer: found for peer in PEERS if (found := self._samples.median(peer, metric)) is not None}
        if not others:
            return Part(what, None, "≤", 1.0, "× the best peer")
        best = min(others, key=lambda peer: others[peer])
        return self.ratio(what, metric, 1.0, best, metric, sign="≤")


def judge(samples: Samples) -> list[Goal]:
    """Goals 1 to 9; 10 is about engines that do not exist yet."""
    j = _Judge(samples)
    return [
        Goal(1, "durable enqueue", [
            j.ratio("one at a time", "single", 1.0, Sqlite.name, "single"),
            j.ratio("32 threads", "concurrent", 4.0, Sqlite.name, "single"),
        ]),
        Goal(2, "durable bulk enqueue", [
            j.ratio("enqueue_many", "bulk", 8.0, HueyFsync.name, "single"),
            j.ratio("enqueue_many", "bulk", 0.5, PgQueuer.name, "bulk"),
        ]),
        Goal(3, "drain, 2 processes, telemetry off", [
            j.ratio("drain", "drain2", 1.5, FastStream.name, "drain2"),
            j.ratio("drain", "drain2", 15.0, Celery.name, "drain2"),
        ]),
        Goal(4, "drain, 2 processes, every job traced", [
            j.ratio("traced, theirs untraced", "drain2", 1.0, FastStream.name, "drain2", ours=TRACED),
            j.ratio("traced", "drain2", 0.75, OFF, "drain2", ours=TRACED),
            j.ratio("traced, the stretch", "drain2", 0.85, OFF, "drain2", ours=TRACED, stretch=True),
            j.value("spans that did not arrive", "missing_spans", 0, "spans", ours=TRACED),
        ]),
        Goal(5, "latency at 100 jobs/s", [
            j.value("p50", "p50", 1.0, "ms"),
            j.value("p99", "p99", 3.0, "ms"),
            j.best_peer("p50", "p50"),
            j.best_peer("p99", "p99"),
        ]),
        Goal(6, "deep backlog", [
            j.ratio("drain", "drain_deep", 0.8, OFF, "drain_shallow"),
            j.ratio("enqueue", "single_deep", 0.8, OFF, "single_shallow"),
        ]),
        Goal(7, "memory", [
            j.value("each further worker, private", "worker_private", 6.0, "MB"),
            j.ratio("tree of 8", "tree8", 0.3, Celery.name, "tree8", sign="≤"),
        ]),
        Goal(8, "idle tree of 8", [j.value("of one core", "idle8", 0.5, "%")]),
        Goal(9, "start and healing", [
            j.value("`worker run` to the first job", "first_job", 0.6, "s"),
            j.value("killed worker replaced", "replaced", 30.0, "ms"),
        ]),
    ]  # fmt: skip
