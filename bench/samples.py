"""What was measured: samples by system and metric, in the order of the rounds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median, quantiles

# Metrics: key → (heading, unit, whether more is better)
METRICS = {
    "single": ("enqueue", "/s", True),
    "concurrent": ("enqueue, 32 at once", "/s", True),
    "coroutines": ("enqueue, 32 coroutines", "/s", True),
    "bulk": ("enqueue, bulk", "/s", True),
    "drain1": ("drain, 1 process", "/s", True),
    "drain2": ("drain, 2 processes", "/s", True),
    "p50": ("latency p50", "ms", False),
    "p99": ("latency p99", "ms", False),
    "missing_spans": ("spans that did not arrive", "", False),
    "span_lag": ("last span after last job", "s", False),
    "drain_shallow": ("drain, backlog 1,000", "/s", True),
    "drain_deep": ("drain, deep backlog", "/s", True),
    "single_shallow": ("enqueue, backlog 1,000", "/s", True),
    "single_deep": ("enqueue, deep backlog", "/s", True),
    "first_job": ("start to first job", "s", False),
    "replaced": ("killed worker replaced", "ms", False),
    "tree8": ("memory, tree of 8 (PSS)", "MB", False),
    "worker_private": ("memory, each worker (private)", "MB", False),
    "idle8": ("idle CPU, tree of 8", "%", False),
}


@dataclass
class Samples:
    """Attributes:
    values: system → metric → samples.
    skipped: system → why it is not, or no longer, measured.
    notes: what a reader should know besides.
    """

    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, system: str, metric: str, value: float) -> None:
        """One more sample."""
        assert metric in METRICS, metric
        self.values[system][metric].append(value)

    def of(self, system: str, metric: str) -> list[float]:
        """The samples; empty if there are none."""
        return self.values.get(system, {}).get(metric, [])

    def median(self, system: str, metric: str) -> float | None:
        """None if it was not measured."""
        found = self.of(system, metric)
        return median(found) if found else None

    def note(self, text: str) -> None:
        """Once."""
        if text not in self.notes:
            self.notes.append(text)


def spread(samples: list[float]) -> float:
    """Interquartile range as a fraction of the median; the whole range where there are fewer than four."""
    middle = median(samples)
    if len(samples) < 2 or middle == 0:
        return 0.0
    low, _, high = quantiles(samples, n=4) if len(samples) > 3 else (min(samples), 0.0, max(samples))
    return abs((high - low) / middle)


def quantile(ordered: list[float], part: float) -> float:
    """Of sorted values, the nearest one above."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
