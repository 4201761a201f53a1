"""The span of a successful attempt, made from facts. The parts that spans of one shape share are encoded once.

A shape is one `struct` with constant bytes between the variable fields, so a span costs one call of `pack`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from framework.telemetry import names
from framework.telemetry.attempts import of_queue
from framework.telemetry.ring import wire
from framework.telemetry.ring.facts import CHILD, COSTED, COSTS, LINKED, REDELIVERED, SIZE, unpack_from

_Shape = tuple[Callable[..., bytes], tuple[bytes, ...]]

CONSUMER: Final = 5
LOCAL: Final = wire.fixed32(16, wire.HAS_IS_REMOTE)
REMOTE: Final = wire.fixed32(16, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_LINK: Final = b"\x6a\x21\x0a\x10"  # the start of a link without attributes: 33 bytes, first 16 of a trace id
_LINK_FLAGS: Final = wire.fixed32(6, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_MOST_SHAPES: Final = 4096


class Shapes:
    """The maker of a slot's spans. Spans of one shape differ only in ids, times and wait.

    Args:
        system: messaging.system.name.
    """

    def __init__(self, system: str) -> None:
        self._system = system
        self._known: dict[tuple[int, int, int, int, bytes], _Shape] = {}

    def span(self, data: bytes, at: int) -> tuple[int, bytes]:
        """Return (pid of the process that ran the attempt, its span as in a ScopeSpans) for the facts at `at`."""
        head = unpack_from(data, at)
        _, _, flags, queue_size, pid, id_size, _, wait, ended, trace_id, span_id = head[:11]
        started, made_trace, made_by, attempt, most = head[11:]
        end_of_queue = at + SIZE + queue_size
        queue, job_id = data[at + SIZE : end_of_queue], data[end_of_queue : end_of_queue + id_size]
        key = (flags, attempt, most, id_size, queue)
        pack, c = self._known.get(key) or self._shape(key)
        if ended < started:  # the clock was set back
            ended = started
        if flags & COSTED:
            return pid, _costed(head, pack, c, (job_id, wait, *COSTS.unpack_from(data, end_of_queue + id_size)), ended)
        if flags & CHILD:
            return pid, pack(
                c[0], trace_id, c[1], span_id, c[2], made_by, c[3], started, c[4], ended, c[5], job_id, c[6], wait,
                c[7], made_trace, c[8], made_by, c[9],
            )  # fmt: skip
        if flags & LINKED:
            return pid, pack(
                c[0], trace_id, c[1], span_id, c[2], started, c[3], ended, c[4], job_id, c[5], wait, c[6], made_trace,
                c[7], made_by, c[8],
            )  # fmt: skip
        return pid, pack(
            c[0], trace_id, c[1], span_id, c[2], started, c[3], ended, c[4], job_id, c[5], wait, c[6]
        )  # fmt: skip

    def _shape(self, key: tuple[int, int, int, int, bytes]) -> _Shape:
        if len(self._known) == _MOST_SHAPES:
            self._known.clear()
        shape = self._known[key] = _shape_of(self._system, *key)
        return shape


def _costed(
    head: tuple[Any, ...], pack: Callable[..., bytes], constants: tuple[bytes, ...], more: tuple[Any, ...], ended: int
) -> bytes:
    """Return a span with its costs. `more`: job id, wait and costs."""
    flags, trace_id, span_id, started, made_trace, made_by = head[2], *head[9:14]
    parent, link = (made_by,) if flags & CHILD else (), (made_trace, made_by) if flags & LINKED else ()
    values = (trace_id, span_id, *parent, started, ended, *more, *link)
    return pack(*chain.from_iterable(zip(constants, values, strict=False)), constants[-1])


def _shape_of(system: str, flags: int, attempt: int, most: int, id_size: int, queue: bytes) -> _Shape:
    """Return a shape. Variable fields in order: trace id, span id, a child's parent, start, end, job id, wait, link."""
    name = queue.decode("utf-8", "replace")
    common = of_queue(system, name, most) | {
        names.ATTEMPT: attempt,
        names.REDELIVERED: bool(flags & REDELIVERED),
        names.OUTCOME: "succeeded",
    }
    static = wire.text(5, f"process {name}") + wire.number(6, CONSUMER)
    static += wire.attributes(wire.SPAN_ATTRIBUTES, common)
    static += wire.text_prefix(wire.SPAN_ATTRIBUTES, names.MESSAGE_ID, id_size)
    wait = wire.double_prefix(wire.SPAN_ATTRIBUTES, names.QUEUE_WAIT)
    parent: list[bytes | str] = [b"\x22\x08", "8s", REMOTE] if flags & CHILD else [LOCAL]
    cost: list[bytes | str] = []
    if flags & COSTED:
        memory = wire.attribute(wire.SPAN_ATTRIBUTES, names.JOB_MEMORY, 0.0)[:-8]
        cost = [wire.double_prefix(wire.SPAN_ATTRIBUTES, names.JOB_CPU_TIME), "d", memory, "d"]
    link: list[bytes | str] = [_LINK, "16s", b"\x12\x08", "8s", _LINK_FLAGS] if flags & LINKED else []
    parts = [b"\x0a\x10", "16s", b"\x12\x08", "8s", *parent]
    parts += [b"\x39", "Q", b"\x41", "Q", static, f"{id_size}s", wait, "d", *cost, *link]
    size = sum(len(part) if isinstance(part, bytes) else struct.calcsize(f"<{part}") for part in parts)
    return _packer([b"\x12" + wire.varint(size), *parts])


def _packer(parts: list[bytes | str]) -> _Shape:
    """Return a function that packs constants and variable fields in turn, and the constants.

    Adjacent constants are joined; the last constant follows the last variable field.
    """
    format_, constants, constant = "<", [], b""
    for part in (*parts, ""):
        if isinstance(part, bytes):
            constant += part
        else:
            format_ += f"{len(constant)}s{part}"
            constants.append(constant)
            constant = b""
    return struct.Struct(format_).pack, tuple(constants)
