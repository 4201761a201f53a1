"""The ledger of a test: what ran, from the handlers' own mouth, in one file to which all processes append.

`note` writes any line. Handlers under `Noted` write those that `read` understands; P is `pid:start`, which names one
life of a process, T is CLOCK_MONOTONIC in ns:

    R job queue attempt delivery span P T     a run record is about to be written
    S job queue attempt trace span P T what   a handler begins
    H span T                                  it is still at it
    E span T how                              it ends, by `ok` or by the name of an exception
    child PID                                 it has started a process that may outlive it
    swallowed                                 it goes on after an interruption
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry import trace

from framework import Context
from framework.engine import ledger as ledger_of_runs
from framework.process.scoreboard import process_start

# --- written by services ----------------------------------------------------------------------------------------------


def note(line: str) -> None:
    """Append one line, which is atomic among processes. The file is opened anew: a handler may close what is open."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, (line + "\n").encode())
    os.close(ledger)


def ran(prefix: str) -> list[str]:
    """Return the lines so far that begin so."""
    with open(os.environ["LEDGER"]) as ledger:
        return [line for line in ledger if line.startswith(prefix)]


def life() -> str:
    """Return `pid:start` of this process."""
    return f"{os.getpid()}:{process_start(os.getpid())}"


class Noted:
    """Writes when a run begins and ends. `__exit__` is closed to interruption, so the end is noted once."""

    def __init__(self, what: str, context: Context) -> None:
        self._what = what
        self._context = context
        span = trace.get_current_span().get_span_context()
        self._trace, self._span = f"{span.trace_id:032x}", f"{span.span_id:016x}"

    def __enter__(self) -> Noted:
        c = self._context
        run = f"{c.job_id} {c.queue} {c.attempt} {self._trace} {self._span}"
        note(f"S {run} {life()} {time.monotonic_ns()} {self._what}")
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        note(f"E {self._span} {time.monotonic_ns()} {kind.__name__ if kind else 'ok'}")

    def beat(self) -> None:
        """Write a sign of life."""
        note(f"H {self._span} {time.monotonic_ns()}")


def note_run_records() -> None:
    """Write a line before each real run record: what is charged without that line had never started."""
    inner = ledger_of_runs.Ledger.begin

    def begin(self: ledger_of_runs.Ledger, lease: Any, run: Any) -> None:
        place = f"{lease.job.id} {lease.queue} {lease.attempt} {lease.delivery}"
        span = run.ids[16:].hex() if any(run.ids) else "-"
        note(f"R {place} {span} {life()} {time.monotonic_ns()}")
        inner(self, lease, run)

    ledger_of_runs.Ledger.begin = begin  # type: ignore[method-assign]


# --- read by tests ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """One run of one job. Times are CLOCK_MONOTONIC in ns, 0 = never; `process` is `pid:start`."""

    job: str
    queue: str
    attempt: int
    span: str
    process: str
    trace: str = ""
    started: int = 0
    seen: int = 0
    ended: int = 0
    how: str = ""

    @property
    def pid(self) -> int:
        return int(self.process.partition(":")[0])

    @property
    def unfinished(self) -> bool:
        """Its handler began, and nothing was heard of its end."""
        return bool(self.started) and not self.ended

    @property
    def own_end(self) -> bool:
        """It ended in a way after which the job is meant to run again."""
        return self.how not in ("", "ok")


@dataclass
class Ledger:
    """All runs.

    Attributes:
        runs: by job and queue, in the order in which their records were written.
        started: those whose handler has started, in that order.
        children: pids of what handlers started.
    """

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    started: list[Run] = field(default_factory=list)
    children: list[int] = field(default_factory=list)

    def all(self) -> Iterable[Run]:
        """Every run."""
        return (run for runs in self.runs.values() for run in runs)


def read(path: Path) -> Ledger:
    """Read what `Noted` has written. Raises ValueError: a line that is none, or two starts of one span."""
    ledger = Ledger()
    spans: dict[str, Run] = {}

    def begin(job: str, queue: str, attempt: str, span: str, process: str) -> Run:
        spans[span] = Run(job, queue, int(attempt), span, process)
        ledger.runs[job, queue].append(spans[span])
        return spans[span]

    with path.open() as lines:
        for line in lines:
            match line.split():
                case ["R", job, queue, attempt, _delivery, span, process, _when]:
                    begin(job, queue, attempt, span, process)
                case ["S", job, queue, attempt, of_trace, span, process, when, _what]:
                    run = spans.get(span) or begin(job, queue, attempt, span, process)
                    if run.started:
                        raise ValueError(f"{path}: two runs have the span {span}")
                    run.trace, run.started, run.seen = of_trace, int(when), int(when)
                    ledger.started.append(run)
                case ["H", span, when]:
                    spans[span].seen = int(when)
                case ["E", span, when, how]:
                    run = spans[span]
                    run.ended, run.seen, run.how = int(when), int(when), how
                case ["child", pid]:
                    ledger.children.append(int(pid))
                case ["swallowed"]:
                    pass
                case _:
                    raise ValueError(f"{path}: {line!r}")
    return ledger
