"""The whole run: `python -m bench`; QUICK=1 takes some two minutes; `--only NAME` leaves systems out."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from bench import goals, machine, plot, results, table
from bench.children.marks import Marks
from bench.measure.backlog import measure_backlog
from bench.measure.life import measure_prefork, measure_starts, measure_tree
from bench.measure.rounds import PROBLEMS, Rounds, load_note
from bench.place import Place, storage
from bench.samples import Samples
from bench.sizes import FULL, QUICK, Sizes
from bench.spans import Receiver
from bench.spawn import ROOT
from bench.systems.base import System
from bench.systems.ours import Ours, SampledOut, Traced, WithReceiver
from bench.systems.peers import Celery, FastStream, HueyFsync, HueyNoFsync
from bench.systems.postgres import OursOnPostgres, PgQueuer
from bench.systems.sqlite import Sqlite

SYSTEMS: list[type[System]] = [
    Sqlite, Ours, SampledOut, Traced, HueyFsync, HueyNoFsync, FastStream, PgQueuer, OursOnPostgres,
    Celery
]  # fmt: skip
SPARE = 10_000  # marks beyond the backlog, for what is enqueued on top of it

Measure = Callable[[Any, Marks, Samples, Sizes], None]


class Run:
    """One run of everything, with what it needs."""

    def __init__(self, place: Place, sizes: Sizes, wanted: list[type[System]], opened: ExitStack) -> None:
        self.samples = Samples()
        self._sizes = sizes
        self._place = place
        self._opened = opened
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # marks must not cause writes to a disk
        directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=shared))
        os.chmod(directory, 0o755)
        self._marks = Marks(Path(directory) / "marks", sizes.backlog + SPARE)
        self._receiver = opened.enter_context(Receiver(place.path / "receiver.log"))
        WithReceiver.receiver = self._receiver
        systems = [found for kind in wanted if (found := self._open(kind, kind.__name__.lower())) is not None]
        self._rounds = Rounds(systems, self._marks, self.samples, sizes, self._receiver)

    def _open(self, kind: type[System], directory: str) -> Any:
        """A started system; None (and why, among the skipped) if it cannot be started."""
        progress(f"starting {kind.name}")
        place = self._place.path / directory
        place.mkdir()
        system = kind(place, self._marks)
        try:
            system.open()
        except PROBLEMS as error:
            self.samples.skipped[kind.name] = str(error)
            return None
        self._opened.callback(system.close)
        return system

    def measure(self) -> None:
        """Rounds, then what is measured of one system at a time."""
        self._rounds.run(progress)
        progress("start-up, trees of 8")
        self._each(Ours, "start-up", measure_starts)
        self._each(Ours, "tree of 8", measure_tree)
        self._each(Traced, "tree of 8", measure_tree)
        self._each(Celery, "tree of 8", measure_prefork)
        if any(type(system) is Ours for system in self._rounds.systems):
            progress(f"a backlog of {self._sizes.backlog:,}")
            deep = self._open(Ours, "backlog")
            if deep is not None:
                self._rounds.systems.append(deep)
                self._each_of([deep], "backlog", measure_backlog)

    def _each(self, kind: type[System], what: str, measure: Measure) -> None:
        self._each_of([system for system in self._rounds.systems if type(system) is kind], what, measure)

    def _each_of(self, systems: Sequence[System], what: str, measure: Measure) -> None:
        for system in systems:
            self._rounds.guarded(system, what, lambda one: measure(one, self._marks, self.samples, self._sizes))


def progress(text: str) -> None:
    """To standard error: the report is alone on standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """0 unless the run itself failed: goals that are not met, and systems that are skipped, are reported."""
    options = _options()
    sizes = QUICK if options.quick else FULL
    began, date = time.monotonic(), datetime.now(UTC)
    wanted = [kind for kind in SYSTEMS if not options.only or kind.__name__.lower() in options.only.lower().split(",")]
    signal.signal(signal.SIGTERM, _leave)
    busy = load_note()
    with storage(ROOT / "var" / "bench", gigabytes=sizes.image, files=sizes.files) as place, ExitStack() as opened:
        run = Run(place, sizes, wanted, opened)
        if busy:
            run.samples.note(busy)
        run.measure()
    _report(
        run.samples, wanted, place, sizes.mode, date, time.monotonic() - began, keep=not options.only, busy=bool(busy)
    )
    return 0


def _report(
    samples: Samples,
    wanted: list[type[System]],
    place: Place,
    mode: str,
    date: datetime,
    seconds: float,
    *,
    keep: bool,
    busy: bool,
) -> None:
    """Prints it; `keep`: also stores it, so that later runs are compared with it, unless it was `busy` meanwhile."""
    judged = goals.judge(samples)
    facts: dict[str, Any] = {
        "date": date.isoformat(timespec="seconds"),
        "mode": mode,
        "command": ("QUICK=1 " if mode == "quick" else "") + shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "commit": machine.commit(),
        "busy": busy,
        "seconds": round(seconds),
        "machine": machine.describe(place.description),
        "versions": machine.versions(name for kind in wanted for name in kind.distributions),
        "configurations": {kind.name: kind.configuration for kind in wanted},
    }
    before = results.last(facts["machine"]["key"], mode, facts["date"])
    print(table.about(wanted, samples, facts))
    print()
    print(table.render(samples, wanted, judged))
    print()
    print("\n".join(results.fallen(samples, before)) if before else "no earlier run of this machine to compare with")
    print(f"{seconds:.0f} s; " + (_store(samples, judged, wanted, facts) if keep else "a part is not stored"))


def _store(samples: Samples, judged: list[goals.Goal], wanted: list[type[System]], facts: dict[str, Any]) -> str:
    """Writes JSON and pictures; says where."""
    stem = "".join(character for character in facts["date"][:19] if character != ":")
    stored = results.store(results.as_json(samples, judged, **facts), f"{stem}-{facts['mode']}")
    title = ", ".join(str(part) for part in (facts["date"], facts["mode"], *list(facts["machine"].values())[:6]))
    drawn = plot.draw(samples, wanted, title, stored)
    files = ", ".join(os.path.relpath(path) for path in (stored, *drawn))
    return f"stored: {files}" + ("" if drawn else " (no picture: matplotlib is not installed)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    names = ",".join(kind.__name__.lower() for kind in SYSTEMS)
    parser.add_argument("--only", default="", metavar="NAMES", help=f"of {names}")
    return parser.parse_args()


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
