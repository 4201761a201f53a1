"""What Linux offers a process supervisor beyond POSIX. On other systems each function says that it cannot."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from framework.process.scoreboard.processes import stat_of

IS_LINUX = sys.platform == "linux"
LOOKS = 100  # at a thread, a millisecond apart
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Loaded at import: dlopen in a freshly forked child is slow and takes locks.
_libc = ctypes.CDLL(None, use_errno=True) if IS_LINUX else None


def die_with_parent(number: signal.Signals) -> None:
    """The kernel sends `number` when the parent dies. Check getppid() afterwards: it may be dead already."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def become_subreaper() -> bool:
    """Orphaned descendants become our children, so that none is left behind. False where that cannot be."""
    return _libc is not None and _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def threads() -> int:
    """Threads of this process, native ones included; 1 where nobody can say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def children() -> set[int]:
    """Pids of this process's children, adopted ones included; empty where nobody can say."""
    pid = os.getpid()
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return _children_by_stat(pid)


def _children_by_stat(pid: int) -> set[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found = set()
    for entry in os.listdir("/proc") if IS_LINUX else ():
        if entry.isdigit():
            fields = stat_of(int(entry))
            if fields and int(fields[1]) == pid:
                found.add(int(entry))
    return found


def waits_for_disk(pid: int) -> bool:
    """Whether the main thread of a process is in uninterruptible sleep; False where nobody can say."""
    return stat_of(pid)[:1] == ["D"]


def waits_for_lock(pid: int, thread: int) -> bool | None:
    """Return whether a thread of a process waits for a lock of the process, that of the interpreter among them; None:
    nobody can say.

    One that waits for the interpreter looks 200 times a second whether it may go on; on a busy machine it may need a
    while for each look, and may wake between our two. So one that is not asleep is looked at for a tenth of a second.
    """
    ran = 0
    for _ in range(LOOKS):
        ran += stat_of(f"{pid}/task/{thread}")[:1] == ["R"]
        try:
            place = Path(f"/proc/{pid}/task/{thread}/wchan").read_text()
        except OSError:
            place = ""
        if "futex" in place:
            return True
        if place not in ("", "0"):
            return False
        time.sleep(0.001)
    return False if ran > LOOKS / 2 else None  # asleep, and the kernel does not tell where


def image(pid: int) -> int:
    """Return what tells the program of a process from one that it executes in its place: where its stack begins. 0:
    nobody can say."""
    fields = stat_of(pid)
    return int(fields[25]) if len(fields) > 25 else 0


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since boot; 0 where nobody can say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
