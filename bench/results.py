"""A run as JSON, and what fell since the last one of the same machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.goals import PEERS, Goal
from bench.samples import METRICS, Samples, spread
from bench.systems.sqlite import Sqlite

DIRECTORY = Path(__file__).with_name("results")
FORMAT = 1
OTHERS = (*PEERS, Sqlite.name)
_LEAST = 0.10  # less than this is never called a fall
_DISTURBED = 0.7  # of the others' former rates: below, a fall of ours could hide
_ALONE = 0.40  # of single samples, nothing below a factor of 1.4 is resolved


def as_json(samples: Samples, goals: list[Goal], **facts: Any) -> dict[str, Any]:
    """Everything about a run."""
    return {
        "format": FORMAT,
        **facts,
        "samples": {system: dict(metrics) for system, metrics in samples.values.items()},
        "goals": [asdict(goal) | {"kill_reason": goal.kill_reason} for goal in goals],
        "skipped": samples.skipped,
        "notes": samples.notes,
    }


def store(run: Mapping[str, Any], stem: str) -> Path:
    """Writes it; gives the file."""
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"{stem}.json"
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    return path


def last(machine: str, mode: str, before: str) -> dict[str, Any] | None:
    """The newest stored run of this machine and mode before that date; none that others' work disturbed."""
    found = []
    for path in DIRECTORY.glob("*.json"):
        try:
            run = json.loads(path.read_text())
            same = (run["format"], run["machine"]["key"], run["mode"]) == (FORMAT, machine, mode)
        except (ValueError, KeyError, TypeError):
            continue
        if same and run["date"] < before and not run.get("busy"):
            found.append(run)
    return max(found, key=lambda run: str(run["date"]), default=None)


def fallen(samples: Samples, before: Mapping[str, Any]) -> list[str]:
    """One line for each figure of ours that fell by more than the noise.

    The machine itself drifts: what the others lost since then is not blamed on us.
    """
    old = before["samples"]
    drift = _drift(samples, old)
    lines = [f"compared with {before['date']}; the others' rates are {drift:.2f} × what they were then"]
    for system, metrics in samples.values.items():
        for metric, new in metrics.items() if system not in OTHERS else ():
            earlier = old.get(system, {}).get(metric)
            if not earlier or not median(earlier) or not median(new):
                continue
            heading, unit, more = METRICS[metric]
            kept = median(new) / median(earlier) if more else median(earlier) / median(new)
            noise = _noise(new, earlier)
            if kept / min(1.0, drift if unit in ("/s", "ms", "s") else 1.0) < 1 - noise:
                lines.append(
                    f"FELL  {system}: {heading}: {median(earlier):,.4g} → {median(new):,.4g} {unit} "
                    f"({kept:.2f} ×, noise {noise:.0%})"
                )
    if drift < _DISTURBED:
        return [*lines, "the machine is too disturbed for a kill reason: run it again when nothing else runs"]
    return lines if len(lines) > 1 else [*lines, "nothing of ours fell by more than the noise"]


def _noise(new: list[float], earlier: list[float]) -> float:
    if len(new) < 2 or len(earlier) < 2:
        return _ALONE
    return max(_LEAST, spread(new) + spread(earlier))


def _drift(samples: Samples, old: Mapping[str, Mapping[str, list[float]]]) -> float:
    """Median of new / old over the others' rates; 1 where there are none."""
    ratios = [
        median(new) / median(earlier)
        for system in OTHERS
        for metric, new in samples.values.get(system, {}).items()
        if METRICS[metric][1] == "/s" and (earlier := old.get(system, {}).get(metric))
    ]
    return median(ratios) if ratios else 1.0
