"""Fixtures: a receiver, and an environment that reports to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import Receiver
from tests.telemetry.helpers import Station, station


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "WORKER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as made:
        for name, value in made.env().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[Callable[..., Station]]:
    """Makes telemetry that reports where the environment says; closes what the test left open."""
    made: list[Station] = []

    def make(**kwargs: Any) -> Station:
        made.append(station(tmp_path, name=f"out{len(made)}", **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.telemetry.shutdown(5)
