"""The soak's own judges: each sees the broken promise that is put there, and nothing in a ledger that is in order."""

from __future__ import annotations

from pathlib import Path

from tests.faults import soak_checks
from tests.support.cluster import Facts
from tests.support.ledger import Ledger, read


def written(place: Path, *lines: str) -> Ledger:
    path = place / "ledger"
    path.write_text("".join(f"{line}\n" for line in lines))
    return read(path)


def begun(job: str, attempt: int, span: str, process: str, at: int, queue: str = "sync") -> list[str]:
    return [
        f"R {job} {queue} {attempt} {attempt} {span} {process} {at}",
        f"S {job} {queue} {attempt} trace {span} {process} {at + 1} ok",
    ]


def test_a_death_and_a_second_attempt_are_in_order(tmp_path: Path) -> None:
    ledger = written(
        tmp_path, *begun("a", 1, "s1", "7:70", 10), "H s1 15", *begun("a", 2, "s2", "8:80", 20), "E s2 30 ok"
    )
    again, broken = soak_checks.repetitions(ledger)
    assert (dict(again), broken) == ({"7:70": 1}, [])
    assert soak_checks.overlaps(ledger) == []
    assert soak_checks.charged_unstarted(ledger, {("a", "sync"): [1, 2]}) == []
    assert soak_checks.left_by_the_living(ledger, {7: ("killed", -9), 8: ("drained", 0)}) == []


def test_a_sign_of_life_after_the_next_run_began_is_an_overlap(tmp_path: Path) -> None:
    ledger = written(tmp_path, *begun("a", 1, "s1", "7:70", 10), *begun("a", 1, "s2", "8:80", 20), "H s1 25")
    assert len(soak_checks.overlaps(ledger)) == 1


def test_an_attempt_that_nobody_began_was_charged_wrongly(tmp_path: Path) -> None:
    ledger = written(tmp_path, *begun("a", 1, "s1", "7:70", 10), *begun("a", 3, "s3", "8:80", 20))
    assert "[2]" in soak_checks.charged_unstarted(ledger, {})[0]
    assert "[2, 4]" in soak_checks.charged_unstarted(ledger, {("a", "sync"): [1, 2, 3, 4]})[0]


def test_a_death_that_costs_more_than_what_ran_at_once_is_seen(tmp_path: Path) -> None:
    lines = [line for job in "ab" for line in begun(job, 1, f"1{job}", "7:70", 10)]
    lines += [line for job in "ab" for line in begun(job, 2, f"2{job}", "8:80", 20)]
    assert "2 of its runs" in soak_checks.repetitions(written(tmp_path, *lines))[1][0]


def test_a_run_that_failed_by_itself_needs_no_death(tmp_path: Path) -> None:
    ledger = written(tmp_path, *begun("a", 1, "s1", "7:70", 10), "E s1 15 ValueError", *begun("a", 2, "s2", "7:70", 20))
    assert soak_checks.repetitions(ledger) == ({}, [])


def test_a_process_in_order_leaves_nothing_unfinished(tmp_path: Path) -> None:
    ledger = written(tmp_path, *begun("a", 1, "s1", "7:70", 10))
    assert len(soak_checks.left_by_the_living(ledger, {7: ("drained", 0)})) == 1


def test_a_missing_span_is_excused_only_by_the_death_of_the_one_who_had_it(tmp_path: Path) -> None:
    [run] = written(tmp_path, *begun("a", 1, "s1", "7:70", 10)).all()
    facts = Facts(lost={"s1": [(100.0, (1, 1))]}, housekeepers=[(100.5, (2, 2)), (99.0, (1, 1)), (110.0, (1, 1))])
    assert not soak_checks.died_with_its_rescuer(run, facts)
    facts.housekeepers.append((100.05, (1, 1)))
    assert soak_checks.died_with_its_rescuer(run, facts)
