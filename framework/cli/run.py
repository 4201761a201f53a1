"""The command `worker run`, which runs a service's workers."""

from __future__ import annotations

import os

import click

from framework.cli.pausing import pause_all
from framework.cli.service import MODULE_HELP, load_service, refuse_memory, take
from framework.telemetry.logs import lean
from framework.telemetry.sdk import plugins


@click.command(short_help="Run a service's workers until SIGTERM or Ctrl-C.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Serve only this queue; may be repeated.")
@click.option("--paused", is_flag=True, help="Pause the queues first; `worker resume` starts each.")
def run(given: tuple[str, ...], queues: tuple[str, ...], paused: bool) -> int:
    """Run a service's workers until SIGTERM or Ctrl-C, then drain.

    A first signal lets running jobs finish (WORKER_DRAIN, 25 s); a second one ends them at once, and they run again.

    Exit code: 0 drained, 1 error, 2 usage or import, 3 engine unreachable or refusing, 4 restart budget exceeded,
    5 drain deadline passed (its jobs were handed back).
    """
    (module,) = take(given)
    lean.import_structlog()
    here = os.getcwd()  # the import may change it
    plugins.try_all()
    service = load_service(module)
    names = [service.queue(name).name for name in queues]
    refuse_memory(service.settings)
    if paused:
        pause_all(service, names or sorted(service.app.worker_handlers))
    from framework.runner import leaving
    from framework.runner import service as supervisor  # imports OpenTelemetry

    code = supervisor.run(service.app, service.settings, names or None, target=module, here=here)
    leaving.end_threads(code)  # threads that the import of the service started
    return code
