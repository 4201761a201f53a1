"""Orphan processes: finds which processes descend from dead children of a supervisor, and kills them.

Each child has a mark: the soft limit of file locks (RLIMIT_LOCKS). Linux has not enforced this limit since 2.4.25, but
every descendant still inherits it, through fork, exec, a cleaned environment, its own session and a pid namespace, and
any process may read it in /proc. Process groups, sessions, parents and environment variables each get lost in one of
those cases. What other children of the supervisor start (an entrypoint's helper) does not have the mark.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from framework.process.scoreboard import Scoreboard

_LOCKS = 10  # RLIMIT_LOCKS, which the module `resource` does not name
_LIFE_BITS = 20
_ROUNDS = 5  # rounds of looking and killing: a process may fork before it is killed


def tree_of(board: Scoreboard) -> str:
    """Return a name for the tree that no other tree has."""
    if not board.tree and board.path is not None:  # a board of the version before
        return f"{os.stat(board.path).st_ino:x}-{board.supervisor}"
    return f"{board.tree:x}-{board.supervisor}"


def mark_of(tree: str, life: int) -> int:
    """Return the mark of child number `life` of this tree; the numbers start at 1 and repeat after about a million."""
    return _tree_bits(tree) << _LIFE_BITS | life % (1 << _LIFE_BITS)


def wear(mark: int) -> None:
    """Mark this process and all its later descendants. If that fails, its orphan processes are not found."""
    with suppress(OSError, ValueError):
        resource.setrlimit(_LOCKS, (mark, resource.getrlimit(_LOCKS)[1]))


def orphans_of(tree: str, pids: Iterable[int], living: set[int]) -> set[int]:
    """Return those of the pids that have a mark of this tree which is not among the `living` marks."""
    wanted = _tree_bits(tree)
    marks = {pid: _mark_on(pid) for pid in pids}
    return {pid for pid, mark in marks.items() if mark >> _LIFE_BITS == wanted and mark not in living}


def kill(tree: str) -> list[int]:
    """Kill every process with a mark of the tree except this one; return the pids."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = orphans_of(tree, _everybody(), set()) - killed
        end(tree, found)
        if not found:
            break
        killed |= found
    return sorted(killed)


def end(tree: str, pids: Iterable[int]) -> None:
    """Send SIGKILL to each pid that still has a mark of the tree: a pid may have been reused since it was found."""
    for pid in pids:
        if pid > 1 and _mark_on(pid) >> _LIFE_BITS == _tree_bits(tree):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _tree_bits(tree: str) -> int:
    return int.from_bytes(blake2b(tree.encode(), digest_size=5).digest()) | 1  # never 0


def _everybody() -> set[int]:
    try:
        return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()} - {os.getpid()}
    except OSError:
        return set()


def _mark_on(pid: int) -> int:
    """Return the mark of a process; 0: it has none, or is gone."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_bytes()
    except OSError:
        return 0
    soft = limits.partition(b"Max file locks")[2].split(maxsplit=1)[:1]
    return int(soft[0]) if soft and soft[0].isdigit() else 0
