"""What a worker writes of an attempt that succeeded: facts of fixed size, of which the exporter makes OTLP (shapes.py).

They begin as every record does, so a rescuer finds the span id, and end with the queue and the job's id.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from framework.telemetry.ring import records

# Flags beside those of every record: the span is a child of the creation; it links to it; it was delivered before.
CHILD, LINKED, REDELIVERED = 4, 8, 16
# A record's head, then: start (ns), trace id and span id of the creation, number of the attempt, most attempts.
_FACTS: Final = struct.Struct(f"{records.HEAD_FORMAT}Q16s8sII")
SIZE: Final = _FACTS.size
NO_TRACE, NO_SPAN = bytes(16), bytes(8)
_MOST_PACKERS: Final = 4096  # pairs of lengths
_packers: dict[tuple[int, int], tuple[int, Callable[..., bytes]]] = {}
unpack_from = _FACTS.unpack_from


class Facts(NamedTuple):
    """What happened.

    Attributes:
        queue_size, id_size: bytes of the queue's name and of the job's id, which stand behind the facts.
        duration, wait: seconds.
        started, ended: ns since the epoch.
        made_trace, made_by: ids of the span that made the job; zeros where nobody said.
        attempt, most: number of the attempt, and how many the queue allows.
    """

    size: int
    kind: int
    flags: int
    queue_size: int
    pid: int
    id_size: int
    duration: float
    wait: float
    ended: int
    trace_id: bytes
    span_id: bytes
    started: int
    made_trace: bytes
    made_by: bytes
    attempt: int
    most: int


def packer(queue_size: int, id_size: int) -> tuple[int, Callable[..., bytes]]:
    """What packs a record of these lengths, and its size, a multiple of eight, which stands at its begin and end.

    It takes what `Facts` lists, then queue, job's id and size, and raises struct.error for a number that has no place,
    as the most attempts of a policy of more than four thousand million.
    """
    known = _packers.get((queue_size, id_size))
    if known is not None:
        return known
    bare = SIZE + queue_size + id_size + 4
    size = (bare + 7) & ~7
    found = size, struct.Struct(f"{_FACTS.format}{queue_size}s{id_size}s{size - bare}xI").pack
    if len(_packers) < _MOST_PACKERS:
        _packers[queue_size, id_size] = found
    return found


def unpack(data: bytes, at: int = 0) -> Facts:
    """The facts at a place where a record of their kind stands."""
    return Facts._make(unpack_from(data, at))


def without_span(record: bytes) -> bytes:
    """The same record where there is no room for its span: it is counted, and the span as dropped."""
    flags = record[records.FLAGS_AT]
    if not flags & records.SAMPLED:
        return record
    at = records.FLAGS_AT
    return record[:at] + bytes((flags & ~records.SAMPLED | records.DROPPED,)) + record[at + 1 :]
