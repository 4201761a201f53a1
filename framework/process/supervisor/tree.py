"""The state that the parts of a supervisor share: its children, the board, and the progress of the drain."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from framework.model.black_box import BlackBox
from framework.model.events import Event, ProcessKilled, SupervisorNote
from framework.process.blackbox import Recorder
from framework.process.scoreboard import DIED, TIMEOUT, Scoreboard
from framework.process.standstill import Standstill
from framework.process.supervisor import children
from framework.process.supervisor.child import Child
from framework.process.supervisor.children import ChildSpec

TURN = 0.5  # seconds between looks at the board: so late may the SIGKILL be of a job that began since the last look
QUIET_TURN = 1.0  # the same while no job runs and no process starts or leaves: waking up is most of an idle tree's cost


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """The supervisor's limits; times in seconds.

    `drain` None: as long as it takes. `quickest`: the shortest time from the start of a job to its hard deadline.
    """

    drain: float | None = 25.0
    restart_budget: int = 10
    restart_window: float = 60.0
    ready_within: float = 60.0
    quickest: float = 0.0


class Kill(NamedTuple):
    """The arguments of `Tree.kill`."""

    child: Child
    reason: str
    kind: int
    why: str
    charged: Sequence[int] | None = None


class Tree:
    """The children of one supervisor.

    Attributes:
        children: all of them; `workers` are those that leave first, `last` those that leave after them.
        draining: the service stops; no worker is started any more.
        deadline: monotonic seconds at which the drain must be over; None: as long as it takes.
        exit_code: the supervisor's exit code, as far as it is known.
        recorder: keeps what is known of children that die; None: nothing does.
        still: the record of the time for which the whole tree stood still.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        board: Scoreboard,
        options: SupervisorOptions,
        emit: Callable[[Event], None],
        recorder: Recorder | None = None,
    ) -> None:
        self.children = [Child(spec, start_at=0.0) for spec in specs]
        self.workers = [child for child in self.children if not child.spec.last]
        self.last = [child for child in self.children if child.spec.last]
        self.board = board
        self.options = options
        self.recorder = recorder
        self.emit = emit
        self.draining = False
        self.deadline: float | None = None
        self.exit_code = 0
        self.still = Standstill(TURN, time.monotonic())

    def turned(self, now: float) -> None:
        """Move all deadlines by the time for which the supervisor, and so the tree, has just stood still."""
        gap = self.still.turned(now)
        if not gap:
            return
        for child in self.children:
            if child.kill_at is not None:
                child.kill_at += gap
        if self.deadline is not None:
            self.deadline += gap
            self.board.deadline = int(self.deadline * 1e9)
        self.board.stood_still = self.still.total
        self.note(f"everything stood still for {gap:.1f} s: all deadlines are later by that", "warning")

    def note(self, text: str, level: str = "info") -> None:
        """Write a line to the log."""
        self.emit(SupervisorNote(text, level))  # type: ignore[arg-type]

    def terminate(self, child: Child) -> None:
        """Tell a child to leave, by a signal and on the board, because a handler may take the signal."""
        assert child.pid is not None
        self.board.tell_to_leave(child.spec.index)
        child.sent.add(signal.SIGTERM)
        children.terminate(child.pid)

    def kill_hung(self, kills: Sequence[Kill]) -> None:
        """Kill children that do not leave by themselves, with what they say about where they stand: all are asked at
        once, and all together get `blackbox.WITHIN` seconds to answer.

        Children on demand are not asked. The signal ends a `sleep` of C code, and they would begin something else.
        """
        began = time.monotonic()
        asked = [(kill.child.spec.index, kill.child.pid or 0) for kill in kills if not kill.child.spec.on_demand]
        if asked and self.recorder is not None:
            self.recorder.wait(asked)
        for kill in kills:
            self.kill(*kill, since=began)

    def kill(
        self,
        child: Child,
        reason: str,
        kind: int,
        why: str,
        charged: Sequence[int] | None = None,
        *,
        since: float | None = None,
    ) -> None:
        """Kill a child and its process group.

        `charged` names the rows that are charged; None: the kind decides. `since`: when it was due, in
        monotonic seconds.
        """
        assert child.pid is not None
        # The kill reason comes first: a rescuer that finds the process dead must already find the reason.
        ruin = self.board.ruin(child.spec.index)
        if ruin is None and kind == DIED:
            self.board.write_death(child.incarnation, why)
        elif ruin is None:
            self.board.write_kill_reason(child.incarnation, kind, charged)
        else:  # it hangs while it leaves: the job that ruined it is still charged
            self.board.write_death(child.incarnation, ruin.detail, ruin.charged)
        child.killed = reason
        children.kill_group(child.pid)
        waited = 0.0 if since is None else time.monotonic() - since
        box = BlackBox()
        if self.recorder is not None:  # what it has written is in memory that it leaves behind
            box = self.recorder.keep(child.spec.index, child.incarnation, charged)
        how = "timeout" if kind == TIMEOUT else "planned"
        self.emit(ProcessKilled(child.spec.name, child.pid, how, why, box.where, box.stack, box.log, waited))
