"""A ring that the exporter reads: its spans as OTLP, and the series of its slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from framework.telemetry.export.aggregation import SLOT, AllSeries, Cells
from framework.telemetry.ring import records, wire
from framework.telemetry.ring.facts import SIZE
from framework.telemetry.ring.ring import Corrupt, RingReader, parsed
from framework.telemetry.ring.shapes import Shapes
from framework.telemetry.sdk.resource import INSTANCE, SDK, attributes_of, of_process

BATCH_BYTES: Final = 1 << 20
_USUAL: Final = (SIZE + 64 + 7) & ~7  # bytes of a success with a queue's name and a job's id of usual length


class Source:
    """A ring that this process reads.

    Attributes:
        resource, schema: of the slot, without what belongs to one process.
        scope: name, version and schema of the scope.
        cells: the ring's counts.
        reported: the position whose counts a receiver has.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Open the ring. Raises OSError, and ValueError: no ring, or its writer has not yet written its resource."""
        self.path = path
        self.number = number
        self.ring = RingReader(path)
        meta = self.ring.meta
        if meta is None:
            self.ring.close()
            raise ValueError(f"{path}: no process has written here yet")
        self.resource: dict[str, Any] = meta["resource"]
        self.schema: str = meta.get("schema", "")  # versions before this had none
        self.scope: list[str] = meta["scope"]
        self.system: str = meta["system"]
        self.cells = Cells(self.ring, self.system)
        self.reported = -1
        self._resources: dict[int | bytes, bytes] = {}
        self._shapes = Shapes(self.system)

    def _resource_of(self, who: int | bytes) -> bytes:
        """Return the encoded resource of a process: by its pid, or by what it had said about itself to a rescuer."""
        found = self._resources.get(who)
        if found is None:
            if len(self._resources) > 100:  # the slot is in a crash loop
                self._resources.clear()
            if isinstance(who, int):
                known = {**self.resource, **of_process(who, self.ring.created_at(who))}
            else:
                encoder: dict[str, Any] = {key: self.resource[key] for key in SDK if key in self.resource}
                known = {**(attributes_of(who) or self.resource), **encoder}
            found = self._resources[who] = wire.resource_of(known, self.schema)
        return found

    def spans(self, most: int) -> tuple[bytes, int, int]:
        """Return (ResourceSpans of unsent spans, how many spans, the position after them), about `most` bytes."""
        by_process: dict[int | bytes, list[bytes]] = defaultdict(list)
        position, size, count = self.ring.sent, 0, 0
        end = min(self.cells.counted, position + 4 * BATCH_BYTES)  # limits a pass over many records without spans
        try:
            while position < end and size < most:
                for data, at, length in self.ring.walk(position, end, most=most - size):
                    position += length
                    if data[at + records.FLAGS_AT] & records.HAS_SPAN:
                        who, span = self._span(data, at)
                        by_process[who].append(span)
                        count += 1
                        size += len(span)
                        if size >= most:
                            break
        except Corrupt:
            position = self.cells.counted
        scope = wire.scope_of(*self.scope)
        joined = [
            wire.resource_spans(self._resource_of(who), scope, b"".join(found)) for who, found in by_process.items()
        ]
        return b"".join(joined), count, position

    def _span(self, data: bytes, at: int) -> tuple[int | bytes, bytes]:
        """Return (the process, the span) of a record that has a span."""
        if data[at + records.KIND_AT] == records.FACTS:
            return self._shapes.span(data, at)
        record = parsed(data, at)
        if record.kind == records.RESCUED:
            return records.about_of(record.span)
        return record.pid, record.span

    def give_up(self, position: int, count: int) -> None:
        """Give up the spans up to a position: count them as dropped, and commit that together with the position."""
        self.cells.dropped["traces"] += count
        self.cells.commit(floor=position)

    def waiting(self) -> int:
        """Return how many spans have not been sent. This walks over them: call it only when metrics are collected."""
        start, end, count = self.ring.sent, self.cells.counted, 0
        try:
            while start < end:
                before = start
                for data, at, size in self.ring.walk(start, end):
                    start += size
                    count += bool(data[at + records.FLAGS_AT] & records.HAS_SPAN)
                if start == before:
                    break
        except Corrupt:
            return count
        return count

    @property
    def room(self) -> int:
        """Return for how many spans of usual size the ring has room, before the exporter gives the oldest up."""
        return self.ring.capacity * 3 // 4 // _USUAL

    def is_drained(self, *, metrics: bool) -> bool:
        """Return whether a receiver has everything that is in the ring."""
        head = self.ring.head
        return head == self.cells.counted == self.ring.sent and (not metrics or self.reported == head)


def series_of(sources: Iterable[Source], current: Iterable[Source]) -> dict[Source, AllSeries]:
    """Return the series of each slot. What a rescuer has counted for another slot of its tree is added to that slot's.

    Attempts of other trees stay with the rescuer: that tree's exporter may write the same series.

    Args:
        current: the sources of this tree's slots.
    """
    found = {source: source.cells.series() for source in sources}
    of_slot = {source.resource.get(INSTANCE): source for source in current if source in found}
    for source in list(found):
        for number in (0, 1):
            mine: dict[Any, Any] = found[source][number]
            for key in [key for key in mine if key[1] and key[1][0][0] == SLOT]:
                name, ((_, slot), *attributes) = key
                theirs: dict[Any, Any] = found[of_slot.get(slot, source)][number]
                plain, value = (name, tuple(attributes)), mine.pop(key)
                known = theirs.get(plain)
                if known is not None:
                    value = known.with_other(value) if number else known + value
                theirs[plain] = value
    return found
