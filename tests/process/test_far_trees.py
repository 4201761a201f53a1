"""Tests of whole trees, again on an engine that is far away: a spool whose every verb takes 20 ms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.process.test_death import (
    test_a_killed_worker_is_replaced_and_its_job_is_charged,
    test_a_worker_that_aborts_is_a_dead_letter_after_its_attempts_with_each_in_its_history,
    test_one_poison_job_neither_stops_the_service_nor_costs_its_neighbours_an_attempt,
    test_unstarted_claims_of_the_dead_run_again_within_a_second_uncharged,
)
from tests.process.test_drain import (
    test_a_running_job_finishes_and_what_has_not_started_stays,
    test_handlers_are_interrupted_before_the_deadline_and_their_jobs_go_back_uncharged,
)
from tests.support.tree import Tree, trees

__all__ = [
    "test_a_killed_worker_is_replaced_and_its_job_is_charged",
    "test_a_running_job_finishes_and_what_has_not_started_stays",
    "test_a_worker_that_aborts_is_a_dead_letter_after_its_attempts_with_each_in_its_history",
    "test_handlers_are_interrupted_before_the_deadline_and_their_jobs_go_back_uncharged",
    "test_one_poison_job_neither_stops_the_service_nor_costs_its_neighbours_an_attempt",
    "test_unstarted_claims_of_the_dead_run_again_within_a_second_uncharged",
]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for tree in trees(tmp_path):
        tree.environ["WORKER_ENGINE_URL"] = f"slow:{tree.root}"
        tree.start = partial(tree.start, module="tests.support.services.engines:Torture")  # type: ignore[method-assign]
        yield tree
