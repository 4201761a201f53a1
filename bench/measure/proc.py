"""Memory and CPU of a tree of processes, from /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, at = [root], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


def memory(pid: int, *keys: str) -> float:
    """MB (10^6 bytes) of a process: the sum of `Pss`, `Private_Clean`, ... of its smaps_rollup; 0 if it is gone."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in keys:
                total += int(rest.split()[0]) * 1024
    return total / 1e6


def pss(root: int) -> float:
    """MB of a tree; what is shared counts once."""
    return sum(memory(pid, "Pss") for pid in tree(root))


def private(pid: int) -> float:
    """MB that end with this process."""
    return memory(pid, "Private_Clean", "Private_Dirty")


def cpu(root: int) -> float:
    """Seconds that the threads of a tree have run, to the nanosecond."""
    return sum(cpu_of(pid) for pid in tree(root))


def cpu_of(pid: int) -> float:
    """Seconds that the threads of a process have run, to the nanosecond."""
    total = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
