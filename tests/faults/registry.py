"""The fault suites, one line each. `python -m tests.faults` runs them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.report import Report


class Suite(NamedTuple):
    """A suite.

    Attributes:
        name: for ONLY=... and the summary.
        needs_root: it is skipped, and says so, for anybody else.
        run: called with its budget in seconds; gives the report.
        share: of the whole budget, relative to the others.
    """

    name: str
    needs_root: bool
    run: Callable[[float], Report]
    share: float = 1.0


def late(module: str, function: str = "run") -> Callable[[float], Report]:
    """A suite's function, imported when it is called: one that cannot be imported does not keep the others away."""

    def run(budget_seconds: float) -> Report:
        found: Callable[[float], Report] = getattr(importlib.import_module(f"tests.faults.{module}"), function)
        return found(budget_seconds)

    return run


SUITES = [
    Suite("kill_soak", False, late("kill_soak"), share=6),
    Suite("shutdown_soak", False, late("shutdown_soak"), share=3),
    Suite("telemetry_down", False, late("telemetry_down"), share=1),
    Suite("telemetry_kills", False, late("telemetry_kills"), share=2),
    Suite("black_box", False, late("black_box"), share=1),
    Suite("kill_soak_postgres", False, late("kill_soak", "run_on_postgres"), share=3),
    Suite("telemetry_kills_postgres", False, late("telemetry_kills", "run_on_postgres"), share=2),
    Suite("postgres", False, late("postgres_faults"), share=3),
    Suite("failover", False, late("failover"), share=2),
    Suite("machines", True, late("machines"), share=3),
    Suite("exactly_once", False, late("exactly_once"), share=3),
    Suite("schedules", False, late("schedules"), share=1),
    Suite("crashpoints", False, late("crashpoints"), share=1),
    Suite("powercuts", True, late("powercuts"), share=6),
    Suite("diskmodel", False, late("diskmodel"), share=3),
    Suite("explorer", False, late("explorer"), share=3),
    Suite("interleavings", False, late("interleavings"), share=2),
    Suite("resources", False, late("resources"), share=1),
    Suite("mutants", False, late("mutants"), share=5),
]
