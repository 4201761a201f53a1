"""Cancelled jobs on a real PostgreSQL: the question that a worker asks about its leases brings the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_cancelling import (
    test_a_handler_that_does_not_look_is_interrupted,
    test_a_handler_that_ignores_all_is_killed_and_no_other_job_is_charged,
    test_a_handler_that_looks_stops_by_itself,
    test_a_job_whose_worker_is_killed_behind_the_cancellation_is_not_delivered_again,
)
from tests.process.test_postgres_trees import tree_on
from tests.support import postgres
from tests.support.tree import Tree

__all__ = [
    "test_a_handler_that_does_not_look_is_interrupted",
    "test_a_handler_that_ignores_all_is_killed_and_no_other_job_is_charged",
    "test_a_handler_that_looks_stops_by_itself",
    "test_a_job_whose_worker_is_killed_behind_the_cancellation_is_not_delivered_again",
]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    postgres.empty(postgres.shared())
    yield from tree_on(postgres.shared(), tmp_path)
