"""The writer of a ring: the process of a slot."""

from __future__ import annotations

import json
import os
import threading
from itertools import islice
from pathlib import Path
from typing import Any

from framework.telemetry.export.health import SIGNALS, Drops
from framework.telemetry.ring import facts, records, tallies
from framework.telemetry.ring.ring import (
    ATTEMPTS,
    DATA_AT,
    DROPPED,
    HEAD,
    ID_SIZE,
    KEPT,
    KEPT_AT,
    LOOK_BACK,
    LOST,
    LOST_SPANS,
    META,
    META_AT,
    MOST_KEPT,
    MOST_META,
    MOST_PROCESSES,
    PROCESSES,
    PROCESSES_AT,
    SENT,
    WRITER,
    RingFile,
)


class RingWriter(RingFile):
    """The one writer of a ring: the process of its slot. Any of its threads may write; its forked children may not.

    Args:
        meta: what the reader needs to know of this slot; the same for every process in it.
        created: when this process was created, ns since the epoch; 0: unknown.

    Attributes:
        pid: of this process; 0 in its forked children.
    """

    def __init__(self, path: Path, meta: dict[str, Any], created: int = 0) -> None:
        """Map the ring. Raises OSError or ValueError if it cannot be used."""
        super().__init__(path)
        encoded = json.dumps(meta).encode()
        if len(encoded) > MOST_META:
            raise ValueError(f"{len(encoded)} bytes of resource attributes are too many for a ring")
        self._memory[META_AT : META_AT + len(encoded)] = encoded
        self._quads[META] = len(encoded)
        self._keep_last()
        self._lock = threading.Lock()
        self.pid = os.getpid()
        self._enrol(created)
        self._position = self.head
        # A span must leave this much room for the counts of later attempts.
        self._for_spans = self.capacity - self.capacity // 8
        self._end = DATA_AT + self.capacity
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        self.pid = 0

    def _enrol(self, created: int) -> None:
        """Note this process among those of the slot, in the place of the oldest one or of one that had its pid."""
        quads, number = self._quads, self._quads[PROCESSES]
        pids = quads[PROCESSES_AT : PROCESSES_AT + 2 * MOST_PROCESSES : 2].tolist()
        same = pids.index(self.pid) if self.pid in pids else number % MOST_PROCESSES
        at = PROCESSES_AT + 2 * same
        quads[at + 1], quads[at] = created, self.pid
        quads[PROCESSES] = number + 1

    def _keep_last(self) -> None:
        """Keep the last attempts of our dead predecessor for a rescuer, because our records will overwrite theirs."""
        last = islice(self.backwards(), LOOK_BACK)
        kept = [record for record in last if record.kind in ATTEMPTS]
        for record in reversed(kept[: MOST_KEPT // 2]):
            self._keep(record.span_id)

    def _keep(self, span_id: bytes) -> None:
        at = KEPT_AT + self._quads[KEPT] % MOST_KEPT * ID_SIZE
        self._memory[at : at + ID_SIZE] = span_id
        self._quads[KEPT] += 1

    def observe(self, drops: Drops) -> None:
        """Let the exporter report this worker's slots and memory, and what it loses."""
        self._quads[WRITER] = self.pid
        drops.hand_on(self._dropped)

    def _dropped(self, signal: str, items: int) -> None:
        if self.pid:
            self._quads[DROPPED + SIGNALS.index(signal)] += items

    def success(self, record: bytes) -> None:
        """Write an attempt that succeeded. `record`: packed by `facts.packer`."""
        if not self._append(record, self._for_spans):
            counted = facts.without_span(record)
            if not self._append(counted, self.capacity):
                self._count(counted)

    def _count(self, record: bytes) -> None:
        """Count a success for which a full ring has no room.

        If the process is killed here, before its ledger says that telemetry has the attempt, its rescuer may count the
        attempt once more: two stores cannot be made one.
        """
        found = facts.unpack(record)
        key = record[facts.SIZE : facts.SIZE + found.queue_size]
        fits = self._tallies.add(tallies.WAIT, key, found.wait)
        fits = fits and self._tallies.add(tallies.DURATION, key, found.duration)
        with self._lock:
            self._quads[LOST] += not fits
            self._keep(found.span_id)
            self._quads[LOST_SPANS] += bool(found.flags & records.DROPPED)

    def settled(self, key: bytes, duration: float) -> None:
        """Count a settlement in place, or write a record where there is no room. `key`: a `records.operation_key`."""
        if self.pid and not self._tallies.add(tallies.SETTLEMENT, key, duration):
            self.operation(key, duration, 1)

    def attempt(
        self,
        key: bytes,
        duration: float,
        wait: float,
        trace_id: bytes,
        span_id: bytes,
        span: bytes,
        about: bytes = b"",
    ) -> None:
        """Write an attempt that ended.

        Args:
            span: OTLP bytes as in a ScopeSpans, empty where it is not sampled.
            about: what its process, which is dead, had said about itself; empty: it is this process.
        """
        known = (key, duration, wait, trace_id, span_id)
        kind, flag, bare = records.ATTEMPT, records.SAMPLED, b""
        if about:
            kind, flag, bare = records.RESCUED, records.RESCUED_SPAN, records.with_about(about, b"")
        if not span:
            self._put(records.pack(kind, 0, self.pid, *known, bare))
        elif not self._append(records.pack(kind, flag, self.pid, *known, bare + span), self._for_spans):
            self._put(records.pack(kind, records.DROPPED, self.pid, *known, bare), spans=1)

    def operation(self, key: bytes, duration: float, count: int) -> None:
        """Write an operation with the engine."""
        self._put(records.pack(records.OPERATION, 0, self.pid, key, duration, count))

    def cost(self, key: bytes, cpu_time: float, memory_growth: int) -> None:
        """Write what an attempt has cost. `key`: a `records.cost_key`."""
        self._put(records.pack(records.COST, 0, self.pid, key, cpu_time, memory_growth))

    def expired(self, key: bytes, count: int) -> None:
        """Write how many jobs expired and became dead letters without an attempt."""
        self._put(records.pack(records.EXPIRED, 0, self.pid, key, 0.0, count))

    def _put(self, record: bytes, *, spans: int = 0) -> None:
        """Append a record or count it as lost. `spans`: how many spans were in it."""
        if not self._append(record, self.capacity):
            with self._lock:
                self._quads[LOST] += 1
                self._quads[LOST_SPANS] += spans

    def _append(self, record: bytes, room: int) -> bool:
        """Append a record. Return False if more than `room` bytes would then wait for the reader."""
        if not self.pid:
            return True  # in a forked child nothing is written
        size, quads = len(record), self._quads
        with self._lock:
            position = self._position
            if position + size - quads[SENT] > room:
                return False
            at = position % self.capacity + DATA_AT
            end = at + size
            if end <= self._end:
                self._memory[at:end] = record
            else:
                first = self._end - at
                self._memory[at : self._end] = record[:first]
                self._memory[DATA_AT : DATA_AT + size - first] = record[first:]
            self._position = quads[HEAD] = position + size
        return True
