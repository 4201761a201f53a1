"""OTLP's protobuf wire format, as far as spans need it. Bytes are joined; no message object is built.

The fields of a message may come in any order and be concatenated, so what spans share is encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

DOUBLE: Final = struct.Struct("<d")
_FIXED32: Final = struct.Struct("<I")
_FIXED64: Final = struct.Struct("<Q")

# Field numbers of opentelemetry.proto.trace.v1
SPAN_ATTRIBUTES: Final = 9
EVENT_ATTRIBUTES: Final = 3
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200


def varint(number: int) -> bytes:
    """Encode an unsigned number, seven bits per byte."""
    if number < 0x80:
        return number.to_bytes(1, "little")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def block(field: int, data: bytes) -> bytes:
    """Encode a length-delimited field: text, bytes, or a message."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """Encode a text field. What UTF-8 cannot carry is replaced: a receiver would refuse the whole batch."""
    return block(field, value.encode("utf-8", "replace"))


def number(field: int, value: int) -> bytes:
    """Encode a varint field; empty for zero, which is the default."""
    return varint(field << 3) + varint(value) if value else b""


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + _FIXED32.pack(value)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | 1) + _FIXED64.pack(value)


def any_value(value: Any) -> bytes | None:
    """Encode an AnyValue; None where OTLP cannot hold it: an integer beyond 64 bits, an unknown type."""
    match value:
        case str():
            return text(1, value)
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF) if -(2**63) <= value < 2**63 else None
        case float():
            return b"\x21" + DOUBLE.pack(value)
        case bytes():
            return block(7, value)
        case Mapping():
            return block(6, b"".join(attribute(1, str(key), item) for key, item in value.items()))
        case Sequence():
            return block(5, b"".join(block(1, any_value(item) or b"") for item in value))
        case None:
            return b""
        case _:
            return None


def attribute(field: int, key: str, value: Any) -> bytes:
    """Encode a KeyValue in a repeated field; empty where OTLP cannot hold the value."""
    encoded = any_value(value)
    return b"" if encoded is None else block(field, text(1, key) + block(2, encoded))


def attributes(field: int, values: Mapping[str, Any]) -> bytes:
    """Encode all attributes of a mapping."""
    return b"".join(attribute(field, key, value) for key, value in values.items())


def text_prefix(field: int, key: str, length: int) -> bytes:
    """Encode a KeyValue without the text of `length` bytes that ends it."""
    value = varint(1 << 3 | 2) + varint(length)
    head = text(1, key) + varint(2 << 3 | 2) + varint(len(value) + length) + value
    return varint(field << 3 | 2) + varint(len(head) + length) + head


def double_prefix(field: int, key: str) -> bytes:
    """Encode a KeyValue without the eight bytes of the double that ends it."""
    return attribute(field, key, 0.0)[:-8]


def link(trace_id: bytes, span_id: bytes, *, remote: bool, values: bytes = b"") -> bytes:
    """Encode a Link of a span. `values`: its attributes, encoded as field 4, and their dropped count as field 5."""
    flags = HAS_IS_REMOTE | (IS_REMOTE if remote else 0)
    return block(13, block(1, trace_id) + block(2, span_id) + values + fixed32(6, flags))


def status(code: int, message: str) -> bytes:
    """Encode the Status of a span: 0 unset, 1 ok, 2 error."""
    return block(15, (text(2, message) if message else b"") + number(3, code)) if code else b""


def resource_spans(resource: bytes, scope: bytes, spans: bytes) -> bytes:
    """Encode a ResourceSpans in an ExportTraceServiceRequest. `spans`: results of `span_block`, joined."""
    return block(1, resource + block(2, scope + spans))


def resource_of(values: Mapping[str, Any], schema: str) -> bytes:
    """Encode the Resource field and the schema URL of a ResourceSpans."""
    return block(1, attributes(1, values)) + _schema(schema)


def scope_of(name: str, version: str = "", schema: str = "") -> bytes:
    """Encode the InstrumentationScope field and the schema URL of a ScopeSpans."""
    return block(1, text(1, name) + (text(2, version) if version else b"")) + _schema(schema)


def _schema(url: str) -> bytes:
    return text(3, url) if url else b""


def span_block(span: bytes) -> bytes:
    """Encode a span as a field of a ScopeSpans."""
    size = len(span)
    if 128 <= size < 16384:
        return b"\x12%c%c%b" % (size & 0x7F | 0x80, size >> 7, span)
    return b"\x12" + varint(size) + span
