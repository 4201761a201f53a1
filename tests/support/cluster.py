"""Real `worker run` trees on one spool: started, watched, killed; what their logs and boards say, kept as facts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from framework.process.scoreboard import Scoreboard, SlotState, process_start

PROJECT = Path(__file__).parents[2]


@dataclass
class Facts:
    """What the logs of all trees said, and what was done to them.

    Attributes:
        lost: by span id, (when, which tree) its loss was logged; wall seconds.
        rescued: (when, owner, queue, count) of jobs that went back unstarted.
        exits: by pid, (reason, code).
        killed_by_supervisor: (pid, kill reason).
        deaths: by incarnation, when we killed it; wall seconds.
        disturbed: (from, to) in which maintenance or a supervisor was dead or stopped by us.
        housekeepers: (when, tree) a maintenance process was killed by us.
        tracebacks: lines that no log line of ours should be.
        events: how often each log event came.
    """

    lost: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    rescued: list[tuple[float, str, str, int]] = field(default_factory=list)
    exits: dict[int, tuple[str, int]] = field(default_factory=dict)
    killed_by_supervisor: list[tuple[int, str]] = field(default_factory=list)
    deaths: dict[str, float] = field(default_factory=dict)
    disturbed: list[tuple[float, float]] = field(default_factory=list)
    housekeepers: list[tuple[float, int]] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)


class Tree:
    """One `worker run`. `number` tells its lives apart."""

    def __init__(self, number: int, environ: dict[str, str], module: str, arguments: tuple[str, ...], facts: Facts):
        self.number = number
        self._facts = facts
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("worker"), "run", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=PROJECT,
        )
        self.start = process_start(self.process.pid)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if b"job_finished" not in line:  # the most by far, and the ledger has them
                self._take(line)

    def _take(self, line: bytes) -> None:
        facts = self._facts
        try:
            event = json.loads(line)
        except ValueError:
            facts.tracebacks.append(line.decode(errors="replace").rstrip())
            return
        name = event.get("event", "")
        facts.events[name if name.isidentifier() else event.get("level", "")] += 1
        match name:
            case "attempt_lost":
                facts.lost.setdefault(event.get("span_id", ""), []).append((when(event), self.number))
            case "jobs_rescued":
                facts.rescued.append((when(event), event["owner"], event["queue"], len(event["job_ids"])))
            case "process_exited":
                facts.exits[event["pid"]] = (event["reason"], event["code"])
                self.lines.append(event)
            case "process_killed":
                facts.killed_by_supervisor.append((event["pid"], event["kill_reason"]))
                self.lines.append(event)
            case "process_ready" | "worker_leaving":
                pass
            case _:
                self.lines.append(event)

    def finish_reading(self) -> None:
        """After its end: all that it wrote has been read."""
        self._thread.join(5)

    def text(self, most: int = 10) -> str:
        """Its last log lines that are worth reading."""
        return " | ".join(str({k: v for k, v in e.items() if k != "timestamp"}) for e in self.lines[-most:])


class Cluster:
    """Trees on one spool, one module.

    Args:
        place: a directory of this run.
        environ: added to the environment of every tree.
    """

    def __init__(self, place: Path, module: str, *arguments: str, **environ: str) -> None:
        self.place = place
        self.root = place / "spool"
        self.ledger = place / "ledger"
        self.ledger.touch()
        self.facts = Facts()
        self.trees: list[Tree] = []
        self._module = module
        self._arguments = arguments
        self._count = 0
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "LEDGER": str(self.ledger),
            "WORKER_ENGINE_URL": f"spool:{self.root}",
            "WORKER_DURABILITY": "process",
            "WORKER_LOG_FORMAT": "json",
            **environ,
        }

    def start_tree(self, **environ: str) -> Tree:
        """Starts one more tree."""
        self._count += 1
        tree = Tree(self._count, {**self.environ, **environ}, self._module, self._arguments, self.facts)
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
            if board.supervisor == tree.process.pid:
                return board, [slot for slot in board.all_slots() if slot.pid and alive(slot.pid, slot.pid_start)]
        return None

    def ready(self, tree: Tree) -> bool:
        """Whether all its slots are."""
        found = self.slots(tree)
        return found is not None and len(found[1]) == found[0].slots and all(slot.state == 2 for slot in found[1])

    def leftovers(self) -> list[tuple[int, str]]:
        """Every process that descends from this cluster: its environment names our ledger, a fork's as well."""
        mark = f"LEDGER={self.ledger}\0".encode()
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


def when(event: dict[str, Any]) -> float:
    """Wall seconds of a log line."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def alive(pid: int, start: int | None = None) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and (start is None or int(fields[19]) == start)


def send(pid: int, start: int, number: signal.Signals) -> bool:
    """A signal to one life of a process, never to a stranger who has its pid by now. False: it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if process_start(pid) != start:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_until(happened: Any, seconds: float, pause: float = 0.02) -> bool:
    """Looks until it has happened; False: it has not."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
