from __future__ import annotations

import base64
import hashlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.example_worker.digest import BadBatch, distinct, merkle_root, pack, percentile, summarise, unpack
from services.example_worker.events import make_event

BATCH = [(event.event, event.body) for event in (make_event(index) for index in range(12))]


@given(st.lists(st.tuples(st.text(), st.text())))
def test_unpack_undoes_pack(deliveries: list[tuple[str, str]]) -> None:
    assert unpack(pack(deliveries)) == deliveries


@pytest.mark.parametrize(
    "packed",
    ["", "not base64!", base64.b64encode(b"not zlib").decode(), pack(BATCH)[: len(pack(BATCH)) // 8 * 4],
     base64.b64encode(zlib.compress(b"not json")).decode(), base64.b64encode(zlib.compress(b"[1]")).decode()],
    ids=["empty", "base64", "zlib", "truncated", "json", "shape"],
)  # fmt: skip
def test_a_bad_batch_says_so(packed: str) -> None:
    with pytest.raises(BadBatch):
        unpack(packed)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = pack([("push", "x" * 1_000_000)])
    assert len(bomb) < 5_000
    with pytest.raises(BadBatch, match="larger than 500000 bytes"):
        unpack(bomb, limit=500_000)


def test_a_body_that_is_not_json_makes_a_bad_batch() -> None:
    with pytest.raises(BadBatch, match="a body is not JSON"):
        summarise([("push", "{")])


def test_the_summary_counts_what_was_in_the_batch() -> None:
    summary = summarise(BATCH)
    sizes = sorted(len(body.encode()) for _, body in BATCH)
    assert summary["deliveries"] == 12
    assert sum(summary["events"].values()) == 12
    assert summary["bytes"] == {"total": sum(sizes), "p50": sizes[5], "p95": sizes[11], "p99": sizes[11]}
    assert summary["events"]["push"] == sum(event == "push" for event, _ in BATCH)
    json.dumps(summary)


def test_events_without_a_repository_are_counted() -> None:
    assert summarise([("ping", "{}"), ("ping", "[]"), ("ping", '{"repository": null}')])["repositories"] == {"none": 3}


def test_the_root_tells_order_and_content() -> None:
    root = summarise(BATCH)["root"]
    assert summarise(BATCH[::-1])["root"] != root
    assert summarise([*BATCH[:-1], ("push", "{}")])["root"] != root


def test_the_root_of_three_leaves_by_hand() -> None:
    a, b, c = (hashlib.sha256(text).digest() for text in (b"a", b"b", b"c"))
    left = hashlib.sha256(b"\x01" + a + b).digest()
    assert merkle_root([a, b, c]) == hashlib.sha256(b"\x01" + left + c).digest()
    assert merkle_root([a]) == a
    assert merkle_root([]) == bytes(32)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_percentiles_are_nearest_rank(percent: float, value: int) -> None:
    assert percentile(range(1, 101), percent) == value


def test_a_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 99) == 0


@pytest.mark.parametrize("count", [0, 1, 100, 2_000, 50_000])
def test_the_sketch_is_near_the_truth(count: int) -> None:
    items = [f"word-{number}" for number in range(count)]
    estimate = distinct(items * 2)  # repetitions change nothing
    assert abs(estimate - count) <= 0.1 * count  # three standard errors
