"""How a scoreboard tells processes apart: by pid and start, within one pid namespace."""

from __future__ import annotations

import os


def pid_namespace() -> int:
    """Which pid namespace this process is in; 0 where there is none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_start(pid: int) -> int:
    """Start of a process in clock ticks since boot: with the pid it names one life; 0 = gone, or nobody can say."""
    fields = stat_of(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def stat_of(pid: int | str) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; the command before it may hold any character. None of
    them: it is gone, or nobody can say."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()
    except OSError:
        return []
