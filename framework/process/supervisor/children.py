"""Starts and ends of child processes. Each child leads its own process group, so that what it forks ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from resource import struct_rusage
from typing import NoReturn

from framework.process import orphans, stdio
from framework.process.outlet import Outlet
from framework.process.signals import reset_in_child
from framework.process.supervisor import platform

FAILED_TO_START = 78  # exit code of a child whose lifespan or engine failed before it was ready
FAILED_TO_CLOSE = 79  # exit code of a child that failed while it was leaving
REFUSED = 77  # exit code of a child whose engine refuses for good
CRASHED = 70  # exit code of a child that ended by an unexpected exception
FLUSH = 0.5  # seconds that a child waits, at its end, for the reader of what its handlers printed
_ALL = signal.valid_signals()


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """The facts that a child is given at its start.

    Attributes:
        name: for example `deliveries/0` or `maintenance`.
        index: its slot on the scoreboard.
        incarnation: name of this run of the process, never reused.
        supervisor: pid of the parent; a different getppid() means that the parent is dead.
        waker: descriptor; a byte written to it wakes the supervisor.
        poke: descriptor that becomes readable when another child has died.
        mark: the mark that all its descendants inherit (`framework.process.orphans`).
    """

    name: str
    index: int
    incarnation: str
    supervisor: int
    waker: int
    poke: int
    mark: int


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The specification of a child to keep alive.

    Attributes:
        name, index: as in ChildInfo.
        run: runs in the child with all signals blocked: it installs its handlers, then unblocks. Returns the exit code.
        last: it is stopped only after all others are gone; several of them stop one after another, in their order.
        vital: the service cannot work without it, so its deaths count for the restart budget.
        argv: returns the command of a fresh interpreter that does the same, for services that cannot be forked safely.
        wanted: only for a child on demand: it is started when this returns True, and leaves when it has nothing to do.
        ended: takes the reason of each end, as one of `scoreboard.EXIT_REASONS` and in words.
    """

    name: str
    index: int
    run: Callable[[ChildInfo], int]
    last: bool = False
    vital: bool = True
    argv: Callable[[ChildInfo], list[str]] | None = None
    wanted: Callable[[], bool] | None = None
    ended: Callable[[str, str], None] = lambda reason, detail: None

    @property
    def on_demand(self) -> bool:
        """Return whether the child runs only while it is wanted."""
        return self.wanted is not None


def fork(spec: ChildSpec, child: ChildInfo) -> int:
    """Start a child by fork; return its pid.

    Signals are blocked during the fork: a signal that reaches the child before it has its own handlers would be lost in
    its copy of ours, or kill it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        pid = os.fork()
        if pid == 0:
            end_with(lambda: _live(spec, child))
        with contextlib.suppress(OSError):  # the child does the same; the first call counts
            os.setpgid(pid, pid)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(
    *, keep: Sequence[int], here: str, environ: Callable[[ChildInfo], Mapping[str, str]] = lambda _: {}
) -> Callable[[ChildSpec, ChildInfo], int]:
    """Return a start function that runs fresh interpreters, for services whose import starts threads.

    Args:
        keep: descriptors that the child inherits besides those of its `ChildInfo`.
        here: its working directory.
        environ: returns environment variables for a child besides ours.
    """

    def start(spec: ChildSpec, child: ChildInfo) -> int:
        assert spec.argv is not None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # the mask survives exec: the child unblocks
        try:
            process = subprocess.Popen(
                spec.argv(child),
                pass_fds=[child.waker, child.poke, *keep],
                process_group=0,
                cwd=here,
                restore_signals=False,
                env={**os.environ, **environ(child)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        process.returncode = 0  # we reap it ourselves; Popen must neither wait nor complain
        return process.pid

    return start


def enter_spawned(child: ChildInfo) -> bool:
    """Set up a spawned child, before anything else. Return False if the parent is already dead.

    Signals are unblocked at once: threads and processes that the service's import starts would inherit the mask, and no
    job runs yet.
    """
    orphans.wear(child.mark)
    reset_in_child()
    platform.die_with_parent(signal.SIGTERM)
    unblock()
    return os.getppid() == child.supervisor


def _live(spec: ChildSpec, child: ChildInfo) -> int:
    """Run a forked child until its end; return its exit code."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    reset_in_child()
    orphans.wear(child.mark)
    platform.die_with_parent(signal.SIGTERM)
    return spec.run(child) if os.getppid() == child.supervisor else 0


def end_with(life: Callable[[], int]) -> NoReturn:
    """End this process with the exit code that a function returns or raises.

    No exception escapes: below a forked child's first frame lies its parent's stack. If two processes went on there,
    they would be two supervisors, and each would replace what the other one kills.
    """
    try:
        os._exit(_exit_code(life))
    finally:  # in case of a broken descriptor, no memory, or an exception of a signal handler
        os._exit(CRASHED)


def _exit_code(life: Callable[[], int]) -> int:
    code: object = CRASHED
    try:
        code = life()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        Outlet(2).write(traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        stdio.flush(FLUSH)
    return code if isinstance(code, int) and 0 <= code <= 255 else CRASHED


def unblock() -> None:
    """Unblock signals in a child that has installed its handlers: pending signals arrive now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


def kill_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a child and what it forked. The process group may not exist yet, or not any more."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def terminate(pid: int) -> None:
    """Send SIGTERM to the child alone: it must end what it forked itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def dump_stacks(pid: int) -> None:
    """Make a ready child write the stacks of all its threads to the file of its slot."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)


def next_dead() -> int | None:
    """Return the pid of a child that has ended and is not reaped yet. Its group can still be signalled without a
    race."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def reap(pid: int) -> tuple[int, struct_rusage]:
    """Reap a dead child, after killing its group; return its exit code, negative for a signal, and what it has used."""
    kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage
