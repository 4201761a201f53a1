"""A child that could not be forked: `python -m framework.runner.spawned`. Nobody imports this: what a package has
imported already, runpy would run a second time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from framework.loading import load_app
from framework.runner.children import specs
from framework.runner.leaving import exit_after
from framework.runner.place import Place
from framework.runner.resolving import resolve
from framework.scoreboard import Scoreboard
from framework.settings import load_settings
from framework.supervisor import Birth, Instance, enter_spawned
from framework.telemetry import rings_from


def main() -> None:
    """The life that `children` wrote down."""
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
    code = specs(place, Scoreboard.open(Path(life["board"])))[birth.index].run(birth)
    exit_after(lambda: None, code)  # sys.exit would wait for the threads that the service's import started


if __name__ == "__main__":
    main()
