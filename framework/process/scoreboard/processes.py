"""Identification of processes for the scoreboard: by pid and start, within one pid namespace."""

from __future__ import annotations

import os


def pid_namespace() -> int:
    """Return the pid namespace of this process; 0 if there is none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_start(pid: int) -> int:
    """Return the start of a process in clock ticks since boot, which identifies it with its pid; 0: gone or unknown."""
    fields = stat_of(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def stat_of(pid: int | str) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty: the process is gone, or the fields are unknown.

    The command before these fields may contain any character.
    """
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()
    except OSError:
        return []
