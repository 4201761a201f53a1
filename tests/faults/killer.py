"""Who is killed next in the kill soak, and how."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from framework.process.scoreboard import Scoreboard, SlotState
from tests.support.cluster import Cluster
from tests.support.processes import send
from tests.support.tree import Tree

DISTURBED = 1.0  # seconds after a blow to maintenance or supervisor in which a rescue may take longer


class Killer:
    """Deals one blow at a time.

    Args:
        cluster: the trees.
        producers: (pid, start) of the living producers.
        choices: where its decisions come from.

    Attributes:
        blows: how many of each kind hit somebody.
        beheaded: trees whose supervisor it has killed; the death itself may come a moment later.
    """

    def __init__(
        self, cluster: Cluster, producers: Callable[[], list[tuple[int, int]]], choices: random.Random
    ) -> None:
        self._cluster = cluster
        self._producers = producers
        self._choices = choices
        self._timers: list[threading.Timer] = []
        self.blows: Counter[str] = Counter()
        self.beheaded: list[Tree] = []

    @property
    def total(self) -> int:
        """SIGKILLs, without stops."""
        return sum(count for kind, count in self.blows.items() if not kind.startswith("stop"))

    def strike(self) -> None:
        """One blow."""
        kinds = {"worker": 70, "maintenance": 8, "supervisor": 3, "both heads": 1, "producer": 8, "stop": 10}
        [kind] = self._choices.choices(list(kinds), list(kinds.values()))
        if kind == "producer":
            living = self._producers()
            if living and send(*self._choices.choice(living), signal.SIGKILL):
                self.blows[kind] += 1
            return
        tree = self._choice_of_tree()
        found = self._cluster.slots(tree) if tree is not None else None
        if tree is None or found is None:
            return
        board, slots = found
        keeper = next((slot for slot in slots if slot.name == "maintenance"), None)
        workers = [slot for slot in slots if slot.name != "maintenance"]
        if kind == "worker" and workers:
            self._kill_worker(board, workers)
        elif kind == "maintenance" and keeper is not None:
            self._kill_keeper(tree, keeper)
        elif kind in ("supervisor", "both heads"):
            self._behead(tree, keeper if kind == "both heads" else None)
        elif kind == "stop":
            lives = [("supervisor", *tree.life), *((s.name, s.pid, s.pid_start) for s in slots)]
            self._stop(*self._choices.choice(lives))

    def _choice_of_tree(self) -> Tree | None:
        living = [tree for tree in self._cluster.trees if tree.process.poll() is None]
        return self._choices.choice(living) if living else None

    def _kill_worker(self, board: Scoreboard, workers: list[SlotState]) -> None:
        # Rather one with a job: killed while idle too often, a slot waits before its next start.
        busy = [slot for slot in workers if board.busy_rows(slot.index)]
        slot = self._choices.choice(busy if busy and self._choices.random() < 0.8 else workers)
        now = time.time()
        if send(slot.pid, slot.pid_start, signal.SIGKILL):
            self._cluster.facts.deaths[slot.incarnation] = now
            self.blows["worker"] += 1

    def _kill_keeper(self, tree: Tree, keeper: SlotState) -> None:
        now = time.time()
        if send(keeper.pid, keeper.pid_start, signal.SIGKILL):
            self._cluster.facts.housekeepers.append((now, tree.life))
            self._cluster.facts.disturbed.append((now, now + DISTURBED))
            self.blows["maintenance"] += 1

    def _behead(self, tree: Tree, keeper: SlotState | None) -> None:
        """The supervisor, and sometimes maintenance with it: then nobody of the tree is left to clean up."""
        now = time.time()
        if send(*tree.life, signal.SIGKILL):
            self._cluster.facts.disturbed.append((now, now + DISTURBED))
            self.beheaded.append(tree)
            self.blows["supervisor"] += 1
        if keeper is not None and send(keeper.pid, keeper.pid_start, signal.SIGKILL):
            self._cluster.facts.housekeepers.append((now, tree.life))
            self.blows["maintenance"] += 1

    def _stop(self, name: str, pid: int, start: int) -> None:
        """SIGSTOP, and SIGCONT later: it is alive all that time, so nobody may take its jobs."""
        seconds = self._choices.uniform(0.1, 1.5)
        now = time.time()
        if not send(pid, start, signal.SIGSTOP):
            return
        kind = name if name in ("supervisor", "maintenance") else "worker"
        self.blows[f"stop {kind}"] += 1
        if kind != "worker":
            self._cluster.facts.disturbed.append((now, now + seconds + DISTURBED))
        timer = threading.Timer(seconds, send, (pid, start, signal.SIGCONT))
        timer.daemon = True
        timer.start()
        self._timers = [old for old in self._timers if old.is_alive()] + [timer]

    def finish(self) -> None:
        """Whoever is stopped goes on."""
        for timer in self._timers:
            timer.join()
