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
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            # The command before the last parenthesis may hold any character.
            return int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0
