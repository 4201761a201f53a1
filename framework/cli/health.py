"""The command `worker health`, whose exit code answers container probes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import click

from framework.admin.store import root_of
from framework.cli.output import fail
from framework.cli.service import load_service
from framework.engine.port import shown
from framework.process.scoreboard import LEAVING, READY, Scoreboard, SlotState
from framework.service.settings import load_settings

SILENT = "no worker's loop has turned"
LOOK_AGAIN = 3.0  # seconds in which an idle worker's loop turns, and maintenance renews the board's file after that
STUCK = 60.0  # seconds without a turn after which an idle worker's loop no longer counts as alive


@click.command(short_help="For container probes: exit code 0 while a worker is ready.")
@click.argument("module", required=False)
def health(module: str | None) -> int:
    """For container probes: exit code 0 while a supervisor lives on this engine and a worker of it is ready, else 1 and
    one line that says why.

    Reads the scoreboards beside the spool of WORKER_ENGINE_URL and imports no service, so a probe is cheap. With MODULE
    only supervisors of that app count; it is imported for its name, unless it is written as module:Name.
    """
    settings = load_settings()
    app = _app_name(module) if module else ""
    root = root_of(settings.engine_url)
    if root is None:
        url = shown(settings.engine_url)
        fail(f"WORKER_ENGINE_URL={url} has no directory with scoreboards: use WORKER_HEALTH and HTTP")
        return 1
    why = diagnose(root / "run", app)
    if why:
        fail(why)
    return 1 if why else 0


def _app_name(module: str) -> str:
    _, _, name = module.partition(":")
    return name or load_service(module).app.__name__


def diagnose(run: Path, app: str = "", *, now: int | None = None) -> str:
    """Return why no worker is ready; empty: a worker is ready.

    Args:
        run: directory of the scoreboards.
        app: only supervisors of this app count; empty = any.
        now: monotonic nanoseconds.
    """
    whose = f"of {app} " if app else ""
    reasons = []
    try:
        boards = sorted(entry for entry in os.listdir(run) if entry.endswith(".board"))
    except (FileNotFoundError, NotADirectoryError):
        boards = []
    except OSError as error:
        why = f"{error.strerror or error} for uid {os.geteuid()}".lower()
        return f"{run}: {why}: run the probe as the user of the workers, or set WORKER_ENGINE_URL as they do"
    for path in (run / entry for entry in boards):
        try:
            board = Scoreboard.open(path)
        except (OSError, ValueError) as error:
            reasons.append(f"{path} cannot be read: {error}")
            continue
        if (app and not board.is_of(app)) or not board.supervised():
            continue
        why = _worst(board, time.monotonic_ns() if now is None else now)
        if why.startswith(SILENT) and now is None:  # perhaps all stood still until now: look again
            time.sleep(LOOK_AGAIN)
            with suppress(OSError, ValueError):
                board = Scoreboard.open(path)
            why = _worst(board, time.monotonic_ns())
        if not why:
            return ""
        reasons.append(f"{board.app}, supervisor {board.supervisor}: {why}")
    return "; ".join(reasons) or f"no supervisor {whose}lives on {run.parent}"


def _worst(board: Scoreboard, now: int) -> str:
    """Return one line about the workers of a supervisor; empty: one of them is ready."""
    workers = [slot for slot in board.all_slots() if slot.is_worker]
    ready = [slot for slot in workers if slot.state == READY]
    if any(_turns(board, slot, now) for slot in ready):
        return ""
    if ready:
        youngest = min(now - slot.tick for slot in ready) / 1e9
        return f"{SILENT} for {youngest:.0f} s"
    if board.deadline or any(slot.state == LEAVING for slot in workers):
        return "draining"
    return f"none of {len(workers)} workers is ready"


def _turns(board: Scoreboard, slot: SlotState, now: int) -> bool:
    """Return whether a worker's loop turns, or runs a job.

    A sync worker's loop stands still while its handler runs; the supervisor watches the deadline of that handler.
    """
    return now - slot.tick < STUCK * 1e9 or bool(board.busy_rows(slot.index))
