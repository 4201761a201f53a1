"""Random bytes from a pool: `os.urandom` is a system call, which lets another thread have the interpreter."""

from __future__ import annotations

import os

SIZE = 32
_PIECES = 256

_pool: list[bytes] = []


def random_bytes() -> bytes:
    """Return 32 random bytes that no other call gets, in this process or in a forked one."""
    while True:
        pool = _pool
        try:
            return pool.pop()
        except IndexError:
            block = os.urandom(SIZE * _PIECES)
            # Into the list of before: where a signal handler has forked since, the child uses another.
            pool.extend([block[at : at + SIZE] for at in range(0, len(block), SIZE)])


def _in_child() -> None:
    global _pool
    _pool = []


os.register_at_fork(after_in_child=_in_child)
