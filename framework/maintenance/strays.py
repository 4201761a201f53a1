"""What handlers started and left running, once no supervisor is there to adopt it.

While it lives, the supervisor adopts and kills such orphans. When it was killed they go to init, and neither group nor
parent tells any more whose they were. So every process of a tree carries a mark that a child cannot help inheriting: a
variable for what is exec'd, a mapped page with a name for what is only forked.
"""

from __future__ import annotations

import mmap
import os
import signal
from contextlib import suppress
from pathlib import Path

from framework.scoreboard import Scoreboard

VARIABLE = "_WORKER_TREE"
_ROUNDS = 5  # of looking and killing: what dies may have forked meanwhile


def tree_of(board: Scoreboard) -> str:
    """A name that no other tree has: pids alone repeat, between containers even at the same tick of the clock."""
    return f"{os.stat(board.path).st_ino:x}-{board.supervisor}"


def mark(tree: str) -> mmap.mmap | None:
    """By the supervisor before its first fork; it keeps what this returns. None: not Linux, nothing can be found."""
    os.environ[VARIABLE] = tree
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create(f"worker-{tree}")
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        return mmap.mmap(descriptor, mmap.PAGESIZE)
    finally:
        os.close(descriptor)


def kill(tree: str) -> list[int]:
    """Kills all that carries the mark of a tree but this process; their pids."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = _marked(tree) - killed
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        killed |= found
    return sorted(killed)


def _marked(tree: str) -> set[int]:
    variable = f"\0{VARIABLE}={tree}\0".encode()
    page = f"/memfd:worker-{tree} ".encode()
    try:
        pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    except OSError:
        return set()
    return {pid for pid in pids - {os.getpid()} if _has(pid, "environ", variable) or _has(pid, "maps", page)}


def _has(pid: int, file: str, mark_: bytes) -> bool:
    try:
        return mark_ in b"\0" + Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:  # gone, or somebody else's
        return False
