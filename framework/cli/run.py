"""The command `worker run`, which runs a service's workers."""

from __future__ import annotations

import os

import click

from framework.cli.operate.pausing import pause_all
from framework.cli.service import MODULE_HELP, load_service, refuse_memory, take
from framework.model.errors import UsageError
from framework.telemetry.logs import lean
from framework.telemetry.sdk import plugins


@click.command(short_help="Run a service's workers until SIGTERM or Ctrl-C.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Serve only this queue; may be repeated.")
@click.option("--paused", is_flag=True, help="Pause the queues first; `worker resume` starts each.")
@click.option("--burst", is_flag=True, help="Drain and end with 0 once nothing is waiting, running or due.")
@click.option("--reload", is_flag=True, help="Start again when a .py file below the working directory changes.")
@click.option(
    "--solo",
    is_flag=True,
    help="One process, one job at a time, which nothing stops: no timeouts, no cancellation. For a debugger.",
)
@click.option("--parent", type=int, hidden=True)
def run(
    given: tuple[str, ...],
    queues: tuple[str, ...],
    paused: bool,
    burst: bool,
    reload: bool,
    solo: bool,
    parent: int | None,
) -> int:
    """Run a service's workers until SIGTERM or Ctrl-C, then drain.

    A first signal lets running jobs finish (WORKER_DRAIN, 25 s); a second one ends them at once, and they run again.

    Exit code: 0 drained, 1 error, 2 usage or import, 3 engine unreachable or refusing, 4 restart budget exceeded,
    5 drain deadline passed (its jobs were handed back).
    """
    (module,) = take(given)
    here = os.getcwd()  # the import may change it
    if reload:
        others = {"--burst": burst, "--solo": solo, "--paused": paused}
        return _reload(module, queues, here, refused=[name for name, given in others.items() if given])
    if paused and burst:
        raise UsageError("--burst ends once nothing may run, and --paused lets nothing run: use one of the two")
    lean.import_structlog()
    plugins.try_all()
    service = load_service(module)
    names = [service.queue(name).name for name in queues]
    refuse_memory(service.settings)
    if paused:
        pause_all(service, names or sorted(service.app.worker_handlers))
    from framework.runner import leaving
    from framework.runner import service as supervisor  # imports OpenTelemetry

    how = supervisor.How(burst, solo, parent)
    code = supervisor.run(service.app, service.settings, names or None, target=module, here=here, how=how)
    leaving.end_threads(code)  # threads that the import of the service started
    return code


def _reload(module: str, queues: tuple[str, ...], here: str, *, refused: list[str]) -> int:
    if refused:
        raise UsageError(f"--reload goes with a tree that stays, not with {refused[0]}: use one of the two")
    from framework.cli.starting import reload

    return reload.run([module, *(part for name in queues for part in ("--queue", name))], here)
