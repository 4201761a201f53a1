"""The specifications of a tree's children: forked or, where that is not safe, fresh interpreters (see `spawned`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from framework.model.events import Event
from framework.process.scoreboard import EXPORTER, HOOKS, MAINTENANCE, Scoreboard
from framework.process.supervisor import Birth, ChildSpec
from framework.runner import entry_points as lives
from framework.runner import hooks
from framework.runner.code import declared
from framework.runner.place import Place


def specs(
    place: Place, board: Scoreboard, code: int = -1, say: Callable[[Event], None] = lambda event: None
) -> list[ChildSpec]:
    """Return the specifications of all children, in the order of their indexes on the board.

    Args:
        code: descriptor of the supervisor's `LoadedCode`, for fresh interpreters.
        say: takes the supervisor's events about its children.
    """
    argv = partial(_argv, place, board, code)
    maintain = partial(lives.maintain, place, board=board)
    found = [ChildSpec(MAINTENANCE, 0, maintain, last=True, argv=argv)]
    for slot, crew, number in place.workers:
        work = partial(lives.work, place, board=board, crew=crew, number=number)
        found.append(ChildSpec(slot, len(found), work, argv=argv))
    if (lost := place.lost) is not None:
        tell = partial(hooks.tell, place, board=board)
        found.append(
            ChildSpec(
                HOOKS, len(found), tell, last=True, vital=False, argv=argv,
                wanted=lost.wait, buried=partial(lost.say_abandoned, say),
            )
        )  # fmt: skip
    if place.rings is not None:
        export = partial(lives.export, place, board=board)
        found.append(ChildSpec(EXPORTER, len(found), export, last=True, vital=False, argv=argv))
    return found


def _argv(place: Place, board: Scoreboard, code: int, birth: Birth) -> list[str]:
    """Return the command of a fresh interpreter that runs the same child.

    It has the flags of this interpreter, and loads nothing from the working directory before the framework is imported.
    """
    instance, rings = place.instance, place.rings
    life: dict[str, Any] = {
        "app": place.app.__name__,
        "target": place.target,
        "declares": declared(place.app),
        "code": code,
        "queues": place.served,
        "system": place.system,
        "instance": (instance.number, instance.descriptor, str(instance.board_path)),
        "board": board.descriptor,
        "stacks": place.stacks,
        "lost": [place.lost.descriptor] if place.lost is not None else [],
        "rings": rings and (rings.run, rings.number, rings.mark, rings.slots),
        "birth": {name: getattr(birth, name) for name in Birth.__slots__},
    }
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-P", "-m", "framework.runner.spawned", json.dumps(life)]
