"""The command `worker doctor`, which checks whether telemetry arrives and which variables count."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from framework.admin.store import is_missing, root_of
from framework.cli.output import Column, counted, is_terminal, print_json, table
from framework.cli.service import MODULE_HELP, Service, load_service, opened, refuse_memory, take
from framework.engine.port import shown
from framework.model.errors import EngineError
from framework.model.text.spans import span
from framework.telemetry.sdk import plugins

if TYPE_CHECKING:
    from framework.doctor.doctor import Examination
    from framework.doctor.variables import Variable

SKEW = 2.0  # seconds by which clocks may differ: the receiver sends whole seconds only
# What each way carries where there are rings, and what the SDK carries where there are none.
CARRIES = {
    ("traces", "ring"): "attempts of jobs",
    ("metrics", "ring"): "counts and durations of jobs",
    ("traces", "sdk"): "what handlers and producers make",
    ("metrics", "sdk"): "depth, slots, processes, handlers' own",
    ("logs", "sdk"): "log lines",
}
CARRIES_ALL = {"traces": "all spans", "metrics": "all metrics", "logs": "log lines"}
_STYLES = {"arrived": "green", "ok": "green", "in force": "green", "off": "dim", "ignored": "yellow", "note": "yellow"}


def _state_style(cell: str) -> str:
    return _STYLES.get(cell, "bold red")


@dataclass(frozen=True)
class Report:
    """The findings of the command: whether the engine can be used, and why; tests of telemetry; the variables."""

    service: Service
    engine: tuple[bool, str]
    found: Examination
    known: list[Variable]


Finding = tuple[str, str, str]  # the check, its state, and what there is to say

TESTS = (
    Column("signal", style="bold", fit="whole"),
    Column("carries", detail=True),
    Column("by", fit="whole"),
    Column("to"),
    Column("state", style=_state_style, fit="whole"),
    Column("time", number=True, fit="whole"),
    Column("answer"),
    Column("hint"),
)
CHECKS = (Column("check", style="bold", fit="whole"), Column("state", style=_state_style, fit="whole"), Column("what"))
VARIABLES = (
    Column("variable", style="bold", fit="whole"),
    Column("value"),
    Column("state", style=_state_style, fit="whole"),
    Column("why"),
)


@click.command(short_help="Send test telemetry; say what came back and which variables count.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              metavar="SECONDS", help="How long to wait for an answer.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(given: tuple[str, ...], timeout: float, as_json: bool) -> int:
    """Send a test span, metric and log record by the very exporters that the service would use, and say what came back.

    Also says which way telemetry leaves and why, whether the engine can be used, and which variables are in force or
    set in vain. Values of headers and credentials are not shown. No job is enqueued; the tests are named `doctor` and
    marked worker.doctor=true.

    \b
    ring  the exporter process of `worker run`: what workers say of their jobs
    sdk   each process by itself: what handlers, producers and maintenance say, and log records

    Exit code: 0 everything that was sent arrived, 1 something did not or nothing is sent, 2 usage or import, 3 the
    engine cannot be used.

    \b
    --json, in this order; more keys may come:
      service, ok, trace_id
      path        kind (ring, sdk or empty) and why
      facts       conventions, resource, scrape (if there is one) and kill: a sentence each
      tests       signal, by, carries, protocol, to, state, seconds or null, answer, hint
                  state: arrived, partial, refused, unreachable, timeout, tls, broken
      off         by signal, why it is not sent
      engine      url, ok, text
      clock       seconds ahead of the receiver's, null where it says no time
      variables   name, value, in_force, why
    """
    (module,) = take(given)
    plugins.try_all()
    service = load_service(module)
    refuse_memory(service.settings)
    report = Report(service, _engine(service), *_examined(service, timeout))
    if as_json:
        print_json(_object(report))
    else:
        _print(report)
    return 3 if not report.engine[0] else 0 if report.found.ok else 1


def _examined(service: Service, timeout: float) -> tuple[Examination, list[Variable]]:
    import logging

    from framework.doctor.doctor import examine
    from framework.doctor.variables import variables
    from framework.runner.context import crews_of
    from framework.runner.resolving import resolve
    from framework.telemetry import ProcessIdentity
    from framework.telemetry.environment import given, settle
    from framework.telemetry.names import version

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # the command reports these errors itself, once
    app, options = service.app, resolve(service.app, service.settings)
    crews = crews_of(app, service.settings, options, list(app.worker_handlers)).values()
    slots = 1 + sum(crew.options.workers for crew in crews)  # 1 for maintenance
    system = service.settings.engine_url.partition(":")[0]
    identity = ProcessIdentity(app.__name__, "supervisor", "doctor", 0, system)
    root = root_of(service.settings.engine_url)
    directory = "" if root is None else str(root.absolute() / "run")
    known = variables(given(), settled=settle())
    scraped = service.settings.metrics
    return examine(identity, slots=slots, directory=directory, limit=timeout, version=version(), scraped=scraped), known


def _engine(service: Service) -> tuple[bool, str]:
    """Return whether the engine can be used, and a text about it."""
    root = root_of(service.settings.engine_url)
    try:
        if root is not None and is_missing(service.settings.engine_url, root):
            above = next(path for path in root.absolute().parents if path.exists())
            if not os.access(above, os.W_OK | os.X_OK):
                return False, f"{root} does not exist and cannot be made: this process may not write in {above}"
            return True, f"{root} does not exist yet: the first enqueue or `worker run` makes it"
        with opened(service) as look:
            for refused in look.failed:
                raise refused
            stats = [look.engine.stats(queue.name) for queue in service.queues]
            notes = list(look.engine.notes)
    except EngineError as error:
        return False, str(error)
    except OSError as error:
        return False, f"{error.filename or root}: {error.strerror or error}"
    waiting = sum(filter(None, (count for one in stats for count in (one.ready, one.delayed, one.in_flight))))
    return True, "; ".join([f"{counted(len(stats), 'queue')}, {counted(waiting, 'job')}", *notes])


def _skew(report: Report) -> float | None:
    """Return the seconds by which our clock is ahead of the receiver's; None: no receiver says what time it is."""
    skews = [probe.heard.skew for probe in report.found.sent if probe.heard.skew is not None]
    # A Date header is cut to a whole second, so it is half a second late on average.
    return min(skews, key=abs) - 0.5 if skews else None


def _check_path(report: Report) -> Iterator[Finding]:
    found = report.found
    state = "ok" if found.path == "ring" else "note" if found.path else "off"
    yield "path", state, f"{found.path}: {found.why}" if found.path else found.why


def _check_facts(report: Report) -> Iterator[Finding]:
    for topic, text in report.found.facts.items():
        yield topic, "note" if "is ignored" in text else "ok", text


def _check_engine(report: Report) -> Iterator[Finding]:
    works, text = report.engine
    yield "engine", "ok" if works else "failed", f"{shown(report.service.settings.engine_url)}: {text}"


def _check_clock(report: Report) -> Iterator[Finding]:
    skew = _skew(report)
    if skew is None:
        yield "clock", "off", "no receiver says what time it is"
    elif abs(skew) <= SKEW:
        yield "clock", "ok", "agrees with the receiver's"
    else:
        side = f"{span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the receiver's"
        yield "clock", "note", f"{side}: spans of several machines will not line up; set it by NTP"


def _check_trace(report: Report) -> Iterator[Finding]:
    sent = bool(report.found.sent)
    yield "trace", "ok" if sent else "off", report.found.trace_id if sent else "nothing was sent"


ALL_CHECKS = (_check_path, _check_facts, _check_engine, _check_clock, _check_trace)


def _print(report: Report) -> None:
    rows = [_test_row(test) for test in _tests(report.found)]
    rows += [(signal, "", "", "", "off", "", why, "") for signal, why in report.found.off.items()]
    table(TESTS, rows)
    _gap()
    table(CHECKS, [finding for check in ALL_CHECKS for finding in check(report)])
    if report.known:
        _gap()
        rows = [
            (one.name, one.value, "ignored" if one.ignored else "in force", one.ignored or one.note)
            for one in report.known
        ]
        table(VARIABLES, rows)
    elif is_terminal(sys.stdout):
        print("No variable of telemetry is set: defaults count.")


def _gap() -> None:
    if not is_terminal(sys.stdout):  # on a terminal, tables have blank lines of their own
        print()


def _test_row(test: dict[str, Any]) -> tuple[str, ...]:
    time = "" if test["seconds"] is None else f"{test['seconds'] * 1000:.0f}ms"
    return (*(test[key] for key in ("signal", "carries", "by", "to", "state")), time, test["answer"], test["hint"])


def _tests(found: Examination) -> list[dict[str, Any]]:
    return [
        {
            "signal": probe.signal,
            "by": probe.via,
            "carries": CARRIES[probe.signal, probe.via] if found.path == "ring" else CARRIES_ALL[probe.signal],
            "protocol": probe.protocol,
            "to": probe.endpoint,
            "state": probe.answer.state,
            "seconds": None if probe.heard.status is None else round(probe.heard.seconds, 6),
            "answer": probe.answer.text,
            "hint": probe.answer.hint,
        }
        for probe in found.sent
    ]


def _object(report: Report) -> dict[str, Any]:
    found, (works, text), skew = report.found, report.engine, _skew(report)
    return {
        "service": report.service.app.__name__,
        "ok": found.ok and works,
        "trace_id": found.trace_id if found.sent else "",
        "path": {"kind": found.path, "why": found.why},
        "facts": found.facts,
        "tests": _tests(found),
        "off": found.off,
        "engine": {"url": shown(report.service.settings.engine_url), "ok": works, "text": text},
        "clock": None if skew is None else round(skew, 1),
        "variables": [
            {"name": one.name, "value": one.value, "in_force": not one.ignored, "why": one.ignored or one.note}
            for one in report.known
        ],
    }
