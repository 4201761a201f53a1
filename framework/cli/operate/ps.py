"""The command `worker ps`, which shows what runs now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from framework.admin.processes import Process, Run, Tree, trees
from framework.admin.store import root_of
from framework.cli.operate.common import STORE_HELP, json_option, module_of, url_option
from framework.cli.output import Column, moment, print_json, table, warn
from framework.cli.service import load_service
from framework.engine.urls import shown
from framework.model.text.spans import span
from framework.service.settings import load_settings

COLUMNS = (
    Column("slot", style="bold", fit="whole"), Column("pid", number=True), Column("state"),
    Column("memory", number=True), Column("queue"), Column("job", fit="whole"), Column("handler", detail=True),
    Column("for", number=True), Column("deadline", number=True),
)  # fmt: skip
PROGRESS = Column("progress", fit="cut")  # only where a job has reported one


@click.command(short_help="Show what runs now: processes, their jobs, since when, until when.", epilog=STORE_HELP)
@click.argument("given", nargs=-1, metavar="[MODULE]")
@url_option
@json_option
def ps(given: tuple[str, ...], url: str, as_json: bool) -> int:
    """Show what runs now on this machine: the processes of each supervisor on the store, and their jobs.

    It reads the copies of the scoreboards, which are up to two seconds old, and never the engine. for: how long the job
    has been running. deadline: when its process is killed for it. handler: with MODULE only. progress: what its handler
    has reported last (`ctx.progress`). A supervisor that is dead is named on standard error, or that it has ended. Exit
    code 1: no supervisor lives here.

    \b
    --json is one array, an object for each supervisor, in this order; more keys may come:
      app, supervisor     class of the service, and pid (string, integer)
      alive               false: it is dead; null: it is in another container
      reported            when its board was renewed last (ISO time, UTC)
      deadline            when its drain ends (ISO time, UTC; null: it does not drain)
      processes           objects with slot, pid, state, memory (bytes or null), limit (jobs at once), and jobs: objects
                          with id (its first 64 bytes), queue, handler, delivery, since, soft, hard (ISO times or null),
                          settling, progress (null, or an object with done, total (or null), text)
    """
    module = module_of(given, url)
    service = load_service(module) if module else None
    settings = load_settings() if service is None else service.settings
    handlers = {} if service is None else {name: one.name for name, one in service.app.worker_handlers.items()}
    found, problems = trees(root_of(url or settings.engine_url), handlers)
    for text in problems:
        warn(text)
    if as_json:
        print_json([_object(tree) for tree in found])
    else:
        rows = [row for tree in found if tree.alive is not False for row in _rows(tree)]
        columns = (*COLUMNS, PROGRESS) if any(row[-1] != "-" for row in rows) else COLUMNS
        table(columns, [row[: len(columns)] for row in rows], empty="nothing runs")
    if not found:
        warn(f"no supervisor has left a board at {shown(url or settings.engine_url)}: none has run there")
    for tree in found:
        if tree.alive is False:
            how = "has ended" if _has_drained(tree) else "is dead"
            warn(f"supervisor {tree.supervisor} of {tree.app} {how}; its board is of {moment(tree.reported)}")
    return 0 if any(tree.alive is not False for tree in found) and not problems else 1


def _has_drained(tree: Tree) -> bool:
    """Return whether the tree was told to end, and none of its processes had a job left at the end."""
    return tree.deadline is not None and not any(one.runs for one in tree.processes)


def _rows(tree: Tree) -> list[tuple[str, ...]]:
    return [row for process in tree.processes for row in _rows_of(process)]


def _rows_of(process: Process) -> Sequence[tuple[str, ...]]:
    memory = "-" if process.memory is None else f"{process.memory / (1 << 20):.0f} MiB"
    head = (process.slot, str(process.pid or "-"), process.state, memory)
    if not process.runs:
        return [(*head, "-", "-", "-", "-", "-", "-")]
    return [(*head, *_cells(run)) for run in process.runs]


def _cells(run: Run) -> tuple[str, ...]:
    now = time.time()
    left = "-" if run.hard is None else f"in {span(max(0.0, run.hard - now))}"
    far = "-" if run.progress is None else str(run.progress)
    return run.queue, run.job_id, run.handler or "-", span(max(0.0, now - run.since)), left, far


def _object(tree: Tree) -> dict[str, Any]:
    return {
        "app": tree.app,
        "supervisor": tree.supervisor,
        "alive": tree.alive,
        "reported": moment(tree.reported),
        "deadline": _time(tree.deadline),
        "processes": [
            {
                "slot": one.slot,
                "pid": one.pid,
                "state": one.state,
                "memory": one.memory,
                "limit": one.limit,
                "jobs": [run_object(run) for run in one.runs],
            }
            for one in tree.processes
        ],
    }


def run_object(run: Run) -> dict[str, Any]:
    """Return what `worker ps --json` prints of a job that runs."""
    return {
        "id": run.job_id,
        "queue": run.queue,
        "handler": run.handler,
        "delivery": run.delivery,
        "since": moment(run.since),
        "soft": _time(run.soft),
        "hard": _time(run.hard),
        "settling": run.settling,
        "progress": None if run.progress is None else asdict(run.progress),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else moment(seconds)
