"""Services of Linux for a supervisor beyond POSIX. On other systems each function says that it cannot help."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from framework.process.scoreboard.processes import stat_of

IS_LINUX = sys.platform == "linux"
LOOKS = 100  # looks at a thread, one millisecond apart
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Loaded at import: dlopen in a freshly forked child is slow and takes locks.
_libc = ctypes.CDLL(None, use_errno=True) if IS_LINUX else None


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send `number` when the parent dies. Check getppid() afterwards: it may be dead already."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def become_subreaper() -> bool:
    """Make this process adopt orphan processes among its descendants. Return False where that is not possible."""
    return _libc is not None and _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def threads() -> int:
    """Return the number of threads of this process, native ones included; 1 if unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def children() -> set[int]:
    """Return the pids of this process's children, adopted ones included; empty if unknown."""
    pid = os.getpid()
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return _children_by_stat(pid)


def _children_by_stat(pid: int) -> set[int]:
    """Return the children on kernels without CONFIG_PROC_CHILDREN."""
    found = set()
    for entry in os.listdir("/proc") if IS_LINUX else ():
        if entry.isdigit():
            fields = stat_of(int(entry))
            if fields and int(fields[1]) == pid:
                found.add(int(entry))
    return found


def waits_for_disk(pid: int) -> bool:
    """Return whether the main thread of a process is in uninterruptible sleep; False if unknown."""
    return stat_of(pid)[:1] == ["D"]


def waits_for_lock(pid: int, thread: int) -> bool | None:
    """Return whether a thread of a process waits for a lock of the process, including the interpreter's; None: unknown.

    A thread that waits for the interpreter checks 200 times a second whether it may go on; on a busy machine each check
    may take a while, and it may wake between our two looks. So a thread that is not asleep is looked at for a tenth of
    a second.
    """
    ran = 0
    for _ in range(LOOKS):
        ran += stat_of(f"{pid}/task/{thread}")[:1] == ["R"]
        try:
            waits_in = Path(f"/proc/{pid}/task/{thread}/wchan").read_text()
        except OSError:
            waits_in = ""
        if "futex" in waits_in:
            return True
        if waits_in not in ("", "0"):
            return False
        time.sleep(0.001)
    return False if ran > LOOKS / 2 else None  # None: asleep, and the kernel does not tell where


def image(pid: int) -> int:
    """Return the address where the stack of a process begins; 0: unknown. It changes with each program that is
    executed."""
    fields = stat_of(pid)
    return int(fields[25]) if len(fields) > 25 else 0


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot; 0 if unknown."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
