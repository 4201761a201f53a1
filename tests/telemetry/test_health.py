"""What is said of a collector's trouble: once per change, for the whole tree, however many notice it."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from framework.telemetry.export import health as module
from framework.telemetry.export.health import QUIET_SECONDS, CollectorHealth, Drops, SharedState, swallowed, watched


class Heard:
    """A tree of processes that share a state and a clock, and the lines that they wrote."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[tuple[str, str]] = []
        self.shared = SharedState()

    def process(self) -> CollectorHealth:
        def say(level: str, event: str, **keys: object) -> None:
            self.lines.append((event, str(keys.get("problem", keys.get("signal")))))

        return CollectorHealth(self.shared, say, clock=lambda: self.now)

    def fail(self, process: CollectorHealth, signal: str, *, unreachable: bool = True) -> None:
        process.failed(signal, endpoint="http://c", cause="x", unreachable=unreachable)


UNREACHABLE = ("telemetry_unreachable", "cannot be reached")


def test_a_collector_that_nobody_reaches_is_one_line_for_all_signals_and_processes_however_long():
    heard = Heard()
    processes = [heard.process() for _ in range(3)]
    for _ in range(10):
        for process in processes:
            heard.fail(process, "traces")
            heard.fail(process, "metrics")
        heard.now += QUIET_SECONDS
    assert heard.lines == [UNREACHABLE]


def test_its_return_is_one_line_once_every_signal_goes_through_again():
    heard = Heard()
    one, two = heard.process(), heard.process()
    heard.fail(one, "traces")
    heard.fail(two, "metrics")
    two.worked("traces")
    assert heard.lines == [UNREACHABLE]
    one.worked("metrics")
    two.worked("metrics")
    assert heard.lines == [UNREACHABLE, ("telemetry_recovered", "metrics")]


def test_a_refusal_of_one_signal_is_said_beside_an_outage_of_another():
    heard = Heard()
    process = heard.process()
    heard.fail(process, "metrics", unreachable=False)
    heard.fail(process, "metrics", unreachable=False)
    heard.fail(process, "traces")
    process.worked("metrics")
    assert heard.lines == [
        ("telemetry_unreachable", "refuses metrics"),
        UNREACHABLE,
        ("telemetry_recovered", "metrics"),
    ]


def test_a_collector_that_comes_and_goes_is_a_pair_of_lines_a_minute_at_most():
    heard = Heard()
    process = heard.process()
    for _ in range(120):
        heard.fail(process, "traces")
        process.worked("traces")
        heard.now += 1
    assert [event for event, _ in heard.lines] == ["telemetry_unreachable", "telemetry_recovered"] * 2


class Result:
    def __init__(self, name: str) -> None:
        self.name = name


class Exporter:
    """Logs and answers as it is told; the SDK's exporters differ in both."""

    def __init__(self, answer: Any, *said: Any) -> None:
        self.answer = answer
        self.said = said
        self.swallowed: list[bool] = []

    def export(self, batch: Any) -> Any:
        for arguments in self.said:
            record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s " * len(arguments), arguments, None)
            self.swallowed.append(swallowed(record))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Unavailable:
    name = "UNAVAILABLE"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([("spans", 404, "Not Found")], "refuses traces"),
        ([("Service Unavailable", "spans", 1.03), ("spans",)], "refuses traces"),
        ([(ConnectionError("refused"), "spans", 1.03)], "cannot be reached"),
        ([(Unavailable(), "traces", 1.03)], "cannot be reached"),
        ([], "cannot be reached"),
    ],
)
def test_what_the_exporter_logs_is_swallowed_and_tells_refusal_from_outage(said, problem):
    heard, drops = Heard(), Drops()
    exporter = Exporter(Result("FAILURE"), *said)
    watched(exporter, "traces", endpoint="http://c", health=heard.process(), drops=drops)
    exporter.export(["a", "b"])
    assert heard.lines == [("telemetry_unreachable", problem)]
    assert exporter.swallowed == [True] * len(said)
    assert drops.counts() == {"traces": 2, "metrics": 0, "logs": 0}
    assert not swallowed(logging.LogRecord("x", logging.WARNING, "x", 1, "", (), None))


def test_an_exporter_that_raises_is_a_failed_export_and_nothing_more():
    heard, drops = Heard(), Drops()
    exporter = watched(Exporter(RuntimeError("no")), "logs", endpoint="http://c", health=heard.process(), drops=drops)
    exporter.export(["a"])
    assert drops.counts()["logs"] == 1
    assert len(heard.lines) == 1


def test_a_process_that_dies_with_the_lock_in_hand_silences_nobody():
    heard = Heard()
    pid = os.fork()
    if pid == 0:
        heard.shared.locked()
        os._exit(0)
    os.waitpid(pid, 0)
    heard.fail(heard.process(), "traces")
    assert heard.lines == [UNREACHABLE]


def test_where_there_is_no_memfd_a_nameless_file_is_shared(monkeypatch):
    monkeypatch.delattr(module.os, "memfd_create")
    heard = Heard()
    heard.fail(heard.process(), "traces")
    assert heard.lines == [UNREACHABLE]
