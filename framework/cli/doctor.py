"""The command `worker doctor`, which checks whether telemetry arrives and which variables count."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from framework.cli.output import Column, counted, is_terminal, print_json, span, table
from framework.cli.service import MODULE_HELP, Service, is_missing, load_service, opened, refuse_memory, root_of, take
from framework.model.errors import EngineError
from framework.telemetry.sdk import plugins

if TYPE_CHECKING:
    from framework.doctor.doctor import Examination
    from framework.doctor.probing import Sent
    from framework.doctor.variables import Variable

SKEW = 2.0  # seconds by which clocks may differ: the receiver sends whole seconds only
_GOOD, _BAD, _DULL = "green", "bold red", "dim"


def _state_style(cell: str) -> str:
    return {"arrived": _GOOD, "ok": _GOOD, "in force": _GOOD, "off": _DULL, "ignored": "yellow", "note": "yellow"}.get(
        cell, _BAD
    )


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
    engine = _engine(service)
    found, known = _examined(service, timeout)
    failed = engine[0] is False
    if as_json:
        print_json(_object(service, engine, found, known))
    else:
        _print(service, engine, found, known)
    return 3 if failed else 0 if found.ok else 1


def _examined(service: Service, timeout: float) -> tuple[Examination, list[Variable]]:
    import logging

    from framework.doctor.doctor import examine
    from framework.doctor.variables import variables
    from framework.runner.crews import crews_of
    from framework.runner.resolving import resolve
    from framework.telemetry import ProcessIdentity
    from framework.telemetry.environment import given, settle
    from framework.telemetry.names import version
    from framework.telemetry.sdk.instrumented import has_provider

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # the command reports these errors itself, once
    app, options = service.app, resolve(service.app, service.settings)
    crews = crews_of(app, service.settings, options, list(app.worker_handlers)).values()
    slots = 1 + sum(crew.options.workers for crew in crews)  # 1 for maintenance
    system = service.settings.engine_url.partition(":")[0]
    identity = ProcessIdentity(service.app.__name__, "supervisor", "doctor", 0, system)
    root = root_of(service.settings)
    place = "" if root is None else str(root.absolute() / "run")
    known = variables(given(), instrumented=has_provider(), settled=settle())
    return examine(identity, slots=slots, place=place, limit=timeout, version=version()), known


def _engine(service: Service) -> tuple[bool, str]:
    """Return whether the engine can be used, and a text about it."""
    root = root_of(service.settings)
    try:
        if root is not None and is_missing(service.settings, root):
            above = next(path for path in root.absolute().parents if path.exists())
            if not os.access(above, os.W_OK | os.X_OK):
                return False, f"{root} does not exist and cannot be made: this process may not write in {above}"
            return True, f"{root} does not exist yet: the first enqueue or `worker run` makes it"
        with opened(service) as engine:
            for refused in service.refused.values():
                raise refused
            stats = [engine.stats(queue.name) for queue in service.queues]
            notes = list(engine.notes)
    except EngineError as error:
        return False, str(error)
    except OSError as error:
        return False, f"{error.filename or root}: {error.strerror or error}"
    waiting = sum(filter(None, (count for one in stats for count in (one.ready, one.delayed, one.in_flight))))
    return True, "; ".join([f"{counted(len(stats), 'queue')}, {counted(waiting, 'job')}", *notes])


def _clock(found: Examination) -> tuple[str, str, float | None]:
    """Return the state of the clock, a text about it, and the seconds that it is ahead of the receiver's clock."""
    skews = [sent.skew for sent in found.sent if sent.skew is not None]
    if not skews:
        return "off", "no receiver says what time it is", None
    # A Date header is cut to a whole second, so it is half a second late on average.
    skew = min(skews, key=abs) - 0.5
    if abs(skew) <= SKEW:
        return "ok", "agrees with the receiver's", skew
    side = "ahead of" if skew > 0 else "behind"
    text = f"{span(abs(skew))} {side} the receiver's: spans of several machines will not line up; set it by NTP"
    return "note", text, skew


def _print(service: Service, engine: tuple[bool, str], found: Examination, known: list[Variable]) -> None:
    rows = [_test_row(sent) for sent in found.sent]
    rows += [(signal, "", "", "", "off", "", why, "") for signal, why in found.off.items()]
    table(TESTS, rows)
    _gap()
    clock, clock_text, _ = _clock(found)
    path = f"{found.path}: {found.why}" if found.path else found.why
    table(
        CHECKS,
        [
            ("path", "ok" if found.path == "ring" else "note" if found.path else "off", path),
            ("engine", "ok" if engine[0] else "failed", f"{_shown_url(service)}: {engine[1]}"),
            ("clock", clock, clock_text),
            ("trace", "ok" if found.sent else "off", found.trace_id if found.sent else "nothing was sent"),
        ],
    )
    if known:
        _gap()
        table(VARIABLES, [_variable_row(variable) for variable in known])
    elif is_terminal(sys.stdout):
        print("No variable of telemetry is set: defaults count.")


def _gap() -> None:
    if not is_terminal(sys.stdout):  # on a terminal, tables have blank lines of their own
        print()


def _test_row(sent: Sent) -> tuple[str, ...]:
    time = "" if sent.seconds is None else f"{sent.seconds * 1000:.0f}ms"
    verdict = sent.verdict
    return sent.signal, sent.carries, sent.via, sent.endpoint, verdict.state, time, verdict.answer, verdict.hint


def _variable_row(variable: Variable) -> tuple[str, ...]:
    state = "ignored" if variable.ignored else "in force"
    return variable.name, variable.value, state, variable.ignored or variable.note


def _shown_url(service: Service) -> str:
    from framework.engine.port import shown

    return shown(service.settings.engine_url)


def _object(service: Service, engine: tuple[bool, str], found: Examination, known: list[Variable]) -> dict[str, Any]:
    skew = _clock(found)[2]
    return {
        "service": service.app.__name__,
        "ok": found.ok and engine[0],
        "trace_id": found.trace_id if found.sent else "",
        "path": {"kind": found.path, "why": found.why},
        "tests": [
            {
                "signal": sent.signal,
                "by": sent.via,
                "carries": sent.carries,
                "protocol": sent.protocol,
                "to": sent.endpoint,
                "state": sent.verdict.state,
                "seconds": None if sent.seconds is None else round(sent.seconds, 6),
                "answer": sent.verdict.answer,
                "hint": sent.verdict.hint,
            }
            for sent in found.sent
        ],
        "off": found.off,
        "engine": {"url": _shown_url(service), "ok": engine[0], "text": engine[1]},
        "clock": None if skew is None else round(skew, 1),
        "variables": [
            {"name": v.name, "value": v.value, "in_force": not v.ignored, "why": v.ignored or v.note} for v in known
        ],
    }
