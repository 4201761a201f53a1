"""The exporter: the one process that sends the framework's own telemetry to the collector.

The main thread aggregates records into counts and never waits for the network. Each signal has a thread that sends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from framework.engine.flocks import FileLock
from framework.process.history import SUFFIX
from framework.process.scoreboard import Scoreboard
from framework.telemetry.export import points
from framework.telemetry.export.aggregation import AllSeries
from framework.telemetry.export.health import CollectorHealth
from framework.telemetry.export.history import History
from framework.telemetry.export.observed import Workers, drops_of
from framework.telemetry.export.otlp import Destination
from framework.telemetry.export.own_health import OwnHealth
from framework.telemetry.export.scrape import snapshots
from framework.telemetry.export.sender import Batch, Sender
from framework.telemetry.export.source import BATCH_BYTES, Source, series_of
from framework.telemetry.ring import records
from framework.telemetry.ring.rings import Rings, instance_is_free, number_of, readers_lock, snapshot_of

LOOK_EVERY: Final = 1.0  # seconds between checks for rings without a reader
BUSY, IDLE = 0.05, 0.25  # seconds between aggregations


class Taken(NamedTuple):
    """The spans of a source in one request, up to a position."""

    source: Source
    position: int
    spans: int


class Exporter:
    """The reader and sender of the rings of its own tree, and of trees that are gone.

    Args:
        rings: the rings of our tree; rings with other names are drained and removed.
        resource, scope, system: those of the exporter itself; the resource with its schema URL.
        traces, metrics: the destinations; None = that signal is off.
        health: logs once that the collector cannot be reached.
        span_interval, metric_interval: seconds.
    """

    def __init__(
        self,
        rings: Rings,
        *,
        resource: tuple[dict[str, Any], str],
        scope: tuple[str, str, str],
        system: str,
        traces: Destination | None,
        metrics: Destination | None,
        health: CollectorHealth,
        span_interval: float,
        metric_interval: float,
        exemplars: bool = True,
    ) -> None:
        self._run = Path(rings.run)
        self._number = rings.number
        self._history = History(self._run / f"{rings.number}{SUFFIX}")
        self._current = {rings.path(slot): slot for slot in rings.slots}
        self._workers: Workers | None = None
        self._resource, self._system, self._exemplars = resource, system, exemplars
        self._scope = scope
        self._lock = threading.Lock()  # guards sources, cells and positions
        self._sources: dict[Path, Source] = {}
        self._locks: dict[int, FileLock] = {}
        self._gone = {"traces": 0, "metrics": 0}  # dropped items of rings that were removed
        self._in_flight: Batch | None = None
        self._look_at = 0.0
        self._has_traces, self._has_metrics = traces is not None, metrics is not None
        self._own = OwnHealth({"traces": traces, "metrics": metrics})
        self._senders: list[Sender] = []
        self._spans: Sender | None = None
        sender = partial(Sender, health=health, own=self._own)
        if traces is not None:
            self._spans = sender("traces", traces, self._take_spans, interval=span_interval)
            self._senders.append(self._spans)
        if metrics is not None:
            self._senders.append(sender("metrics", metrics, self._take_metrics, interval=metric_interval))

    def observe(self, board: Scoreboard, slots: Mapping[str, tuple[int, Sequence[str]]]) -> None:
        """Report what the workers of this tree do; `slots` as for `Workers`."""
        self._workers = Workers(board, slots, self._system)

    def start(self) -> None:
        """Start the sending threads."""
        for sender in self._senders:
            sender.start()

    def turn(self) -> float:
        """Aggregate what is new; return the seconds until the next call."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            with self._lock:
                self._look()
        new, waiting = 0, 0
        for source in list(self._sources.values()):
            with self._lock:
                new += source.cells.aggregate()
                if self._has_traces:
                    self._relieve(source)
                else:
                    source.ring.set_sent(source.cells.counted)
                waiting += source.cells.counted - source.ring.sent
        with self._lock:
            self._history.note(self._sources.values())
        if self._spans is not None and waiting > BATCH_BYTES // 2:
            self._spans.nudge()
        return BUSY if new else IDLE

    def close(self, budget: float) -> None:
        """Send what is left within `budget` seconds; what remains stays in the rings, and the next tree sends it."""
        self._look_at = 0.0
        self.turn()
        with self._lock:
            self._history.note(self._sources.values(), last=True)
        deadline = time.monotonic() + budget
        for sender in self._senders:
            sender.stop(deadline)
        for sender in self._senders:
            sender.join()

    # --- which rings ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        by_number: dict[int, list[Path]] = {}
        try:
            entries = sorted(os.listdir(self._run))
        except OSError:  # moved or removed, or no descriptor left: the mapped rings are sent all the same
            entries = []
        for entry in entries:
            number = number_of(entry)
            if number is not None and entry.endswith(".ring"):
                by_number.setdefault(number, []).append(self._run / entry)
        for number, paths in by_number.items():
            lock = self._locks.setdefault(number, readers_lock(self._run, number))
            if number != self._number and not instance_is_free(self._run, number):
                self._leave(number)
            elif lock.take():
                for path in paths:
                    self._adopt(path, number)
        for source in list(self._sources.values()):
            if source.path not in self._current and source.is_drained(metrics=self._has_metrics):
                self._remove(source)

    def _adopt(self, path: Path, number: int) -> None:
        if path not in self._sources:
            try:
                source = self._sources[path] = Source(path, number)
            except (OSError, ValueError, KeyError, TypeError):  # not written yet, or another version
                return
            self._history.begin(source)

    def _leave(self, number: int) -> None:
        """Stop reading the rings of a tree that lives: it has an exporter of its own."""
        for path in [path for path, source in self._sources.items() if source.number == number]:
            self._sources.pop(path)
        lock = self._locks.pop(number, None)
        if lock is not None:
            lock.release()

    def _remove(self, source: Source) -> None:
        """Remove a ring of a tree that is gone, or of our tree with an earlier resource."""
        del self._sources[source.path]
        if source.number == self._number:
            for signal, count in source.cells.dropped.items():
                self._gone[signal] += count
        for path in (source.path, snapshot_of(source.path)):
            with suppress(OSError):
                os.unlink(path)

    # --- spans ------------------------------------------------------------------------------------------------------

    def _take_spans(self) -> Batch | None:
        taken: list[Taken] = []
        bodies: list[bytes] = []
        size = 0
        more = False
        with self._lock:
            for source in list(self._sources.values()):
                if size >= BATCH_BYTES:
                    more = True
                    break
                body, count, position = source.spans(BATCH_BYTES - size)
                more = more or position < source.cells.counted
                if not count:
                    source.ring.set_sent(position)
                    continue
                taken.append(Taken(source, position, count))
                bodies.append(body)
                size += len(body)
            # The order rotates, so that a busy slot does not delay the others.
            first = next(iter(self._sources), None)
            if first is not None:
                self._sources[first] = self._sources.pop(first)
            if not taken:
                return None
            batch = Batch(b"".join(bodies), lambda rejected: self._arrived(taken, rejected), more=more)
            batch.spans = sum(one.spans for one in taken)
            batch.refused = lambda: self._refused(taken)
            self._in_flight = batch
        return batch

    def _arrived(self, taken: list[Taken], rejected: int) -> None:
        with self._lock:
            for source, position, _ in taken:
                source.ring.set_sent(position)
            lost = min(rejected, sum(one.spans for one in taken))
            if lost > 0:
                source = taken[0].source
                source.cells.dropped["traces"] += lost
                source.cells.commit()

    def _refused(self, taken: list[Taken]) -> None:
        with self._lock:
            for source, position, count in taken:
                if position > source.ring.sent:
                    source.give_up(position, count)

    def _relieve(self, source: Source) -> None:
        """Give up the oldest spans of a ring that is three quarters full, until it is half full.

        A request on its way with them is not repeated. If it is accepted after all, its spans have arrived and are
        counted as dropped all the same.
        """
        ring = source.ring
        if ring.head - ring.sent <= ring.capacity * 3 // 4:
            return
        count, position, enough = 0, ring.sent, ring.head - ring.capacity // 2
        while position < min(enough, source.cells.counted):
            before = position
            for data, at, size in ring.walk(position, source.cells.counted, most=enough - position):
                position += size
                count += bool(data[at + records.FLAGS_AT] & records.HAS_SPAN)
            if position == before:
                break
        if self._in_flight is not None:
            self._in_flight.given_up.set()
        self._own.given_up(count)
        source.give_up(position, count)

    # --- metrics ----------------------------------------------------------------------------------------------------

    def _take_metrics(self) -> Batch | None:
        with self._lock:
            parts = self._all_points(exemplars=self._exemplars)
            positions = [(source, source.cells.counted) for source in self._sources.values()]
            for source, _ in positions:
                source.cells.forget_exemplars()
        return Batch(points.request(parts), lambda _: self._counted(positions), once=True) if parts else None

    def collect(self) -> list[ResourceMetrics]:
        """Return all metrics of the tree now, for who scrapes them."""
        self.turn()
        with self._lock:
            parts = self._all_points(exemplars=False)
        return parts + snapshots(snapshot_of(path) for path in self._current)

    def _all_points(self, *, exemplars: bool) -> list[ResourceMetrics]:
        """Return the metrics of all slots and of this process."""
        now = time.time_ns()
        self._look()  # a slot must be known before its killed attempts are sent
        sources = list(self._sources.values())
        if not sources:
            return []
        series = series_of(sources, [source for source in sources if source.path in self._current])
        parts = [part for source in sources if (part := self._points(source, series[source], now, exemplars))]
        drops, ours = dict(self._gone), [source for source in sources if source.number == self._number]
        for source in ours:
            for signal, count in source.cells.dropped.items():
                drops[signal] += count
        of_slot = partial(points.of_slot, now=now, exemplars=False)
        start = min(source.ring.created for source in sources)
        lost = drops_of(drops, self._system)
        parts.append(of_slot(({}, {}), lost, *self._resource, self._scope, start=start))
        values = self._own.values(sum(one.waiting() for one in ours), sum(one.room for one in ours))
        if values:
            own = self._own.series()
            parts.append(of_slot(own, values, *self._resource, self._scope, start=self._own.started))
        return parts

    def _points(self, source: Source, series: AllSeries, now: int, exemplars: bool) -> ResourceMetrics | None:
        observed = drops_of(source.ring.dropped, source.system) if source.ring.writer else []
        slot = self._current.get(source.path)
        if slot is not None and self._workers is not None:
            observed += self._workers.of(slot, source.ring)
        if not (any(series) or observed):
            return None
        return points.of_slot(
            series, observed, source.resource, source.schema, source.scope,
            start=source.ring.created, now=now, exemplars=exemplars,
        )  # fmt: skip

    def _counted(self, positions: list[tuple[Source, int]]) -> None:
        with self._lock:
            for source, position in positions:
                source.reported = position
