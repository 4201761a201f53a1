"""What the demo shows: progress while it runs, a summary at the end. A terminal gets a bar and tables, a pipe lines."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.example_worker.tally import DELIVERIES, DIGESTS, Spread, Tally

PLAIN_EVERY = 1.0  # seconds between lines where there is no terminal


class Screen:
    """Live progress of one run.

    Args:
        total: deliveries that there will be; None = it goes on.
    """

    def __init__(self, console: Console, tally: Tally, total: int | None) -> None:
        self._console, self._tally, self._total = console, tally, total
        self._printed, self._text = 0.0, ""
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, *, last: bool = False) -> None:
        """Shows the counts of this moment; where there is no terminal, every second and at last."""
        counts = self._tally.counts
        delivered, dead = counts[f"{DELIVERIES} succeeded"], counts[f"{DELIVERIES} dead_lettered"]
        text = (
            f"enqueued {self._tally.enqueued}  delivered {delivered}  retries {counts[f'{DELIVERIES} retried']}  "
            f"dead {dead}  open {self._tally.unsettled()}"
        )
        self._bar.update(self._task, description=text, completed=min(delivered + dead, self._total or delivered))
        now = time.monotonic()
        due = last or now - self._printed >= PLAIN_EVERY
        if not self._console.is_terminal and text != self._text and due:
            self._console.print(text, highlight=False)
            self._printed, self._text = now, text


def summary(console: Console, tally: Tally, received: dict[str, Any], elapsed: float) -> None:
    """The result of a run.

    Args:
        received: the receiver's counts.
        elapsed: seconds from the first enqueue to the last settled job.
    """
    counts = tally.counts
    delivered = counts[f"{DELIVERIES} succeeded"]
    reasons = ", ".join(f"{kind.rpartition('.')[2]} {number}" for kind, number in tally.reasons.most_common())
    rows = {
        "enqueued": f"{tally.enqueued} jobs",
        "delivered": f"{delivered}, of these {counts['delivered after a retry']} after a retry",
        "retried": f"{counts[f'{DELIVERIES} retried']} attempts" + (f" ({reasons})" if reasons else ""),
        "dead": f"{counts[f'{DELIVERIES} dead_lettered']}, reported to a person: {counts['handled']}",
        "digests": f"{counts[f'{DIGESTS} succeeded']} batches summarised",
        "throughput": f"{(delivered + counts[f'{DIGESTS} succeeded']) / elapsed:.0f} jobs/s over {elapsed:.1f} s",
    }
    if counts["lost"]:
        rows["lost"] = f"{counts['lost']} attempts died with their process and were taken up again"
    if tally.unsettled():
        rows["open"] = f"{tally.unsettled()} jobs wait in the spool for the next run"
    table = Table(title="What happened", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    for name, spread in zip(("wait", "processing"), tally.spreads(), strict=True):
        table.add_row(f"{name} p50 / p95 / p99", _milliseconds(spread))
    table.add_row("the receiver says", _receiver(received))
    console.print(table, highlight=False)


def _milliseconds(spread: Spread) -> str:
    return " / ".join(f"{value * 1000:.1f}" for value in (spread.p50, spread.p95, spread.p99)) + " ms"


def _receiver(received: dict[str, Any]) -> str:
    statuses = ", ".join(f"{status}: {number}" for status, number in sorted(received["statuses"].items()))
    return (
        f"{received['requests']} requests\n{statuses}\n{received['delivered']} deliveries taken, "
        f"{received['duplicates']} twice, {received['bad_signatures']} bad signatures"
    )
