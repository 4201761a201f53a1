"""The span of an attempt that succeeded, made of facts: what spans of one kind have in common is encoded once.

A shape is one `struct` with constant bytes between the holes, so a span costs one call of `pack`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from framework.telemetry import names, wire
from framework.telemetry.facts import CHILD, LINKED, REDELIVERED, SIZE, Facts

_CONSUMER: Final = 5
_LOCAL: Final = wire.fixed32(16, wire.HAS_IS_REMOTE)
_REMOTE: Final = wire.fixed32(16, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_LINK: Final = b"\x6a\x21\x0a\x10"  # a link without attributes: 33 bytes, of which 16 are a trace id, then
_LINK_FLAGS: Final = wire.fixed32(6, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_MOST_SHAPES: Final = 4096


class Shapes:
    """Makes the spans of one slot.

    Args:
        system: messaging.system.
    """

    def __init__(self, system: str) -> None:
        self._system = system
        self._known: dict[tuple[Any, ...], _Shape] = {}

    def span(self, found: Facts, data: bytes, at: int) -> bytes:
        """The span, as it stands in a ScopeSpans. Args: found: what was read there."""
        middle = at + SIZE + found.queue_size
        queue, job_id = data[at + SIZE : middle], data[middle : middle + found.id_size]
        key = (found.flags, found.attempt, found.most, found.id_size, queue)
        shape = self._known.get(key)
        if shape is None:
            if len(self._known) == _MOST_SHAPES:
                self._known.clear()
            shape = self._known[key] = _Shape(self._system, *key)
        return shape.span(found, job_id)


class _Shape:
    """All spans that differ in ids, times and wait alone."""

    def __init__(self, system: str, flags: int, attempt: int, most: int, id_size: int, queue: bytes) -> None:
        name = queue.decode("utf-8", "replace")
        common = {
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.SYSTEM: system,
            names.DESTINATION: name,
            names.MAX_ATTEMPTS: most,
            names.ATTEMPT: attempt,
            names.REDELIVERED: bool(flags & REDELIVERED),
            names.OUTCOME: "succeeded",
        }
        static = wire.text(5, f"process {name}") + wire.number(6, _CONSUMER)
        static += wire.attributes(wire.SPAN_ATTRIBUTES, common)
        static += wire.text_prefix(wire.SPAN_ATTRIBUTES, names.MESSAGE_ID, id_size)
        wait = wire.double_prefix(wire.SPAN_ATTRIBUTES, names.QUEUE_WAIT)
        self._is_child, self._is_linked = bool(flags & CHILD), bool(flags & LINKED)
        parent: list[bytes | str] = [b"\x22\x08", "8s", _REMOTE] if self._is_child else [_LOCAL]
        link: list[bytes | str] = [_LINK, "16s", b"\x12\x08", "8s", _LINK_FLAGS] if self._is_linked else []
        parts = [b"\x0a\x10", "16s", b"\x12\x08", "8s", *parent]
        parts += [b"\x39", "Q", b"\x41", "Q", static, f"{id_size}s", wait, "d", *link]
        size = sum(len(part) if isinstance(part, bytes) else struct.calcsize(f"<{part}") for part in parts)
        self._pack, self._constants = _packer([b"\x12" + wire.varint(size), *parts])

    def span(self, found: Facts, job_id: bytes) -> bytes:
        """One of them."""
        c, started = self._constants, found.started
        ended = max(started, found.ended)
        if self._is_child:
            return self._pack(
                c[0], found.trace_id, c[1], found.span_id, c[2], found.made_by, c[3], started, c[4],
                ended, c[5], job_id, c[6], found.wait, c[7], found.made_trace, c[8], found.made_by,
                c[9],
            )  # fmt: skip
        if self._is_linked:
            return self._pack(
                c[0], found.trace_id, c[1], found.span_id, c[2], started, c[3], ended, c[4], job_id,
                c[5], found.wait, c[6], found.made_trace, c[7], found.made_by, c[8],
            )  # fmt: skip
        return self._pack(
            c[0], found.trace_id, c[1], found.span_id, c[2], started, c[3], ended, c[4], job_id,
            c[5], found.wait, c[6],
        )  # fmt: skip


def _packer(parts: list[bytes | str]) -> tuple[Callable[..., bytes], tuple[bytes, ...]]:
    """What packs constants and holes in turn, and the constants: those that follow each other are one, and the last
    one stands behind the last hole."""
    format_, constants, constant = "<", [], b""
    for part in (*parts, ""):
        if isinstance(part, bytes):
            constant += part
        else:
            format_ += f"{len(constant)}s{part}"
            constants.append(constant)
            constant = b""
    return struct.Struct(format_).pack, tuple(constants)
