"""Files with right checksums that say what no job can say."""

from __future__ import annotations

import json
import math
import struct
import time
import zlib
from pathlib import Path
from typing import Any

from framework.engine.spool.format import history, job_file
from framework.engine.spool.segments import format as segment_format

NOW = 1_700_000_000.0
GOOD: dict[str, Any] = {
    "id": "poison", "queue": "jobs", "enqueued_at": NOW, "not_before": None, "ttl": None, "chosen_id": False,
    "scheduled_for": None, "headers": {},
}  # fmt: skip
WRONG_NUMBERS: tuple[Any, ...] = ("soon", True, [], {}, math.nan, math.inf, -math.inf, 1e12, 1e300, 10**400, -1e18)
FIELDS: dict[str, tuple[Any, ...]] = {
    "id": (None, 7, [], {}, True),
    "queue": (None, 7, "", "../../etc", "a/b", ".", "\ud800", "Q" * 300, ["jobs"]),
    "enqueued_at": (None, -1, *WRONG_NUMBERS),
    "not_before": WRONG_NUMBERS,
    "scheduled_for": WRONG_NUMBERS,
    "ttl": (-5, *WRONG_NUMBERS),
    "chosen_id": (None, 0, "yes"),
    "headers": (None, [], "text", {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"traceparent": "\udfff"}),
}
WRONG_EXTRAS: dict[str, tuple[Any, ...]] = {
    "priority": (None, "1", 1.5, 5.0, True, False, 10, -1, 10**400, math.nan, [], {}),
    "unique_key": (None, "", 7, "x" * 300, "\ud800", [], {}), "unique_scope": (None, 7, "x" * 300),
    "group": (None, "", 7, "\udfff", {"key": "x"}), "schedule": (None, 7, ""), "tick": (None, *WRONG_NUMBERS),
    "timeout": (None, 0, -1, *WRONG_NUMBERS),
    "retry": (
        None, 3, [], {"a": None}, {"a": "1"}, {"a": math.nan}, {"a": 1e300}, {"a": {"b": 1}}, {"\ud800": 1},
        {f"n{number}": 1 for number in range(50)},
    ),
    "saved": (None, "", 7, {"a": 1}, "{", "1 2", "\ud800", "[" * 4000, '"' + "x" * 4096 + '"'),
    "fingerprint": (None, "", 7, "x" * 300), "version": (None, "", 7, 1.2, "\ud800", "x" * 300),
    "fan_in": (None, "", 7, "x", "f" * 32, f"{'f' * 32}/", f"{'F' * 32}/1", f"{'f' * 32}/1x", []),
    "ended": (
        None, "", 7, [], {"succeeded": -1}, {"succeeded": 1.0}, {"succeeded": True}, {"": 1}, {"succeeded": 10**12},
        {f"n{number}": 1 for number in range(50)},
    ),
}  # fmt: skip
NO_EXTRAS = (
    "[]", "7", "null", "{", "{]", "\"", "\x00", " {}", "NaN", "[" * 100_000,
    '{"a":' * 100_000, '{"tick":' + "9" * 5000 + "}",
)  # fmt: skip


def raw(headers: bytes, body: bytes = b'{"do":"ok"}', **fixed: int) -> bytes:
    """Return a file whose checksums are right, whatever it says.

    Args:
        fixed: of the fixed header: version, head and size (lengths in bytes), slots_at.
    """
    end = job_file.FIXED_SIZE + len(headers) + len(body)
    said = {"version": 1, "head": len(headers), "size": len(body), "slots_at": -(-end // 4096) * 4096} | fixed
    start = struct.pack(
        "<8sHHIQQ16sIII", job_file.MAGIC, said["version"], 0, said["head"], said["size"], said["slots_at"],
        b"u" * 16, zlib.crc32(headers), zlib.crc32(body), 0,
    )  # fmt: skip
    return start + struct.pack("<I", zlib.crc32(start)) + headers + body


def make_newer(path: Path) -> bytes:
    """Make a job's file one that needs a newer reader; return its bytes."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, len(job_file.MAGIC), job_file.VERSION + 1)
    struct.pack_into("<I", data, job_file.FIXED_SIZE - 4, zlib.crc32(data[: job_file.FIXED_SIZE - 4]))
    path.write_bytes(data)
    return bytes(data)


def poisons() -> dict[str, bytes]:
    """Return files that are no job, by what is wrong with them."""
    found = {
        f"{name}={value!r:.30}": raw(json.dumps(GOOD | {name: value}).encode())
        for name, values in FIELDS.items()
        for value in values
    }
    found |= {
        f"without {name}": raw(json.dumps({k: v for k, v in GOOD.items() if k != name}).encode())
        for name in ("id", "queue", "enqueued_at")  # the others may be missing: test_newer
    }
    good = json.dumps(GOOD)
    for depth in (100, 3_000, 100_000):
        found[f"nested {depth} deep"] = raw(
            good.replace('"headers": {}', '"headers": ' + '{"a":' * depth + "1" + "}" * depth).encode()
        )
        found[f"{depth} brackets"] = raw(b"[" * depth)
    found |= {
        "no object": raw(b"[]"),
        "no JSON": raw(b"\xff\xfe"),
        "an endless number": raw(good.replace(str(NOW), "9" * 5000).encode()),
        "history far away": raw(good.encode(), slots_at=2**64 - 4096),
        "history in the body": raw(good.encode(), slots_at=0),
        "no version": raw(good.encode(), version=0),
    }
    return found


def odd_jobs() -> list[bytes]:
    """Return jobs at the edge of what is possible: each runs."""
    told = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    changes: list[dict[str, Any]] = [
        {"enqueued_at": 0}, {"enqueued_at": 253402300799}, {"not_before": -62135596800}, {"ttl": 1e9},
        {"enqueued_at": 0.0, "ttl": 253402300799.0}, {"scheduled_for": 253402300799}, {"scheduled_for": -62135596800.0},
        {"id": "\x00\x1b[31m\u202e\n" * 100}, {"id": "x" * 5000}, {"id": ""}, {"id": "\ud800"},
        {"headers": {"": "", "\x00": "\x00"}},
        {"headers": {"traceparent": "00-" + "0" * 500}}, {"headers": {"traceparent": told, "tracestate": "=,=" * 9000}},
        {"headers": {"traceparent": told, "baggage": "a=%ff;" * 9000}}, {"headers": {"baggage": "é" * 100_000}},
    ]  # fmt: skip
    headers = [json.dumps(GOOD | change) for change in changes]
    headers += [json.dumps(GOOD) + json.dumps({name: values[-1]}) for name, values in WRONG_EXTRAS.items()]
    headers += [json.dumps(GOOD) + text for text in NO_EXTRAS]
    return [raw(text.encode(), json.dumps({"key": f"odd{number}."}).encode()) for number, text in enumerate(headers)]


def record(sequence: int = 0, delivery: int = 1, **fields: Any) -> bytes:
    """Return a record of an attempt with a right checksum, whatever it says."""
    said = {
        "attempt": 1, "reason": "error", "message": "", "traceback": "", "trace_id": "", "error_type": "",
        "span_id": "", "queue": "jobs", "started_at": NOW, "ended_at": NOW, "outcome": "retried",
    } | fields  # fmt: skip
    return raw_record(json.dumps(said).encode(), sequence, delivery)


def raw_record(text: bytes, sequence: int = 0, delivery: int = 1) -> bytes:
    """Return a slot with these bytes and a right checksum."""
    rest = struct.pack("<IIQ", len(text), sequence, delivery) + text
    return b"ATT1" + struct.pack("<I", zlib.crc32(rest)) + rest


def records() -> list[bytes]:
    """Return records that no attempt can have."""
    numbers = (*WRONG_NUMBERS, -1, None)
    return [
        *(record(started_at=value) for value in numbers),
        *(record(ended_at=value) for value in numbers),
        *(record(attempt=value) for value in (*numbers, 1.5, 10**30)),
        *(record(**{name: value}) for name in ("message", "reason", "trace_id", "queue") for value in (None, 7, [])),
        record(sequence=2**32 - 1), record(sequence=5), record(delivery=2**64 - 1),
        raw_record(b"[" * 4000), raw_record(b"{}"), raw_record(b"[]"), raw_record(b"\xff"),
    ]  # fmt: skip


def with_record(slot: bytes) -> bytes:
    """Return a whole job whose first record is this."""
    data = raw(json.dumps(GOOD).encode())
    return data.ljust(job_file.layout(data).slots_at, b"\0") + slot.ljust(history.SLOT, b"\0")


def plant(root: Path, place: str, data: bytes, number: int, *, said: str = "0.0", stamp: int | None = None) -> Path:
    """Put a file into a state of a queue: `jobs/ready`, `jobs/claimed/w`, `jobs/dead`."""
    made = f"{time.time_ns() - 10**10 + number if stamp is None else stamp:020d}"
    below = {"ready": f"/{made[:10]}", "delayed": "/00000000001"}.get(place.split("/")[1], "")
    directory = root / f"{place}{below}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{made}.abcdef01.{number + 1:x}.0123456789ab,{said}"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def make_newer_segment(path: Path) -> bytes:
    """Turn a segment into one that needs a newer reader; return its content."""
    data = bytearray(path.read_bytes())
    data[8] = 3
    size = segment_format._HEAD.size
    data[size : size + 4] = struct.pack("<I", zlib.crc32(data[:size]))
    path.write_bytes(bytes(data))
    return bytes(data)
