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
from framework.model.events import Bus, ServiceMistake
from framework.model.exceptions import describe
from framework.process import stdio
from framework.process.mailbox import Mailbox
from framework.process.scoreboard import Scoreboard
from framework.process.supervisor import FAILED_TO_START, Birth, Instance, end_with, enter_spawned
from framework.runner.children import specs
from framework.runner.code import LoadedCode, declared
from framework.runner.lost import LostAttempts
from framework.runner.place import Place
from framework.runner.resolving import resolve
from framework.service.loading import load_app
from framework.service.settings import load_settings
from framework.telemetry import ProcessIdentity, rings_from, start


def main() -> int:
    """Run the child that `children` has described on the command line; return its exit code."""
    life = json.loads(sys.argv[1])
    birth = Birth(**life["birth"])
    if not enter_spawned(birth):
        return 0
    _, lock, _ = life["instance"]
    for descriptor in (birth.waker, birth.poke, lock, life["board"], life["stacks"], *life["lost"]):
        os.set_inheritable(descriptor, False)  # only exec needed it; what a handler starts must not get them
    code = LoadedCode.received(life["code"])
    try:
        place = _place(life)
        mistake = "" if declared(place.app) == life["declares"] else _other_app(life, place)
    except WorkerError as error:
        mistake = str(error)
    except BaseException as error:  # also sys.exit() in the service's import: this process is not a worker yet
        mistake = f"{life['target']} cannot be imported: {type(error).__name__}: {describe(error)[0]}"
    mistake = code.changed() or mistake
    if mistake:
        return _refuse(life, birth, mistake)
    board = Scoreboard.inherited(life["board"], place.instance.board_path)
    return specs(place, board)[birth.index].run(birth)


def _place(life: dict[str, Any]) -> Place:
    number, lock, board_path = life["instance"]
    app, settings = load_app(life["target"]), load_settings()
    return Place(
        app,
        settings,
        options=resolve(app, settings),
        served=life["queues"],
        system=life["system"],
        instance=Instance(number, lock, Path(board_path)),
        target=life["target"],
        here=os.getcwd(),
        rings=rings_from(*life["rings"]) if life["rings"] else None,
        lost=next((LostAttempts(Mailbox(descriptor)) for descriptor in life["lost"]), None),
        stacks=life["stacks"],
    )


def _other_app(life: dict[str, Any], place: Place) -> str:
    return (
        f"{life['target']} declares {', '.join(declared(place.app))} in this process and "
        f"{', '.join(life['declares'])} in the supervisor: it must declare the same at every import"
    )


def _refuse(life: dict[str, Any], birth: Birth, mistake: str) -> int:
    """Report in one line why this process will not work; return its exit code."""
    with suppress(Exception):
        identity = ProcessIdentity(life["app"], "supervisor", birth.name, life["instance"][0], life["system"])
        Bus(start(identity, load_settings()).subscribe).emit(
            ServiceMistake(birth.name, f"{birth.name} cannot start: {mistake}")
        )
    return FAILED_TO_START


if __name__ == "__main__":
    stdio.fill_closed()
    end_with(main)  # sys.exit would wait for threads that the service's import started
