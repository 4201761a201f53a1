"""The commands `worker pause` and `worker resume`."""

from __future__ import annotations

from typing import Literal

import click

from framework.admin.actor import actor
from framework.admin.acts import Acts, noted
from framework.cli.operate.common import STORE_HELP, looking, queue_of, url_option
from framework.cli.output import moment, warn
from framework.cli.service import Service, opened
from framework.model.text.printable import escape


@click.command(short_help="Stop a queue: its jobs wait until `worker resume`.", epilog=STORE_HELP)
@click.argument("given", nargs=-1, metavar="[MODULE] QUEUE")
@url_option
def pause(given: tuple[str, ...], url: str) -> int:
    """Stop a queue: its workers take no more jobs until `worker resume`, on all machines and after restarts.

    Running workers notice it within about a second, and finish the jobs that they run. Jobs can be enqueued as ever.
    A queue that is paused already stays so. WORKER_ACTOR, else the user of the system, is named in the log.
    """
    return _set(given, url, "pause")


@click.command(short_help="End the pause of a queue.", epilog=STORE_HELP)
@click.argument("given", nargs=-1, metavar="[MODULE] QUEUE")
@url_option
def resume(given: tuple[str, ...], url: str) -> int:
    """End the pause of a queue: its workers go on at once."""
    return _set(given, url, "resume")


def _set(given: tuple[str, ...], url: str, verb: Literal["pause", "resume"]) -> int:
    with looking(given, url, "QUEUE") as (look, (wanted,)):
        queue = queue_of(look, wanted)
        acts = Acts(look.store, actor(), noted(look.store))
        why = acts.pause(queue) if verb == "pause" else acts.resume(queue)
        print(f"{queue} {why.removesuffix(' already')}" if why else f"{verb}d {queue}")
        known = look.engine.paused(queue)
        if verb == "pause" and why and known is not None:
            warn(f"{queue} was paused by {escape(known.by) or 'somebody'} at {moment(known.since)}")
    return 0


def pause_all(service: Service, queues: list[str]) -> None:
    """Pause queues before their workers start, for `worker run --paused`. Raises EngineError."""
    with opened(service, create=True) as look:
        for queue in queues:
            Acts(look.store, actor(), noted(look.store)).pause(queue)
