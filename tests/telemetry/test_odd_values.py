"""Whatever a handler hands to a log line or to its own span: the job goes on, the line and the span are there."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanContext, Status, StatusCode

from framework.model.outcome import JobInterrupted, Kind
from framework.service.settings import Settings
from framework.telemetry.logs.logs import Logs, RecordHandler
from framework.telemetry.logs.render import ConsoleRenderer, JsonRenderer
from framework.telemetry.logs.values import attributes_of, text_of, time_of, value_of
from framework.telemetry.logs.writer import LineWriter
from tests.telemetry.helpers import AsyncRelay, Relay, lease_of
from tests.telemetry.rings import post, ring_station, rings_in


class Broken:
    """Nothing about it works."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error.with_traceback(None)

    def __format__(self, spec: str) -> str:
        raise self.error.with_traceback(None)


class Classless:
    @property
    def __class__(self) -> Any:
        raise SystemExit


class BrokenDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")


class NoHash(str):
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("no str")


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def cycle() -> list[Any]:
    found: list[Any] = []
    found += [found, {"again": found}, found]
    return found


def generator() -> Any:
    yield from "ab"


VALUES: dict[str, Any] = {
    "broken": Broken(RuntimeError("no")), "exiting": Broken(SystemExit(4)), "interrupting": Broken(KeyboardInterrupt()),
    "generator exit": Broken(GeneratorExit()), "inside": [Broken(RuntimeError("no"))], "broken dict": BrokenDict(a=1),
    "no hash": NoHash("x"), "none": None, "bytes": b"\xff\x00", "nan": nan, "inf": -inf, "big": 10**5000, "long": 2**70,
    "negative": -(2**63) - 1, "surrogate": "a\ud800b", "keys": {1: 2, None: 3, (1, 2): 4, b"x": 5, "\udcff": 6},
    "cycle": cycle(), "deep": deep(3000), "wide": [[0] * 100] * 200, "set": {1, 2}, "decimal": Decimal("1.1"),
    "time": datetime(2026, 1, 1), "type": int, "lambda": lambda: 0, "generator": generator(), "exception": NoText(),
    "control": "a\nb\r\x1b[31m\u2028\U000e0041", "huge": "y" * 1_200_000, "mixed": [1, "a", None, b"x", True],
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_any_value_has_a_text_and_is_an_attribute(name):
    value = VALUES[name]
    assert isinstance(text_of(value), str)
    assert text_of(Classless()).startswith("<")
    json.dumps(attributes_of({"c": Classless(), "v": value, name: value}), default=lambda data: data.hex())
    assert attributes_of(value) == {} or isinstance(value, dict)


def test_what_otlp_knows_stays_as_it_is():
    for value in ("a", 1, 1.5, True, None, b"x", [1, "a"], {"a": [1]}, -(2**63)):
        assert value_of(value) == value
    assert value_of((1, 2)) == [1, 2]
    assert (time_of(5), time_of(-1), time_of("x"), time_of(2**64), time_of(True)) == (5, None, None, None, None)


def test_a_soft_timeout_is_no_odd_value():
    with pytest.raises(JobInterrupted):
        text_of(Broken(JobInterrupted("timeout")))


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    descriptor = os.open(tmp_path / "lines", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    return Logs(Settings(log_format="json"), LineWriter(descriptor), process="p")


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]


@pytest.mark.parametrize("name", VALUES)
def test_any_value_is_in_a_line_of_every_kind(tmp_path, logs, name):
    value = VALUES[name]
    logs.logger.info("structlog", v=value)
    logs.logger.bind(v=value).info("bound")
    logs.logger.info(value)
    logs.logger.info("placed %s", value)
    logs.logger.info("placed %d", "no number")
    asyncio.run(logs.logger.ainfo("placed %d", value))
    record = logging.LogRecord("mine", logging.INFO, "f", 1, "text %s", (value,), None)
    RecordHandler(logs).emit(record)
    record = logging.LogRecord("mine", logging.INFO, "f", 1, value, ("of %d",), None)
    RecordHandler(logs).emit(record)
    assert len(lines(tmp_path)) == 8
    assert all("event" in line for line in lines(tmp_path))


@pytest.mark.parametrize(
    "key",
    ["event", "level", "timestamp", "process", "exception", "stack", "traceback", "exc_info", "stack_info", "trace_id",
     "logger", "", "_record"],
)  # fmt: skip
def test_the_keys_of_the_framework_take_any_value(tmp_path, logs, key):
    for value in (value for name, value in VALUES.items() if name != "huge"):
        if key != "event":
            logs.logger.info("line", **{key: value})
        for renderer in (JsonRenderer(None), JsonRenderer(512), ConsoleRenderer(colors=True, limit=None)):
            keys = {"event": "e", "level": "info", "timestamp": "now", key: value, "\ud800\n": value}
            assert renderer(None, "info", keys).endswith(b"\n")
    assert len(lines(tmp_path)) == (0 if key == "event" else len(VALUES) - 1)


def test_a_line_that_cannot_be_put_together_says_what_there_is_of_it(tmp_path, logs):
    logs.logger.info("%d of %s", "x", Broken(SystemExit()))
    (line,) = lines(tmp_path)
    assert (line["event"], line["template"], line["args"]) == ("log_record_unreadable", "%d of %s", ["x", "<Broken>"])


def test_odd_lines_reach_a_collector_with_all_others(monkeypatch, stations, receiver):
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    station = stations()
    log = station.telemetry.tracing.logger(station.executor(Relay()).attempt(lease_of()))
    for name, value in VALUES.items():
        log.info(name, value=value)
        structlog.contextvars.clear_contextvars()
    station.close()
    assert {record.body for record in receiver.logs()} == set(VALUES)


# --- spans ----------------------------------------------------------------------------------------------------------


def of_value(call: Callable[[Any, Any], object]) -> dict[str, Callable[[Any], object]]:
    """A call on the span for each value."""
    return {name: lambda span, value=value: call(span, value) for name, value in VALUES.items()}


def many(span: Any) -> None:
    span.set_attributes({f"k{i}": "v" * 10_000 for i in range(500)})
    for number in range(3000):
        span.add_event(f"e{number}", {"k": "v" * 10_000})
        span.add_link(SpanContext(1, number + 1, False))


CALLS: dict[str, Callable[[Any], object]] = {
    **{f"attribute {n}": c for n, c in of_value(lambda span, value: span.set_attribute("x", value)).items()},
    **{f"key {n}": c for n, c in of_value(lambda span, value: span.set_attribute(value, 1)).items()},
    **{f"attributes {n}": c for n, c in of_value(lambda span, value: span.set_attributes(value)).items()},
    **{f"event {n}": c for n, c in of_value(lambda span, value: span.add_event(value, {"x": value}, value)).items()},
    **{f"link {n}": c for n, c in of_value(lambda span, value: span.add_link(value, value)).items()},
    **{f"name {n}": c for n, c in of_value(lambda span, value: span.update_name(value)).items()},
    **{f"status {n}": c for n, c in of_value(lambda span, value: span.set_status(value, value)).items()},
    **{f"exception {n}": c for n, c in of_value(lambda span, value: span.record_exception(value, value)).items()},
    **{f"end {n}": c for n, c in of_value(lambda span, value: span.end(value)).items()},
    "status of status": lambda span: span.set_status(Status(StatusCode.ERROR, "\ud800")),
    "odd exception": lambda span: span.record_exception(ValueError("\ud800"), {"x": "\udcff"}),
    "its own exception": lambda span: span.record_exception(NoText(), timestamp=-5),
    "linked": lambda span: span.add_link(SpanContext(1, 1, False), {"x": cycle()}),
    "many": many,
    "context gone": lambda span: context.attach(context.Context()),
    "detached": lambda span: context.detach(object()),  # type: ignore[arg-type]
}


def through_rings(tmp_path: Path, receiver: Any) -> tuple[Any, Callable[[], object]]:
    rings = rings_in(tmp_path, capacity=64 << 20)
    station = ring_station(tmp_path, rings)
    return station, lambda: (station.close(), post(tmp_path, rings).flush(30))


def through_the_sdk(_: Path, stations: Any) -> tuple[Any, Callable[[], object]]:
    station = stations()
    return station, station.close


@pytest.mark.parametrize("way", ["ring", "sdk"])
def test_no_call_on_its_span_fails_a_job_or_loses_a_span(tmp_path, receiver, stations, way):
    if way == "ring":
        station, close = through_rings(tmp_path, receiver)
    else:
        station, close = stations(), lambda: station.close()
    app = Relay()
    wrong = []
    app.behaviours = {name: lambda ctx, call=call: call(trace.get_current_span()) for name, call in CALLS.items()}
    for name in CALLS:
        _, outcome = station.run(app, lease_of(name))
        if outcome.kind is not Kind.SUCCEEDED:
            wrong.append((name, outcome))
    assert wrong == []
    close()
    ids = {span.span_id for span in receiver.spans() if span.kind == "consumer"}
    assert len(ids) == len(CALLS)
    assert context.get_current() == context.Context()


def test_a_span_of_a_handlers_own_that_nobody_can_encode_costs_no_other(receiver, stations):
    station = stations()
    provider = station.telemetry.tracing.tracer
    for number in range(20):
        provider.start_span(f"own {number}" + ("\ud800" if number % 7 == 3 else "")).end()
    station.telemetry.shutdown(10)
    assert len({span.name for span in receiver.spans()}) == 17
    assert station.drops.counts()["traces"] == 3


BAGGAGE = {
    **{f"value {name}": (lambda value=value: baggage.set_baggage("k", value)) for name, value in VALUES.items()},
    **{f"key {name}": (lambda value=value: baggage.set_baggage(value, "v")) for name, value in VALUES.items()},
    "value interrupting": lambda: baggage.set_baggage("k", 5),  # Ctrl-C is the host's
    "key interrupting": lambda: baggage.set_baggage("k", 5),
    "line": lambda: baggage.set_baggage("k\n", "v\r\nx: y"),
    "no span": lambda: trace.set_span_in_context("no span"),  # type: ignore[arg-type]
}


def test_no_baggage_fails_an_enqueue(receiver, stations):
    sending = stations().telemetry.sending
    for make in BAGGAGE.values():
        try:
            token = context.attach(make())
        except TypeError:  # no key at all
            continue
        with sending.one("deliveries", "id", 1) as one, sending.many("deliveries", ["a", "b"]) as two:
            json.dumps([one, two])
            assert one["traceparent"]
        context.detach(token)


def test_an_async_handler_is_no_different(receiver, stations):
    async def behave(ctx: Any) -> None:
        trace.get_current_span().set_attribute("x", Broken(SystemExit(3)))
        ctx.log.info("line", x=Broken(SystemExit(3)))

    station = stations()
    app = AsyncRelay()
    app.behaviours = {"ok": behave}
    executor = station.executor(app, options=replace(app.worker_handlers["deliveries"].queue.options, timeout=None))
    attempt = executor.attempt(lease_of())
    outcome = asyncio.run(executor.run_async(attempt, call=lambda coroutine: coroutine))
    assert outcome.kind is Kind.SUCCEEDED
