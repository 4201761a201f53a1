"""The record of an attempt that succeeded: facts of fixed size, from which the exporter makes OTLP (shapes.py).

Facts begin as every record does, so a rescuer finds the span id; the queue's name and the job's id follow them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from framework.telemetry.ring import records

# Flags beside those of every record: the span is a child of the creation; it links to it; a redelivery; costs follow
# the texts (processor seconds, bytes of memory).
CHILD, LINKED, REDELIVERED, COSTED = 4, 8, 16, 32
# The layout: a record's head, start (ns), trace id and span id of the creation, attempt number, most attempts.
_FACTS: Final = struct.Struct(f"{records.HEAD_FORMAT}Q16s8sII")
SIZE: Final = _FACTS.size
_MOST_PACKERS: Final = 4096  # pairs of lengths
COSTS: Final = struct.Struct("<dd")
_packers: dict[tuple[int, int, bool], tuple[int, Callable[..., bytes]]] = {}
unpack_from = _FACTS.unpack_from


class Facts(NamedTuple):
    """The facts of one successful attempt.

    Attributes:
        queue_size, id_size: bytes of the queue's name and of the job's id, which follow the facts.
        duration, wait: seconds.
        started, ended: ns since the epoch.
        made_trace, made_by: trace id and span id of the creation; zeros where the job carried none.
        attempt, most: the attempt's number, and how many the queue allows.
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


def packer(queue_size: int, id_size: int, costed: bool = False) -> tuple[int, Callable[..., bytes]]:
    """Return the size of a record with these lengths, a multiple of eight, and the function that packs it.

    The size stands at both ends of the record. The function takes the fields of `Facts`, then the queue's name, the
    job's id, the costs if there are any, and the size. It raises struct.error for a number that does not fit, such as
    more than four thousand million attempts in a policy.
    """
    known = _packers.get((queue_size, id_size, costed))
    if known is not None:
        return known
    bare = SIZE + queue_size + id_size + 4 + (COSTS.size if costed else 0)
    size = (bare + 7) & ~7
    found = size, struct.Struct(f"{_FACTS.format}{queue_size}s{id_size}s{'dd' if costed else ''}{size - bare}xI").pack
    if len(_packers) < _MOST_PACKERS:
        _packers[queue_size, id_size, costed] = found
    return found


def unpack(data: bytes, at: int = 0) -> Facts:
    """Return the facts that begin at `at`."""
    return Facts._make(unpack_from(data, at))


def without_span(record: bytes) -> bytes:
    """Return the record for a ring without room for its span: the attempt is counted, its span counts as dropped."""
    flags = record[records.FLAGS_AT]
    if not flags & records.SAMPLED:
        return record
    at = records.FLAGS_AT
    return record[:at] + bytes((flags & ~records.SAMPLED | records.DROPPED,)) + record[at + 1 :]
