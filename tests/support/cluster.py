"""Several `worker run` trees on one store, which a test kills again and again; what their logs say, kept as facts."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from framework.process.scoreboard import Scoreboard, SlotState
from tests.support.output import NOT_JSON, Event
from tests.support.processes import alive
from tests.support.tree import Tree

Life = tuple[int, int]  # pid and start of a supervisor


@dataclass
class Facts:
    """What the logs of all trees said, and what was done to them.

    Attributes:
        lost: by span id, (when, by which tree) its loss was logged; wall seconds.
        rescued: (when, owner, queue, count) of jobs that went back unstarted.
        exits: by pid, (reason, code).
        killed_by_supervisor: (pid, kill reason).
        deaths: by incarnation, when we killed it; wall seconds.
        disturbed: (from, to) in which maintenance or a supervisor was dead or stopped by us.
        housekeepers: (when, tree) a maintenance process was killed by us.
        tracebacks: lines that no log line of ours should be.
        events: how often each log event came.
    """

    lost: dict[str, list[tuple[float, Life]]] = field(default_factory=dict)
    rescued: list[tuple[float, str, str, int]] = field(default_factory=list)
    exits: dict[int, tuple[str, int]] = field(default_factory=dict)
    killed_by_supervisor: list[tuple[int, str]] = field(default_factory=list)
    deaths: dict[str, float] = field(default_factory=dict)
    disturbed: list[tuple[float, float]] = field(default_factory=list)
    housekeepers: list[tuple[float, Life]] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    def hear(self, tree: Life, event: Event) -> bool:
        """Note what one event says. Return whether its text is kept: of a million jobs, most are not."""
        name = event.get("event", "")
        if name == NOT_JSON:
            self.tracebacks.append(event["text"].rstrip())
            return False
        if name == "job_finished":  # the most by far, and the ledger has them
            return False
        self.events[name if name.isidentifier() else event.get("level", "")] += 1
        match name:
            case "attempt_lost":
                self.lost.setdefault(event.get("span_id", ""), []).append((when(event), tree))
            case "jobs_rescued":
                self.rescued.append((when(event), event["owner"], event["queue"], len(event["job_ids"])))
            case "process_exited":
                self.exits[event["pid"]] = (event["reason"], event["code"])
            case "process_killed":
                self.killed_by_supervisor.append((event["pid"], event["kill_reason"]))
        return name not in ("process_ready", "worker_leaving", "attempt_lost", "jobs_rescued")


class Cluster:
    """Trees on one store, one module.

    Args:
        place: a directory of this run.
        url: of their engine; empty = a spool in `place`.
        environ: added to the environment of every tree.
    """

    def __init__(self, place: Path, module: str, *arguments: str, url: str = "", **environ: str) -> None:
        self.place = place
        self.root = place / "spool"  # also of an engine that is not local: its part on this machine
        self.url = url or f"spool:{self.root}"
        self.ledger_path = place / "ledger"
        self.ledger_path.touch()
        self.facts = Facts()
        self.trees: list[Tree] = []
        self._module = module
        self._arguments = arguments
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "LEDGER": str(self.ledger_path),
            "WORKER_ENGINE_URL": self.url,
            "WORKER_DURABILITY": "process",
            "WORKER_LOG_FORMAT": "json",
            **environ,
        }

    def start_tree(self, **environ: str) -> Tree:
        """Start one more tree; return at once. `leftovers` needs an interpreter of its own."""
        tree = Tree(self.place, keep=lambda event: self.facts.hear(tree.life, event))
        tree.environ = {**self.environ, **environ}
        tree.start(*self._arguments, module=self._module, ready=False, fresh=True)
        self.trees.append(tree)
        return tree

    def boards(self) -> Iterator[Scoreboard]:
        """Of all trees, the headless ones included."""
        for path in sorted((self.root / "run").glob("*.board")):
            with suppress(OSError, ValueError):
                yield Scoreboard.open(path)

    def slots(self, tree: Tree) -> tuple[Scoreboard, list[SlotState]] | None:
        """A tree's board, and what lives on it."""
        for board in self.boards():
            if board.supervisor == tree.life[0]:
                return board, [slot for slot in board.all_slots() if slot.pid and alive(slot.pid, slot.pid_start)]
        return None

    def ready(self, tree: Tree) -> bool:
        """Whether all its slots are."""
        found = self.slots(tree)
        return found is not None and len(found[1]) == found[0].slots and all(slot.state == 2 for slot in found[1])

    def leftovers(self) -> list[tuple[int, str]]:
        """Every process that descends from this cluster: its environment names our ledger, a fork's as well."""
        mark = f"LEDGER={self.ledger_path}\0".encode()
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and mark in Path(f"/proc/{entry}/environ").read_bytes():
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if alive(int(entry)):
                        found.append((int(entry), command[:100]))
        return found

    def close(self) -> None:
        """Ends whatever is left of it."""
        for tree in self.trees:
            if tree.process.poll() is None:
                tree.process.kill()
                tree.process.wait()
        for _ in range(3):
            for pid, _ in self.leftovers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def when(event: Event) -> float:
    """Return the wall seconds of a log line."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()
