"""What an engine returns is sorted into what can run, what goes back, and what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framework.engine.answers import OddAnswer, are_claimed, checked, flaw_of, lost_of, rescued_by, sort_out
from framework.engine.port import Rescued
from framework.model.job import Lease, RunRecord
from tests.unit.helpers import a_lease

ONE, TWO, THREE = (a_lease(job_id=f"j{number}") for number in range(3))
QUEUES = ["jobs", "more"]


class Odd:
    """An engine whose verbs return what they are told."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def rescue(self) -> Any:
        return self.found

    def lost(self, leases: object) -> Any:
        return self.found


@pytest.mark.parametrize(
    "found",
    [
        [],
        (),
        [ONE],
        (ONE, TWO),
        [a_lease(queue="more", home="jobs")],
        [replace(ONE, previous=RunRecord(0, 1, 1, 1.0))],
        [replace(ONE, eligible_at=5)],
        [replace(ONE, token="a file"), replace(ONE, token="a copy of it")],
    ],
)
def test_what_the_contract_allows_is_claimed(found: Any) -> None:
    assert are_claimed(found, 2, QUEUES)
    assert sort_out(found, 2, QUEUES).kept == list(found)


@pytest.mark.parametrize(
    ("found", "kept", "surplus", "unknown", "said"),
    [
        (None, [], [], True, "returned None, not a sequence of leases"),
        (iter([ONE]), [], [], True, "returned an object of type list_iterator, not a sequence of leases"),
        ([ONE, TWO, THREE], [ONE, TWO], [THREE], False, "returned 3 leases where it may return 2"),
        ([ONE, None], [ONE], [], True, "returned None, which is not a Lease"),
        ([ONE, ONE], [ONE], [], False, "returned job 'j0' twice: it runs once"),
        ([a_lease(queue="x"), ONE], [ONE], [a_lease(queue="x")], False, "returned job 'j1' of 'x', which was not"),
        ([replace(ONE, delivery="1"), TWO], [TWO], [], True, "a Lease whose delivery is an object of type str"),
        ([replace(ONE, attempt=0)], [], [], True, "a Lease whose attempt is 0"),
        ([replace(ONE, job=replace(ONE.job, id=None))], [], [], True, "a Lease whose job.id is None"),
        ([replace(ONE, job=None)], [], [], True, "a Lease whose job is None"),
    ],
)
def test_what_the_contract_does_not_allow_is_sorted_out(
    found: Any, kept: list[Lease], surplus: list[Lease], unknown: bool, said: str
) -> None:
    assert not are_claimed(found, 2, QUEUES)
    made = sort_out(found, 2, QUEUES)
    assert [lease.job.id for lease in made.kept] == [lease.job.id for lease in kept]
    assert [lease.queue for lease in made.surplus] == [lease.queue for lease in surplus]
    assert made.unknown == unknown
    assert said in "; ".join(made.flaws)


def test_what_can_be_used_of_a_rescue_is_used() -> None:
    good = Rescued(ONE, "w")
    found, error = rescued_by(Odd([None, good, Rescued(None, "w")]))  # type: ignore[arg-type]
    assert found == [good]
    assert str(error) == "tests.unit.test_answers.Odd.rescue() returned None, which is not a Rescued"
    assert rescued_by(Odd([good])) == ([good], None)  # type: ignore[arg-type]
    found, error = rescued_by(Odd(None))  # type: ignore[arg-type]
    assert (found, str(error).endswith("returned None, not a sequence")) == ([], True)


def test_a_lost_lease_may_be_named_by_an_equal_one() -> None:
    assert lost_of(Odd([replace(TWO)]), [ONE, TWO]) == [TWO]  # type: ignore[arg-type]
    for odd in (None, [None], [ONE, 5]):
        with pytest.raises(OddAnswer, match=r"Odd.lost\(\) returned"):
            lost_of(Odd(odd), [ONE, TWO])  # type: ignore[arg-type]


def test_an_answer_of_another_type_names_engine_and_verb() -> None:
    assert checked(Odd(None), "stats", 5, int) == 5  # type: ignore[arg-type]
    with pytest.raises(OddAnswer, match=r"^tests.unit.test_answers.Odd.maintain\(\) returned None, not a number$"):
        checked(Odd(None), "maintain", None, (int, float))  # type: ignore[arg-type]
    assert flaw_of(ONE) == ""
