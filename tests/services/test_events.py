from __future__ import annotations

import hashlib
import json

from services.example_worker.events import LARGEST, SMALLEST, make_event


def test_sizes_reach_from_one_to_two_hundred_kilobytes() -> None:
    sizes = [len(make_event(index).body.encode()) for index in range(600)]
    assert all(SMALLEST <= size <= LARGEST for size in sizes)
    assert min(sizes) < 1_200
    assert max(sizes) > 150_000
    # Spread over orders of magnitude: about a third in each of 1-6, 6-34 and 34-200 kB.
    assert 120 < sum(size < 5_848 for size in sizes) < 280
    assert 120 < sum(size > 34_200 for size in sizes) < 280


def test_a_seed_always_gives_the_same_bytes() -> None:
    digest = hashlib.sha256()
    for index in range(20):
        digest.update(make_event(index, seed=7).body.encode())
    # Pinned: a changed generator changes every sample, and with it what the documents say of a run.
    assert digest.hexdigest()[:16] == "8782b8f8d1985ca3"


def test_seeds_and_indices_differ() -> None:
    bodies = {make_event(index, seed=seed).body for index in range(20) for seed in (1, 2)}
    assert len(bodies) == 40


def test_bodies_are_json_with_the_common_keys() -> None:
    kinds = set()
    for index in range(100):
        event = make_event(index)
        kinds.add(event.event)
        document = json.loads(event.body)
        assert document["repository"]["full_name"].startswith("quay/")
        assert document["sender"]["login"]
        assert document.get("commits") or document.get("timeline") or len(event.body) < 3_000
    assert kinds == {"push", "pull_request", "issues", "issue_comment", "workflow_run", "release"}


def test_some_text_is_not_ascii() -> None:
    assert any(not make_event(index).body.isascii() for index in range(20))
