"""The children of a tree: forked or, where that is not safe, fresh interpreters (`python -m framework.runner.children`)."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from framework.loading import load_app
from framework.runner import lives
from framework.runner.place import Place
from framework.runner.resolving import resolve
from framework.scoreboard import EXPORTER, MAINTENANCE, Scoreboard
from framework.settings import load_settings
from framework.supervisor import Birth, ChildSpec, Instance, enter_spawned
from framework.telemetry import rings_from


def specs(place: Place, board: Scoreboard) -> list[ChildSpec]:
    """Every child, by its index on the board."""
    argv = partial(_argv, place)
    found = [ChildSpec(MAINTENANCE, 0, lambda birth: lives.maintain(place, birth, board), last=True, argv=argv)]
    for slot, name, number in place.workers:
        work = partial(lives.work, place, board=board, name=name, number=number)
        found.append(ChildSpec(slot, len(found), work, argv=argv))
    if place.rings is not None:
        export = partial(lives.export, place, board=board)
        found.append(ChildSpec(EXPORTER, len(found), export, last=True, vital=False, argv=argv))
    return found


def _argv(place: Place, birth: Birth) -> list[str]:
    """The command of an interpreter that lives the same life."""
    instance, rings = place.instance, place.rings
    life: dict[str, Any] = {
        "app": f"{place.app.__module__}:{place.app.__qualname__}",
        "queues": place.served,
        "system": place.system,
        "instance": (instance.number, instance.descriptor, str(instance.board_path)),
        "leader": str(place.leader_path),
        "rings": rings and (rings.run, rings.number, rings.mark, rings.slots),
        "birth": {name: getattr(birth, name) for name in Birth.__slots__},
    }
    return [sys.executable, "-m", "framework.runner.children", json.dumps(life)]


def main() -> None:
    """The life that `_argv` wrote down."""
    life = json.loads(sys.argv[1])
    birth = Birth(**life["birth"])
    if not enter_spawned(birth):
        return
    number, lock, board_path = life["instance"]
    for descriptor in (birth.waker, birth.poke, lock):
        os.set_inheritable(descriptor, False)  # exec needed it; what a handler starts must not keep them
    app, settings = load_app(life["app"]), load_settings()
    place = Place(
        app,
        settings,
        options=resolve(app, settings),
        served=life["queues"],
        system=life["system"],
        instance=Instance(number, lock, Path(board_path)),
        leader_path=Path(life["leader"]),
        rings=rings_from(*life["rings"]) if life["rings"] else None,
    )
    sys.exit(specs(place, Scoreboard.open(place.instance.board_path))[birth.index].run(birth))


if __name__ == "__main__":
    main()
