"""Producers that are killed while they enqueue the same ids or keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from framework.engine.spool.engine import SpoolEngine

from .seam import Seam, kill_at
from .world import broker


def killed_producers(root: Path, step: int, lives: Callable[[SpoolEngine], Iterator[str]]) -> set[str]:
    """Let six processes enqueue, each until it is killed at a change of its own; return what they were told.

    Args:
        step: changes between the kills of two.
        lives: what a process does, again and again; yields a line for each answer.
    """
    read, write = os.pipe()
    children = []
    for seed in range(6):
        child = os.fork()
        children.append(child)
        if child == 0:
            try:
                seam = Seam()
                mine = broker(root, calls=seam)
                seam.arm(kill_at(150 + step * seed))
                while True:
                    for line in lives(mine):
                        os.write(write, f"{line}\n".encode())
            finally:
                os._exit(1)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
    os.close(write)
    with open(read) as pipe:
        return set(pipe.read().splitlines())
