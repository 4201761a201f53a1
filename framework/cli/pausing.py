"""The commands `worker pause` and `worker resume`."""

from __future__ import annotations

import click

from framework.admin.actor import actor
from framework.cli.output import moment, warn
from framework.cli.service import MODULE_HELP, Look, Service, load_service, opened, take
from framework.model.text.printable import escape


@click.command(short_help="Stop a queue: its jobs wait until `worker resume`.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE QUEUE")
def pause(given: tuple[str, ...]) -> int:
    """Stop a queue: its workers take no more jobs until `worker resume`, on all machines and after restarts.

    Running workers notice it within about a second, and finish the jobs that they run. Jobs can be enqueued as ever.
    A queue that is paused already stays so. WORKER_ACTOR, else the user of the system, is named in the log.
    """
    return _set(given, paused=True)


@click.command(short_help="End the pause of a queue.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE QUEUE")
def resume(given: tuple[str, ...]) -> int:
    """End the pause of a queue: its workers go on at once."""
    return _set(given, paused=False)


def _set(given: tuple[str, ...], *, paused: bool) -> int:
    module, name = take(given, "QUEUE")
    service = load_service(module)
    queue = service.queue(name).name
    with opened(service) as look:
        if queue in look.refused:
            raise look.refused[queue]
        _change(look, queue, paused=paused)
    return 0


def _change(look: Look, queue: str, *, paused: bool) -> None:
    engine, who = look.engine, actor()
    done = engine.pause(queue, who) if paused else engine.resume(queue, who)
    print(f"{'paused' if paused else 'resumed'} {queue}" if done else f"{queue} is {'' if paused else 'not '}paused")
    known = engine.paused(queue)
    if paused and not done and known is not None:
        warn(f"{queue} was paused by {escape(known.by) or 'somebody'} at {moment(known.since)}")


def pause_all(service: Service, queues: list[str]) -> None:
    """Pause queues before their workers start, for `worker run --paused`. Raises EngineError."""
    with opened(service, create=True) as look:
        for queue in queues:
            if queue in look.refused:
                raise look.refused[queue]
            look.engine.pause(queue, actor())
