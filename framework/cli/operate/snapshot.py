"""The output of `worker top` where there is no terminal: tables, or JSON, once or again and again."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from framework.admin import dead
from framework.admin.dead import Group
from framework.admin.jobs import Filter
from framework.admin.live.desk import Desk
from framework.admin.store import Store
from framework.cli.operate.dead import group_object
from framework.cli.operate.ps import run_object
from framework.cli.operate.queues import queue_object
from framework.cli.output import Column, hear_warnings, moment, print_json, table, warn
from framework.model.errors import EngineError
from framework.model.text.spans import span
from framework.top import rows
from framework.top.rows import Row
from framework.top.views import GROUPED
from framework.top.watch import Overview, Running, Watch, running


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one look has found."""

    seen: Overview
    runs: Sequence[Running]
    failures: Sequence[Group]


def repeat(desk: Desk, interval: float | None, as_json: bool) -> int:
    """Print a snapshot, and with an interval one after the other until Ctrl-C. Return the exit code.

    Raises EngineError: the store cannot be read; with an interval this is a warning, and it is read again.
    """
    hear_warnings()
    try:
        return _repeat(desk, interval, as_json)
    finally:
        asyncio.run(desk.close())


def _repeat(desk: Desk, interval: float | None, as_json: bool) -> int:
    watch = Watch()
    while True:
        try:
            found = desk.wait(lambda store: _look(watch, desk, store))
        except EngineError as error:
            if interval is None:
                raise
            warn(str(error))
        else:
            _print(found, as_json, one_line=interval is not None)
            if interval is None:
                return 1 if found.seen.problems else 0
        sys.stdout.flush()
        time.sleep(interval)


def _look(watch: Watch, desk: Desk, store: Store) -> Snapshot:
    seen = watch.overview(store, desk.root)
    return Snapshot(seen, running(store, seen), dead.groups(store, Filter(), GROUPED))


def _print(found: Snapshot, as_json: bool, one_line: bool) -> None:
    if as_json:
        print(json.dumps(_object(found))) if one_line else print_json(_object(found))
        return
    seen = found.seen
    for text in (*seen.problems, *seen.notes):
        warn(text)
    if seen.silent:
        since = "here" if seen.seen is None else f"since {moment(seen.seen)}, {span(seen.at - seen.seen)} ago"
        warn(f"no running service has reported {since}")
    print(moment(seen.at))
    for columns, lines in (
        (rows.QUEUES, rows.of_queues(seen)),
        (rows.RUNNING, rows.of_running(found.runs)),
        (rows.FAILURES, rows.of_failures(found.failures)),
    ):
        _table(columns, lines)
        print()


def _table(columns: Sequence[rows.Column], lines: Sequence[Row]) -> None:
    table([Column(one.title, one.number) for one in columns], [row.cells for row in lines])


def _object(found: Snapshot) -> dict[str, Any]:
    seen = found.seen
    rates = {name: round(rate, 3) for name, rate in seen.rates.items()}
    return {
        "at": moment(seen.at),
        "silent": seen.silent,
        "seen": None if seen.seen is None else moment(seen.seen),
        "queues": [queue_object(one) | {"rate": rates.get(one.name)} for one in seen.queues],
        "running": [_running(one) for one in found.runs],
        "failures": [group_object(one) for one in found.failures],
        "problems": list(seen.problems),
        "notes": list(seen.notes),
    }


def _running(one: Running) -> dict[str, Any]:
    known = {"id": one.job_id, "queue": one.queue, "worker": one.worker}
    return (known | run_object(one.run) if one.run else known) | {"since": moment(one.since)}
