"""Lines on standard output: whole, safe, with the keys of the job and of its trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docs import examples
from framework.model import events as e
from framework.telemetry.logs.render import ConsoleRenderer, JsonRenderer
from tests.telemetry.helpers import TRACEPARENT, Relay, json_lines, lease_of, run

NASTY = "a\nb\r\x1b[31mred\x07 \x9b2J \u2028 \u202e \x7f \x00"


def finished(outcome: str, **changes: Any) -> e.JobFinished:
    values = {"attempt": 2, "max_attempts": 4, "delivery": 3, "wait": 0.0123456789, "duration": 1.9999999} | changes
    return e.JobFinished(queue="deliveries", job_id="job-1", outcome=outcome, **values)


def test_a_finished_job_is_one_line_with_its_ids_and_durations(receiver, stations):
    station = stations()
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    lease = lease_of(headers={"traceparent": TRACEPARENT})
    attempt, _ = station.run(app, lease)
    (line,) = station.lines()
    assert line.pop("timestamp").endswith("+00:00")
    assert line.pop("wait") == pytest.approx(attempt.wait, abs=1e-6)
    assert line.pop("duration") >= 0
    assert line == {
        "event": "job_finished",
        "level": "info",
        "process": "deliveries/0",
        "queue": "deliveries",
        "job_id": lease.job.id,
        "attempt": 1,
        "outcome": "succeeded",
        "trace_id": attempt.identity.trace_id,
        "span_id": attempt.identity.span_id,
    }


@pytest.mark.parametrize(
    ("outcome", "reason", "level", "has_traceback"),
    [
        ("succeeded", None, "info", False),
        ("released", None, "info", False),
        ("discarded", None, "info", False),
        ("archived", None, "info", False),
        ("cancelled", None, "info", False),
        ("retried", "error", "warning", False),
        ("dead_lettered", "rejected", "error", True),
    ],
)
def test_the_level_says_how_bad_the_end_was(receiver, stations, outcome, reason, level, has_traceback):
    station = stations()
    station.bus.emit(
        finished(outcome, reason=reason, error_type="ValueError", message="no", traceback="Traceback: ...")
    )
    (line,) = station.lines()
    assert line["level"] == level
    assert (line["wait"], line["duration"]) == (0.012346, 2.0)
    assert ("traceback" in line) == has_traceback
    assert line.get("error.type") == ("ValueError" if reason else None)
    told = "no" if reason or outcome in ("discarded", "released") else None
    assert (line.get("reason"), line.get("message")) == (reason, told)


@pytest.mark.parametrize(("level", "written"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_log_level_is_a_setting(receiver, stations, level, written):
    station = stations(log_level=level)
    station.bus.emit(e.ProcessStarted("deliveries/0", 7))
    station.bus.emit(finished("succeeded"))
    station.bus.emit(finished("retried", reason="error"))
    assert len(station.lines()) == written


def test_lines_of_a_handler_and_of_its_libraries_carry_job_and_trace(receiver):
    out = run(
        """
        import logging, structlog
        log = structlog.get_logger()  # made before telemetry, as a service's module does
        telemetry = start(identity(), load_settings())
        def talk(ctx):
            ctx.log.info("by ctx", order=7)
            ctx.log.bind(tenant="blue").warning("by a bound ctx")
            log.info("by structlog")
            logging.getLogger("some.library").warning("by %s", "logging")
            thread = threading.Thread(target=lambda: ctx.log.info("by ctx in a thread"))
            thread.start(); thread.join()
            try:
                1 / 0
            except ZeroDivisionError:
                ctx.log.exception("failed")
                logging.getLogger("some.library").exception("failed too")
        run_jobs(telemetry, 1, "talk", talk)
        log.info("after")
        logging.getLogger("httpx").info("HTTP Request: a line per job that nobody wants")
        telemetry.shutdown(5)
        """,
        receiver.env(),
    )
    lines = json_lines(out)
    by_event = {line["event"]: line for line in lines}
    finished_line = by_event["job_finished"]
    inside = ("by ctx", "by a bound ctx", "by structlog", "by logging", "failed", "failed too")
    keys = ("queue", "job_id", "attempt", "trace_id", "span_id")
    for event in inside:
        assert {key: by_event[event][key] for key in keys} == {key: finished_line[key] for key in keys}, event
    assert by_event["by ctx"]["order"] == 7
    assert by_event["by a bound ctx"]["tenant"] == "blue"
    assert by_event["by logging"]["logger"] == "some.library"
    assert by_event["by logging"]["level"] == "warning"
    assert by_event["by ctx in a thread"]["job_id"] == finished_line["job_id"]
    assert "ZeroDivisionError" in by_event["failed"]["exception"]
    assert "ZeroDivisionError" in by_event["failed too"]["exception"]
    assert by_event["failed"]["level"] == by_event["failed too"]["level"] == "error"
    assert "job_id" not in by_event["after"]
    assert len(lines) == len(inside) + 3


def test_a_service_that_configured_structlog_itself_keeps_its_own(receiver):
    out = run(
        """
        import structlog
        structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
        telemetry = start(identity(), load_settings())
        structlog.get_logger().info("mine")
        telemetry.subscribe(__import__("framework.model.events", fromlist=["x"]).SupervisorNote("ours"))
        """,
        receiver.env(),
    )
    mine, ours = out.splitlines()
    assert mine == "event='mine'"
    assert json.loads(ours)["event"] == "ours"


def test_a_handler_of_logging_that_writes_elsewhere_stays_and_one_to_standard_error_is_replaced(receiver, tmp_path):
    out = run(
        f"""
        import logging
        logging.basicConfig()
        logging.getLogger().addHandler(logging.FileHandler({str(tmp_path / "file")!r}))
        start(identity(), load_settings())
        start(identity(), load_settings())
        logging.warning("once")
        """,
        receiver.env(),
    )
    assert [line["event"] for line in json_lines(out)] == ["once"]
    assert (tmp_path / "file").read_text() == "once\n"


HOST = """
    import logging, structlog
    log = structlog.get_logger()
    telemetry = start(identity(), load_settings())
    def talk(ctx):
        structlog.contextvars.bind_contextvars(tenant="blue", process="mine")
        logging.getLogger("shop").warning("by %s", "logging", extra={"order": 7, "job_id": "mine", "logger": "x"})
        ctx.log.info("by ctx", level="loud", timestamp="noon", trace_id="mine", queue="mine", order=8)
        ctx.log.bind(attempt=99).info("by a bound ctx")
        log.info("by structlog", span_id="mine")
    run_jobs(telemetry, 1, "talk", talk)
    telemetry.shutdown(5)
"""


def test_extra_fields_arrive_and_nothing_that_a_handler_gives_replaces_a_key_of_the_framework(receiver):
    by_event = {line["event"]: line for line in json_lines(run(HOST, receiver.env()))}
    finished_line = by_event["job_finished"]
    ours = ("process", "queue", "job_id", "attempt", "trace_id", "span_id")
    given = {name: {k: v for k, v in line.items() if k.startswith("given_")} for name, line in by_event.items()}
    assert given.pop("by logging") == {"given_job_id": "mine", "given_logger": "x", "given_process": "mine"}
    assert given.pop("by ctx") == {"given_level": "loud", "given_timestamp": "noon", "given_trace_id": "mine",
                                   "given_queue": "mine", "given_process": "mine"}  # fmt: skip
    assert given.pop("by a bound ctx") == {"given_attempt": 99, "given_process": "mine"}
    assert given.pop("by structlog") == {"given_span_id": "mine", "given_process": "mine"}
    for event in ("by logging", "by ctx", "by a bound ctx", "by structlog"):
        line = by_event[event]
        assert {key: line[key] for key in ours} == {key: finished_line[key] for key in ours}, event
        assert line["timestamp"].endswith("+00:00")
        assert line["tenant"] == "blue"
    assert (by_event["by logging"]["order"], by_event["by logging"]["logger"]) == (7, "shop")
    assert (by_event["by logging"]["level"], by_event["by ctx"]["level"]) == ("warning", "info")


def test_keys_have_the_names_that_the_host_wants_on_standard_output_alone(receiver):
    names = {"WORKER_LOG_KEYS": "event=message,level=severity", "OTEL_LOGS_EXPORTER": "otlp"}
    out = run(HOST.replace('"mine", order=8', '"mine", message="theirs"'), receiver.env() | names)
    lines = {line["message"]: line for line in json_lines(out)}
    assert set(lines) == {"by logging", "by ctx", "by a bound ctx", "by structlog", "job_finished"}
    assert not any({"event", "level"} & set(line) for line in lines.values())
    assert lines["by logging"]["severity"] == "warning"
    assert lines["by ctx"]["given_message"] == "theirs"
    assert {log.body for log in receiver.logs()} == set(lines)
    assert next(log for log in receiver.logs() if log.body == "by ctx").attributes["message"] == "theirs"


def test_lines_of_successes_can_be_muted_alone(receiver, stations):
    station = stations(log_successes=False)
    station.bus.emit(finished("succeeded"))
    station.bus.emit(finished("retried", reason="error", error_type="ValueError", message="no"))
    station.bus.emit(finished("discarded", message="late"))
    assert [line["outcome"] for line in station.lines()] == ["retried", "discarded"]


@pytest.mark.parametrize("render", [JsonRenderer(None), ConsoleRenderer(colors=False, limit=None)])
def test_no_value_can_forge_a_line_or_drive_a_terminal(render):
    keys = {"event": NASTY, "level": "info", "timestamp": "t", "job_id": NASTY, NASTY: 1, "list": [NASTY]}
    data = render(None, "info", keys)
    text = data.decode()
    assert data.endswith(b"\n")
    assert [c for c in text[:-1] if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u202e"] == []


def test_json_keeps_the_value_itself():
    line = JsonRenderer(None)(None, "info", {"event": NASTY, "list": [NASTY], "name": "Zoë 東京"})
    assert json.loads(line) == {"event": NASTY, "list": [NASTY], "name": "Zoë 東京"}
    assert "東京" in line.decode()


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_no_value_stops_a_line():
    cycle: list[Any] = []
    cycle.append(cycle)
    keys = {"event": "x", "nan": float("nan"), "cycle": cycle, "hostile": Hostile(), ("a", 1): 2, "lone": "\udc80"}
    line = json.loads(JsonRenderer(None)(None, "info", dict(keys)))
    assert (line["nan"], line["hostile"], line["lone"]) == ("nan", "<Hostile>", "\udc80")
    assert b"<Hostile>" in ConsoleRenderer(colors=False, limit=None)(None, "info", dict(keys))


def test_the_console_shows_a_traceback_as_a_block():
    keys = {"event": "job_finished", "level": "error", "traceback": "Traceback:\n  File x\x1b[31m\nValueError: no"}
    text = ConsoleRenderer(colors=False, limit=None)(None, "error", keys).decode()
    assert "\n    Traceback:\n      File x\\x1b[31m\n    ValueError: no" in text


@pytest.mark.parametrize("wanted", [True, False])
def test_otlp_logs_are_opt_in(receiver, wanted):
    out = run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1, "talk", lambda ctx: ctx.log.warning("hello", order=7))
        telemetry.shutdown(5)
        """,
        receiver.env() | ({"OTEL_LOGS_EXPORTER": "otlp"} if wanted else {}),
    )
    assert [line["event"] for line in json_lines(out)] == ["hello", "job_finished"]
    logs = receiver.logs()
    assert [log.body for log in logs] == (["hello", "job_finished"] if wanted else [])
    if wanted:
        (span,) = receiver.spans("process deliveries")
        assert {(log.trace_id, log.span_id) for log in logs} == {(span.trace_id, span.span_id)}
        assert logs[0].severity == "warning"
        assert logs[0].attributes["order"] == 7
        assert logs[0].attributes["queue"] == "deliveries"
        assert logs[0].resource["service.name"] == "relay"


def test_a_record_about_an_attempt_has_the_ids_of_its_span(receiver):
    """What maintenance says of a killed attempt, outside of every span."""
    run(
        """
        from docs.examples import FAILED
        telemetry = start(identity(role="maintenance"), load_settings())
        telemetry.subscribe(FAILED)
        telemetry.shutdown(5)
        """,
        receiver.env() | {"OTEL_LOGS_EXPORTER": "otlp"},
    )
    (log,) = [log for log in receiver.logs() if log.body == "attempt_lost"]
    assert (log.trace_id, log.span_id) == (examples.TRACE, examples.SPAN)
    assert log.attributes["job_id"] == "job-1"


def test_a_payload_is_never_logged_by_the_framework(receiver, stations):
    station = stations(log_level="debug")
    app = Relay()

    def bad(_: object) -> None:
        raise ValueError("no")

    app.behaviours = {"secret-payload": bad}
    station.run(app, lease_of("secret-payload", attempt=4))
    assert "secret-payload" not in station.out.read_text()


FORGED = "card declined\n2026-11-29T00:00:00.000000+00:00 [info     ] job_finished   outcome=succeeded"


@pytest.mark.parametrize("key", ["traceback", "exception", "stack", "message", "event", "a\nkey"])
@pytest.mark.parametrize("colors", [True, False])
def test_no_text_can_pass_for_a_line_of_its_own(key, colors):
    keys = {"timestamp": "now", "level": "error", "event": "job_finished", key: f"{FORGED}\r\u2028{FORGED}"}
    lines = ConsoleRenderer(colors=colors, limit=None)(None, "error", keys).decode().splitlines()
    assert all(line.startswith("    ") for line in lines[1:])
    assert len(lines) == (4 if key in ("traceback", "exception", "stack") else 1)


@pytest.mark.parametrize("character", ["\u200b", "\U000e0041", "\u202e", "\ufe0f", "\ufeff"])
def test_what_hides_is_an_escape_in_both_formats_and_json_means_the_same(character):
    keys = {"event": f"a{character}b", "level": "info", f"k{character}": f"{character}v"}
    data = JsonRenderer(None)(None, "info", dict(keys))
    assert character.encode() not in data
    assert json.loads(data) == keys
    assert character.encode() not in ConsoleRenderer(colors=False, limit=None)(None, "info", dict(keys))
