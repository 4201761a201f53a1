"""What a queue promises about waiting."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from framework import Queue, Slo
from framework.admin.rules import burn_limit
from framework.model.errors import DeclarationError
from framework.model.options import WAIT_BOUNDS
from framework.telemetry import names
from tests.unit.helpers import FIRST, refusal


def test_a_queue_keeps_its_objective() -> None:
    assert Queue[int]("q").options.slo is None
    queue = Queue[int]("q", slo=Slo(wait=timedelta(minutes=1), target=0.999))
    assert queue.options.slo == Slo(wait=60, target=0.999)


@pytest.mark.parametrize("wait", names.LONG_BUCKETS)
def test_every_bound_of_the_waits_histogram_is_a_wait(wait: float) -> None:
    assert Slo(wait=wait, target=0.9).wait == wait


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            "Slo(wait=31, target=0.99)",
            "Slo(wait=31): must be a bound of the wait's histogram, in seconds: 0.005, ",
        ),
        ("Slo(wait=0, target=0.99)", "7.5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400"),
        ("Slo(wait=float('nan'), target=0.99)", "Slo(wait=nan): must be a bound"),
        ("Slo(wait=30, target=1)", "Slo(target=1): the share of attempts that start in time, above 0 and below 1"),
        ("Slo(wait=30, target=0)", "Slo(target=0)"),
        ("Slo(wait=30, target=99)", "for instance 0.99"),
        ("Slo(wait=30, target=float('nan'))", "Slo(target=nan)"),
        ("30", "slo=30: write slo=Slo(wait=30, target=0.99)"),
    ],
)
def test_a_wrong_objective_is_refused_at_its_line(tmp_path: Path, objective: str, said: str) -> None:
    text = refusal(
        f"""
        from framework import Slo

        class Relay(WorkerApp):
            deliveries = Queue[Delivery]("deliveries", slo={objective})
        """,
        tmp_path / "relay.py",
    )
    assert text.startswith(f"{tmp_path}/relay.py:{FIRST + 3}: ")
    assert said in text


def test_telemetry_counts_waits_by_the_bounds_that_an_objective_may_name() -> None:
    assert names.LONG_BUCKETS == WAIT_BOUNDS


def test_an_objective_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Slo(wait=30, target=0.99).wait = 60  # type: ignore[misc]
    with pytest.raises(DeclarationError):
        Slo(wait=timedelta(seconds=31), target=0.99)


@pytest.mark.parametrize("target", [0.01, 0.5, 0.9, 0.93, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize("factor", [14.4, 6.0])
def test_every_burn_alert_can_fire_and_not_before_the_budget_burns(target: float, factor: float) -> None:
    assert 1 - target < burn_limit(factor, target) < 1
    assert burn_limit(factor, 0.99) == pytest.approx(factor / 100)
