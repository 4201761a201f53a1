"""Whether a deep queue is slower than a shallow one."""

from __future__ import annotations

from bench.children.marks import Marks
from bench.measure.rounds import WARM, drain_rate
from bench.samples import Samples
from bench.sizes import Sizes
from bench.systems.ours import OFF, Ours

SHALLOW = 1_000
ORDER = 50_000  # jobs in one order: payloads are made before the clock runs, and take memory


def measure_backlog(system: Ours, marks: Marks, samples: Samples, sizes: Sizes) -> None:
    """Shallow several times, then deep once, as one deep queue takes long to fill. Raises Failed.

    Args:
        system: open, with a spool of its own, which is left with what was not drained.
    """
    for _ in range(sizes.shallow_rounds):
        marks.reset()
        system.ask("bulk", first=0, count=SHALLOW)
        answer = system.ask("single", first=SHALLOW, count=sizes.single)
        samples.add(OFF, "single_shallow", sizes.single / answer["seconds"])
        workers = system.start_workers(2)
        try:
            samples.add(OFF, "drain_shallow", drain_rate(workers, marks, 2, SHALLOW + sizes.single))
        finally:
            workers.stop()
    marks.reset()
    seconds = 0.0
    for first in range(0, sizes.backlog, ORDER):
        count = min(ORDER, sizes.backlog - first)
        seconds += system.ask("bulk", first=first, count=count, patience=300.0)["seconds"]
    samples.note(f"a backlog of {sizes.backlog:,} was enqueued in bulk at {sizes.backlog / seconds:,.0f}/s")
    for turn in range(sizes.shallow_rounds):
        answer = system.ask("single", first=sizes.backlog + turn * sizes.single, count=sizes.single)
        samples.add(OFF, "single_deep", sizes.single / answer["seconds"])
    _drain_deep(system, marks, samples, sizes)


def _drain_deep(system: Ours, marks: Marks, samples: Samples, sizes: Sizes) -> None:
    """The first jobs of the deep queue, cut into pieces as long as a shallow drain: so many samples."""
    workers = system.start_workers(2)
    try:
        first = workers.processes[0]
        first.wait_until(lambda: marks.arrived() >= 2, "both processes had their first job", patience=120)
        marks.open_gate()
        first.wait_until(lambda: marks.ran() >= sizes.window, f"{sizes.window} jobs ran", patience=120)
        times = marks.times()[: sizes.window]
    finally:
        workers.stop()
    for at in range(WARM, len(times) - SHALLOW, SHALLOW):
        samples.add(OFF, "drain_deep", SHALLOW / (times[at + SHALLOW] - times[at]) * 1e9)
