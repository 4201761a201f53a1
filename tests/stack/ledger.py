"""What ran, from the handlers' own mouth: the side that telemetry is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ran:
    """An attempt whose handler started. `ended`: it also left its handler, so it was not killed in it."""

    queue: str
    job: str
    attempt: int
    trace: str
    span: str
    pid: int
    ended: bool


def read(path: Path) -> Sequence[Ran]:
    """All attempts, in the order in which they started. ValueError where two have the same span."""
    starts, ends = [], set()
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry.pop("what") == "start":
            starts.append(entry)
        else:
            ends.add(entry["span"])
    found = [Ran(**entry, ended=entry["span"] in ends) for entry in starts]
    if len({run.span for run in found}) < len(found):
        raise ValueError(f"{path}: two attempts have the same span id")
    return found
