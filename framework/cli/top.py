"""The command `worker top`, which shows a store live in a terminal, or as lines in a pipe."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from framework.admin.actor import actor
from framework.admin.store import refuse_memory, root_of
from framework.cli.operate import shown
from framework.cli.operate.common import STORE_HELP, json_option, module_of, url_option
from framework.cli.output import complain, is_terminal
from framework.cli.service import load_service
from framework.engine.port import shown as shown_url
from framework.model.errors import UsageError
from framework.service.settings import load_settings

if TYPE_CHECKING:
    from framework.admin.live.desk import Desk

EVERY = 2.0  # seconds


@click.command(short_help="Watch queues, what runs and what has failed, live; act on it.", epilog=STORE_HELP)
@click.argument("given", nargs=-1, metavar="[MODULE]")
@url_option
@click.option("--interval", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help=f"Between two looks; {EVERY:g}.")
@click.option("--read-only", is_flag=True, help="Allow no acts.")
@json_option
def top(given: tuple[str, ...], url: str, interval: float | None, read_only: bool, as_json: bool) -> int:
    """Watch a store live: its queues, what runs now, what has failed, and each job with all that is known.

    Keys, which ? lists, pause and resume queues, cancel, replay and delete jobs, each after a question and noted with
    WORKER_ACTOR or the user of the system, as the other commands do. It works while no worker runs, and says since when
    none has reported. A store that does not answer is asked again.

    Where standard output is no terminal, or with --json, it prints the same as lines, once or every --interval.

    \b
    --json is one object, with --interval one a line; more keys may come:
      at          when it was looked at (ISO time, UTC)
      silent      no running service reports (boolean); seen: when the last one did (ISO time; null: not known)
      queues      objects as of `worker queues --json`, with rate: attempts that end in a second in the queue's own
                  processes on this machine (number; null: not known)
      running     objects as of the jobs of `worker ps --json`, with worker (its slot). A job that is claimed by a
                  process of which nothing on this machine tells has only id, queue, worker (empty) and since
      failures    objects as of `worker dead groups --json`, of the first 2,000 dead letters
      problems    what could not be read, one line each; notes: what else is to be known of the store
    """
    module = module_of(given, url)
    service = load_service(module) if module else None
    settings = load_settings() if service is None else service.settings
    place = url or settings.engine_url
    refuse_memory(place)
    root_of(place)  # a URL of no engine is an error at once
    from framework.admin.live.desk import Desk  # not before: it takes asyncio along

    app = None if service is None else service.app
    desk = Desk(settings, app, url, lambda event: None)
    if as_json or not _has_screen():
        from framework.cli.operate.snapshot import repeat

        return repeat(desk, interval, as_json)
    name = f"{app.__name__} on {shown_url(place)}" if app else shown_url(place)
    return _screen(desk, name, interval or EVERY, "" if read_only else actor())


def _screen(desk: Desk, name: str, every: float, who: str) -> int:
    """Show the screen until a person leaves; return the exit code. Raises UsageError: the extra is missing."""
    try:
        from framework.top import screen
    except ModuleNotFoundError as error:
        raise UsageError(f"the terminal view needs {error.name}: pip install 'continuum-worker[top]'") from error
    plain = partial(shown.lines, paint=lambda text, code: text)
    code, said, closed = screen.run(desk, name, every, who, plain)
    if said:
        complain(f"worker: {said}")
    if not closed:  # a read that never ends would keep this process
        sys.stdout.flush()
        os._exit(code)
    return code


def _has_screen() -> bool:
    """Return whether all three streams are a terminal that can be drawn on: Textual writes to standard error."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(map(is_terminal, streams)) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
