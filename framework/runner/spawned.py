"""The main module of a child that could not be forked: `python -m framework.runner.spawned`.

No module may import it, because runpy would then run it a second time.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from framework.model.errors import WorkerError
from framework.model.events import ServiceMistake
from framework.model.text.exceptions import describe
from framework.process import stdio
from framework.process.blackbox import Pages, Store
from framework.process.blackbox.store import SUFFIX
from framework.process.mailbox import Mailbox
from framework.process.scoreboard import Scoreboard
from framework.process.supervisor import FAILED_TO_START, ChildInfo, Instance, end_with, enter_spawned
from framework.runner.bus import Bus
from framework.runner.code import LoadedCode, declared
from framework.runner.context import TreeContext
from framework.runner.entry_points import specs
from framework.runner.lost import LostAttempts
from framework.runner.resolving import declaration, resolve
from framework.service.loading import load_app
from framework.service.settings import load_settings
from framework.telemetry import ProcessIdentity, rings_from, start


def main() -> int:
    """Run the child that `entry_points` has described on the command line; return its exit code."""
    given = json.loads(sys.argv[1])
    child = ChildInfo(**given["child"])
    if not enter_spawned(child):
        return 0
    _, lock, _ = given["instance"]
    for descriptor in (child.waker, child.poke, lock, given["board"], *given["stacks"], *given["dead"], *given["lost"]):
        os.set_inheritable(descriptor, False)  # only exec needed it; what a handler starts must not get them
    code = LoadedCode.received(given["code"])
    try:
        context = _context(given)
        mistake = "" if declared(context.app) == given["declares"] else _other_app(given, context)
    except WorkerError as error:
        mistake = str(error)
    except BaseException as error:  # also sys.exit() in the service's import: this process is not a worker yet
        mistake = f"{given['target']} cannot be imported: {type(error).__name__}: {describe(error)[0]}"
    mistake = code.changed() or mistake
    if mistake:
        return _refuse(given, child, mistake)
    board = Scoreboard.inherited(given["board"], context.instance.board_path)
    if given["dead"]:
        pages, boxes = given["dead"]
        context.pages = Pages(board, pages)
        context.boxes = Store(context.instance.board_path.with_suffix(SUFFIX), boxes)
    return specs(context, board)[child.index].run(child)


def _context(given: dict[str, Any]) -> TreeContext:
    number, lock, board_path = given["instance"]
    app, settings = load_app(given["target"]), load_settings()
    options = resolve(app, settings)
    return TreeContext(
        app,
        settings,
        options=options,
        served=given["queues"],
        system=given["system"],
        instance=Instance(number, lock, Path(board_path)),
        target=given["target"],
        here=os.getcwd(),
        rings=rings_from(*given["rings"]) if given["rings"] else None,
        lost=next((LostAttempts(Mailbox(descriptor)) for descriptor in given["lost"]), None),
        stacks=given["stacks"],
        burst=given["burst"],
        declaration=declaration(app, options),
    )


def _other_app(given: dict[str, Any], context: TreeContext) -> str:
    return (
        f"{given['target']} declares {', '.join(declared(context.app))} in this process and "
        f"{', '.join(given['declares'])} in the supervisor: it must declare the same at every import"
    )


def _refuse(given: dict[str, Any], child: ChildInfo, mistake: str) -> int:
    """Report in one line why this process will not work; return its exit code."""
    with suppress(Exception):
        identity = ProcessIdentity(given["app"], "supervisor", child.name, given["instance"][0], given["system"])
        Bus(start(identity, load_settings()).subscribe).emit(
            ServiceMistake(child.name, f"{child.name} cannot start: {mistake}")
        )
    return FAILED_TO_START


if __name__ == "__main__":
    stdio.fill_closed()
    end_with(main)  # sys.exit would wait for threads that the service's import started
