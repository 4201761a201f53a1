"""Names that somebody makes up: series are bounded in number and in bytes, whatever an exception's class is called,
and no span is lost by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.model import events as e
from framework.model.text.exceptions import LONGEST_NAME, cut, error_type
from framework.telemetry import names
from framework.telemetry.export.aggregation import MOST_SERIES, Cells
from framework.telemetry.ring import records
from framework.telemetry.ring.ring import PAGE, RingReader, create, encoded
from framework.telemetry.ring.ringwriter import RingWriter
from tests.telemetry.helpers import Relay, lease_of
from tests.telemetry.rings import post, ring_station, rings_in

META = {"resource": {"service.name": "relay"}, "scope": ["s", "1"], "system": "spool"}


def raising(kind: type[BaseException]) -> Any:
    def behave(_: Any) -> None:
        raise kind

    return behave


def made_up(name: str) -> type[Exception]:
    made = type("MadeUp", (Exception,), {"__module__": "builtins"})
    made.__qualname__ = name
    return made


def test_made_up_error_types_share_one_series_when_there_are_too_many(tmp_path, receiver):
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)
    app = Relay()
    for number in range(MOST_SERIES + 50):
        app.behaviours = {"bad": raising(made_up(f"Error{number}"))}
        station.run(app, lease_of("bad"))
    station.close()
    post(tmp_path, rings).flush()
    assert receiver.value("worker.job.attempts") == MOST_SERIES + 50
    assert receiver.value("messaging.process.duration") == MOST_SERIES + 50
    shared = {"error__type": "_OTHER", "otel__metric__overflow": True, "messaging__destination__name": "deliveries"}
    assert receiver.value("messaging.process.duration", **shared) == 50
    assert receiver.value("worker.job.retries", **shared) == 50


@pytest.mark.parametrize("character", ["E", "é", "\U0001f4a5", "\x01", '"', "\udcff"])
def test_long_names_of_any_characters_leave_room_for_the_counts_and_every_span_arrives(tmp_path, receiver, character):
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)
    app = Relay()
    for number in range(3):
        app.behaviours = {"bad": raising(made_up(f"{number}{character * 5000}"))}
        station.run(app, lease_of("bad"))
    for number in range(2000):  # the same without the handler
        key = records.attempt_key("q" * 100, "retried", "retried", f"{number}{character * 5000}", "error")
        station.telemetry.tracing._ring.attempt(key, 0.1, 0.1, bytes(16), bytes(8), b"")
    station.close()
    post(tmp_path, rings).flush()
    assert len(receiver.spans("process deliveries")) == 3
    assert all(len(span.attributes["error.type"].encode()) <= LONGEST_NAME for span in receiver.spans())
    assert receiver.value("worker.job.attempts") == 2003
    assert receiver.value("messaging.process.duration") == 2003
    assert receiver.value("messaging.process.duration", otel__metric__overflow=True) > 1000


def cells_of(place: Path) -> tuple[RingWriter, Cells]:
    create(place / "0.q.m.ring")
    return RingWriter(place / "0.q.m.ring", META), Cells(RingReader(place / "0.q.m.ring"), "spool")


def test_no_number_of_queues_or_operations_outgrows_the_page(tmp_path):
    """Maintenance speaks of every queue of the store."""
    writer, cells = cells_of(tmp_path)
    for number in range(3000):
        queue = f"{number}{'é' * 95}"
        writer.operation(records.operation_key(queue, "receive", "receive"), 0.1, 1)
        writer.attempt(
            records.attempt_key(queue, "lost", "dead_lettered", "timeout", "timeout"), 1, 1, bytes(16), bytes(8), b""
        )
        writer.expired(records.operation_key(queue, "expired", "expired"), 1)
    cells.aggregate()
    for histogram in cells.histograms.values():
        histogram.counts = [10**19] * len(histogram.counts)
    cells.commit()
    by_name = {name: 0 for name, _ in cells.counters}
    for (name, _), counter in cells.counters.items():
        by_name[name] += counter.value
    assert by_name == {names.CONSUMED_MESSAGES: 3000, names.ATTEMPTS: 3000, names.DEAD_LETTERS: 6000}
    assert (names.ATTEMPTS, ((names.OVERFLOW, True),)) in cells.counters
    again = Cells(RingReader(tmp_path / "0.q.m.ring"), "spool")
    assert set(again.counters) == set(cells.counters)
    assert len(encoded(RingReader(tmp_path / "0.q.m.ring").load())) < PAGE


def test_a_state_of_another_version_costs_its_counts_and_not_the_spans(tmp_path):
    writer, cells = cells_of(tmp_path)
    writer.attempt(records.attempt_key("q", "succeeded", "succeeded", "", ""), 1, 1, bytes(16), b"s" * 8, b"span")
    cells.aggregate()
    reader = RingReader(tmp_path / "0.q.m.ring")
    reader.commit(reader.load() | {"histograms": [["worker.of_tomorrow", [], [1], 1, 1, 1]]})
    again = Cells(RingReader(tmp_path / "0.q.m.ring"), "spool")
    assert (again.histograms, again.counted) == ({}, cells.counted)


def test_a_record_that_cannot_be_counted_is_passed_and_said(tmp_path):
    writer, cells = cells_of(tmp_path)
    writer.attempt(b"no key of ours", 1, 1, bytes(16), bytes(8), b"")
    writer.operation(records.operation_key("q", "receive", "receive"), 0.1, float("nan"))  # type: ignore[arg-type]
    writer.expired(records.operation_key("q", "expired", "expired"), 1)
    assert cells.aggregate() == 3
    assert cells.dropped["metrics"] == 2
    assert [counter.value for (name, _), counter in cells.counters.items() if name == names.DEAD_LETTERS] == [1]


def test_the_type_of_an_error_is_a_short_text_whatever_its_class_does():
    class Odd(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise RuntimeError

    assert error_type(Odd("Strange", (Exception,), {})()).endswith("Strange")
    nameless = made_up("Nameless")
    nameless.__module__ = None  # type: ignore[assignment]
    assert error_type(nameless()) == "Nameless"
    assert error_type(made_up("a\udcff")()) == "a?"
    assert cut("é" * 200, 201) == "é" * 100


def test_where_the_sdk_counts_it_bounds_the_series(stations, receiver):
    station = stations()
    for number in range(2500):
        station.bus.emit(e.JobsExpired(f"queue-{number}", 1))
    station.close()
    assert receiver.value("worker.job.dead_letters") == 2500
    assert receiver.value("worker.job.dead_letters", otel__metric__overflow=True) >= 500
