"""A child of the supervisor: its current process, and what is known of why that ends."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from framework.process.supervisor.children import FAILED_TO_CLOSE, FAILED_TO_START, ChildInfo, ChildSpec
from framework.process.supervisor.policy import Backoff


@dataclass
class Child:
    """The state of one child, through all its processes. Times are monotonic seconds.

    Attributes:
        mark: the mark of the child and its descendants.
        pid: None while it has no process.
        image: identifies its program, as `platform.image` returns it once the child is ready.
        start_at: when the next process may start; None: one runs, or none is to start.
        leaving: it was told to leave (SIGTERM).
        kill_at: when it is killed if it has not left.
        killed: the exit reason that was decided by killing it.
        asked: it was asked for its stacks, because its kill is near.
        flushing: it was late but had settled everything, and got more time for its telemetry.
        vain: processes in a row that failed before they were ready, or in a drain.
        sent: signals that the supervisor has sent to this process, except SIGKILL; a handler may have reset them to
            their default.
    """

    spec: ChildSpec
    pid: int | None = None
    incarnation: str = ""
    mark: int = 0
    born_at: float = 0.0
    ready: bool = False
    image: int = 0
    start_at: float | None = None
    leaving: bool = False
    kill_at: float | None = None
    killed: str = ""
    asked: bool = False
    flushing: bool = False
    vain: int = 0
    sent: set[int] = field(default_factory=set)
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def due_at(self) -> float | None:
        """Return when the next process starts. None: one runs, none is to start, or it is on demand and not
        wanted."""
        wanted = self.spec.wanted
        return self.start_at if self.start_at is None or wanted is None or wanted() else None

    def begin(self, pid: int, info: ChildInfo, now: float) -> None:
        """Record a new process."""
        self.pid, self.incarnation, self.mark, self.born_at = pid, info.incarnation, info.mark, now
        self.ready = self.leaving = self.asked = self.flushing = False
        self.start_at = self.kill_at = None
        self.image = 0  # unknown yet: the start of an interpreter would look like a program that a job executes
        self.killed = ""
        self.sent = set()

    def planned(self, code: int) -> bool:
        """Return whether an exit code answers a signal of the supervisor. It does after death by that signal, or with
        code 143 or 0 after SIGTERM, with which many libraries end a process."""
        stopped = code in (0, 128 + signal.SIGTERM) and signal.SIGTERM in self.sent
        return self.killed == "" and (-code in self.sent or stopped)

    def end(self) -> None:
        """Record that the process has ended."""
        self.pid = None
        self.kill_at = None


def exit_reason(child: Child, code: int, *, draining: bool, left: bool, out_of_memory: bool) -> str:
    """Return one of scoreboard.EXIT_REASONS.

    Args:
        left: the board says that the process had decided to leave.
    """
    told = draining or child.leaving
    if child.killed:
        return child.killed
    if told and (code == 0 or child.planned(code) or (code == -signal.SIGTERM and not child.ready)):
        return "drained"
    if (code == 0 and left) or child.planned(code):
        return "recycled" if not child.spec.on_demand else "drained"
    if code == FAILED_TO_CLOSE:
        return "failed_to_close"
    if code == FAILED_TO_START or (code == 0 and not child.ready):
        return "failed_to_start"
    if code == -signal.SIGKILL:
        return "out_of_memory" if out_of_memory else "killed"
    return "crashed"


def describe_exit(code: int) -> str:
    """Return `signal SIGSEGV` or `exit code 70`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
