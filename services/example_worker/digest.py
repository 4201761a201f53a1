"""What a digest says about a batch of deliveries. CPU-bound: every body is parsed, hashed and sketched."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256
from typing import Any

SKETCH_BITS = 10  # 1,024 registers: a standard error of 3 %
_WORD = re.compile(r"\w+")


class BadBatch(ValueError):
    """The packed deliveries cannot be read; a second try would read the same."""


def pack(deliveries: Iterable[tuple[str, str]]) -> str:
    """(event, body) pairs as text: JSON, compressed, in base64; about a sixth of the bodies."""
    return base64.b64encode(zlib.compress(json.dumps(list(deliveries)).encode(), 6)).decode()


def unpack(packed: str, *, limit: int = 64 * 1024 * 1024) -> list[tuple[str, str]]:
    """The pairs of `pack`. Raises BadBatch, also above `limit` bytes: a small payload must not unpack to a huge one."""
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.b64decode(packed, validate=True), limit)
        if not inflate.eof:
            raise BadBatch(f"the batch is truncated, or larger than {limit} bytes unpacked")
        return [(str(event), str(body)) for event, body in json.loads(text)]
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise error if isinstance(error, BadBatch) else BadBatch(f"the batch cannot be read: {error}") from error


def summarise(deliveries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Counts by event type and repository, percentiles of size, an estimate of distinct words, and a root hash.

    The root lets the subscriber check that it received exactly these bodies in this order. Raises BadBatch where a body
    is not JSON.
    """
    events: Counter[str] = Counter()
    repositories: Counter[str] = Counter()
    sizes: list[int] = []
    leaves: list[bytes] = []
    for event, body in deliveries:
        raw = body.encode()
        events[event] += 1
        repositories[_repository(body)] += 1
        sizes.append(len(raw))
        leaves.append(sha256(raw).digest())
    sizes.sort()
    return {
        "deliveries": len(sizes),
        "events": dict(events.most_common()),
        "repositories": dict(repositories.most_common(5)),
        "bytes": {"total": sum(sizes), **{f"p{p}": percentile(sizes, p) for p in (50, 95, 99)}},
        "distinct_words": distinct(word for _, body in deliveries for word in set(_WORD.findall(body))),
        "root": merkle_root(leaves).hex(),
    }


def _repository(body: str) -> str:
    try:
        return str(json.loads(body)["repository"]["full_name"])
    except ValueError as error:
        raise BadBatch(f"a body is not JSON: {error}") from error
    except (KeyError, TypeError):  # an event about an organisation, say
        return "none"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of sorted values; 0 where there are none."""
    if not ordered:
        return 0
    rank = -(-len(ordered) * percent // 100)  # ceiling
    return ordered[max(0, int(rank) - 1)]


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root of a binary hash tree; inner nodes are marked, so a node cannot pass for a leaf. Empty: 32 zero bytes."""
    level = list(leaves) or [bytes(32)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs] + odd
    return level[0]


def distinct(items: Iterable[str]) -> int:
    """How many different items there are, by HyperLogLog: batches could be merged without keeping their words."""
    size = 1 << SKETCH_BITS
    registers = [0] * size
    for item in items:
        value = int.from_bytes(blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        register, rest = value & (size - 1), value >> SKETCH_BITS
        zeros = (64 - SKETCH_BITS) - rest.bit_length() + 1
        registers[register] = max(registers[register], zeros)
    estimate = 0.7213 / (1 + 1.079 / size) * size * size / sum(2.0**-r for r in registers)
    empty = registers.count(0)
    if estimate <= 2.5 * size and empty:  # too few items for the estimate: count the empty registers instead
        estimate = size * math.log(size / empty)
    return round(estimate)
