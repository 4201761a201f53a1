"""What the demo makes of the worker's log."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from services.example_worker.screen import Screen, summary
from services.example_worker.tally import Spread, Tally


def finished(job_id: str, outcome: str, queue: str = "deliveries", **more: object) -> str:
    entry = {"event": "job_finished", "queue": queue, "job_id": job_id, "attempt": 1, "outcome": outcome, "wait": 0.5}
    return json.dumps({**entry, "duration": 0.25, **more})


def tally(*lines: str, opened: tuple[str, ...] = ()) -> Tally:
    result = Tally("run")
    for job_id in opened:
        result.opened(job_id)
    for line in lines:
        result.line(line)
    return result


def test_a_delivery_is_open_until_it_succeeds() -> None:
    counted = tally(finished("run-1", "retried"), opened=("run-1", "run-2"))
    assert counted.unsettled() == 2
    counted.line(finished("run-1", "succeeded", attempt=2))
    counted.line(finished("run-2", "succeeded"))
    assert counted.unsettled() == 0
    assert counted.counts["deliveries succeeded"] == 2
    assert counted.counts["deliveries retried"] == 1
    assert counted.counts["delivered after a retry"] == 1


def test_a_job_may_be_done_before_its_producer_knows_that_it_is_queued() -> None:
    counted = tally(finished("run-1", "succeeded"))
    counted.opened("run-1")
    assert counted.unsettled() == 0
    assert counted.enqueued == 1


def test_a_dead_letter_is_open_until_it_is_handled() -> None:
    counted = tally(finished("run-1", "dead_lettered"), opened=("run-1",))
    assert counted.unsettled() == 1
    counted.line(finished("run-1", "archived", queue="dead-letters"))
    assert counted.unsettled() == 0
    assert counted.counts["handled"] == 1


@pytest.mark.parametrize("then", ["retried", "released", "dead_lettered"])
def test_an_attempt_whose_process_died_is_counted(then: str) -> None:
    lost = {"event": "attempt_lost", "queue": "deliveries", "job_id": "run-1", "outcome": "lost", "then": then}
    counted = tally(json.dumps(lost), opened=("run-1",))
    assert counted.counts["lost"] == 1
    assert counted.unsettled() == 1
    counted.line(finished("run-1", "archived" if then == "dead_lettered" else "succeeded"))
    assert counted.unsettled() == 0


def test_a_digest_opens_its_own_delivery() -> None:
    counted = tally(finished("run-batch-1", "succeeded", queue="digests"), opened=("run-batch-1",))
    assert counted.unsettled() == 1
    counted.line(finished("run-batch-1-digest", "succeeded"))
    assert counted.unsettled() == 0
    assert counted.enqueued == 2


@pytest.mark.parametrize(
    "line", ["", "not json", "[]", "3", '{"event": "process_started"}', '{"event": "job_finished"}', '"job_finished"']
)
def test_other_lines_are_passed_over(line: str) -> None:
    counted = tally(line, finished("earlier-1", "succeeded"), opened=("run-1",))
    assert counted.unsettled() == 1
    assert not counted.counts


def test_percentiles_are_of_attempts_at_deliveries() -> None:
    lines = [finished(f"run-{n}", "succeeded", wait=n / 100, duration=n / 1000) for n in range(1, 101)]
    digest = finished("run-batch-1", "succeeded", queue="digests", wait=1000)
    assert tally(*lines, digest).spreads() == (Spread(0.5, 0.95, 0.99), Spread(0.05, 0.095, 0.099))


def test_a_pipe_gets_plain_lines_and_the_summary_its_numbers() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    counted = tally(
        finished("run-1", "retried", **{"error.type": "framework.RetryLater"}),
        finished("run-1", "succeeded", attempt=2),
        opened=("run-1",),
    )
    with Screen(console, counted, 1) as screen:
        screen.update()
    received = {"requests": 2, "delivered": 1, "duplicates": 0, "bad_signatures": 0, "statuses": {"200": 1, "503": 1}}
    summary(console, counted, received, elapsed=0.5)
    text = out.getvalue()
    assert "enqueued 1  delivered 1  retries 1  dead 0  open 0\n" in text
    assert "1 attempts (RetryLater 1)" in text
    assert "2 jobs/s over 0.5 s" in text
    assert "500.0 / 500.0 / 500.0 ms" in text
    for part in ("2 requests", "200: 1, 503: 1", "1 deliveries taken, 0 twice, 0 bad signatures"):
        assert part in text
    assert "\x1b" not in text
