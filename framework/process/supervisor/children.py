"""Starting and ending child processes. Each leads a process group of its own, so that what it forks goes with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from framework.process import orphans, stdio
from framework.process.outlet import Outlet
from framework.process.signals import reset_in_child
from framework.process.supervisor import platform

FAILED_TO_START = 78  # a child's exit code: its lifespan or engine failed before it was ready
FAILED_TO_CLOSE = 79  # a child's exit code: it was told to leave, or left by itself, and failed in that
CRASHED = 70  # a child's exit code: an exception that nothing of ours expects
FLUSH = 0.5  # seconds that a child gives, at its end, to the reader of what its handlers printed
_ALL = signal.valid_signals()


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is told.

    Attributes:
        name: `deliveries/0` or `maintenance`.
        index: its slot in the scoreboard.
        incarnation: name of this life, never reused.
        supervisor: pid of the parent; another getppid() means that it is dead.
        waker: descriptor; a byte there wakes the supervisor.
        poke: descriptor that becomes readable when another child died.
        mark: which all its descendants wear, too (`framework.process.orphans`).
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
    """A child to keep alive.

    Attributes:
        name, index: as in Birth.
        run: what it does, in the child, with all signals blocked: it installs its handlers, then unblocks. Returns
            the exit code.
        last: it is stopped only after all others are gone; several of them one after another, in their order.
        vital: the service cannot do without it: its deaths count for the restart budget.
        argv: command of a fresh interpreter that does the same, where forking is not safe.
        wanted: it lives only on demand: it is started when this says so, and leaves when it has nothing to do.
        buried: is told why each life ended, by one of `scoreboard.EXIT_REASONS` and in words.
    """

    name: str
    index: int
    run: Callable[[Birth], int]
    last: bool = False
    vital: bool = True
    argv: Callable[[Birth], list[str]] | None = None
    wanted: Callable[[], bool] | None = None
    buried: Callable[[str, str], None] = lambda reason, detail: None


def fork(spec: ChildSpec, birth: Birth) -> int:
    """Starts a child by fork; returns its pid.

    Signals are blocked across the fork: one that lands in the child before it has handlers of its own would be lost in
    its copy of ours, or kill it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        pid = os.fork()
        if pid == 0:
            end_with(lambda: _live(spec, birth))
        with contextlib.suppress(OSError):  # the child does it, too: whoever is first
            os.setpgid(pid, pid)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(
    *, keep: Sequence[int], here: str, environ: Callable[[Birth], Mapping[str, str]] = lambda _: {}
) -> Callable[[ChildSpec, Birth], int]:
    """A start function that makes fresh interpreters, for services whose import starts threads.

    Args:
        keep: descriptors that the child inherits besides those of its birth.
        here: its working directory.
        environ: variables that a child has besides ours.
    """

    def start(spec: ChildSpec, birth: Birth) -> int:
        assert spec.argv is not None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # the mask survives exec: the child unblocks
        try:
            process = subprocess.Popen(
                spec.argv(birth),
                pass_fds=[birth.waker, birth.poke, *keep],
                process_group=0,
                cwd=here,
                restore_signals=False,
                env={**os.environ, **environ(birth)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        process.returncode = 0  # we reap it ourselves; Popen must neither wait nor complain
        return process.pid

    return start


def enter_spawned(birth: Birth) -> bool:
    """In a spawned child, first of all. False: the parent is dead already.

    Signals come in at once: what the service's import starts would inherit the mask, and there is no job yet.
    """
    orphans.wear(birth.mark)
    reset_in_child()
    platform.die_with_parent(signal.SIGTERM)
    unblock()
    return os.getppid() == birth.supervisor


def _live(spec: ChildSpec, birth: Birth) -> int:
    """Lives a forked child's whole life; returns its exit code."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    reset_in_child()
    orphans.wear(birth.mark)
    platform.die_with_parent(signal.SIGTERM)
    return spec.run(birth) if os.getppid() == birth.supervisor else 0


def end_with(life: Callable[[], int]) -> NoReturn:
    """Ends this process with the exit code that a life returns or raises.

    Nothing escapes: below a forked child's first frame lies its parent's stack. Two processes that both go on there
    are two supervisors, and each of them replaces what the other one kills.
    """
    try:
        os._exit(_exit_code(life))
    finally:  # whatever kept it from that: a broken descriptor, no memory, the exception of a signal handler
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
    """By a child once its handlers stand: what was sent meanwhile arrives now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


def kill_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """To a child and what it forked. The group may not exist yet, or any more."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def terminate(pid: int) -> None:
    """SIGTERM to the child alone: what it forked is its own to end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def dump_stacks(pid: int) -> None:
    """A ready child writes the stacks of all its threads to standard error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)


def next_dead() -> int | None:
    """Pid of a child that has ended and is not reaped yet: its group can still be addressed without a race."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def reap(pid: int) -> int:
    """The exit code of a dead child, negative for a signal; its group is killed first."""
    kill_group(pid)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
