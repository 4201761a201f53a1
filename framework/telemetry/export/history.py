"""The exporter's part of a tree's history (`framework/process/history.py`): it counts what the rings tell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from framework.process import history
from framework.process.history import Counts, Record
from framework.telemetry import names
from framework.telemetry.export.aggregation import AllSeries
from framework.telemetry.export.source import Source


class History:
    """The writer of a tree's history.

    A source counts from `begin` on: what it had counted before belongs to another time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: dict[Source, dict[str, Counts]] = {}
        self._since = time.monotonic()

    def begin(self, source: Source) -> None:
        """Take up a source before its first turn."""
        self._before[source] = counts_of(source.cells.series())

    def note(self, sources: Iterable[Source], *, last: bool = False) -> None:
        """Write what has ended since the last line, if it is time; `last`: in any case."""
        now = time.monotonic()
        if now - self._since < (0.01 if last else history.EVERY):
            return
        queues: dict[str, Counts] = {}
        before, self._before = self._before, {}
        for source in sources:
            here = self._before[source] = counts_of(source.cells.series())
            for queue, counts in here.items():
                total = queues.setdefault(queue, Counts())
                total.add(counts)
                if (known := before.get(source, here).get(queue)) is not None:
                    total.add(known, -1)
        ended = {queue: counts for queue, counts in queues.items() if counts.attempts > 0}
        with suppress(OSError):  # a full disk: the page says that it is not known
            history.append(self._path, Record(time.time(), min(now - self._since, history.HOUR), ended))
        self._since = now


def counts_of(series: AllSeries) -> dict[str, Counts]:
    """Return the attempts in these series by queue."""
    found: dict[str, Counts] = {}
    for (name, attributes), histogram in series[1].items():
        known = dict(attributes)
        queue = known.get(names.DESTINATION)
        if not isinstance(queue, str):
            continue
        counts = found.setdefault(queue, Counts())
        if name == names.PROCESS_DURATION:
            ended = sum(histogram.counts)
            failed = ended if names.ERROR_TYPE in known else 0
            counts.add(Counts(ended - failed, failed, took=histogram.counts))
        elif name == names.QUEUE_WAIT_DURATION:
            counts.add(Counts(waited=histogram.counts))
    return found
