"""Random bytes from a pool, because `os.urandom` is a system call that releases the interpreter lock."""

from __future__ import annotations

import os

SIZE = 32
_PIECES = 256

_pool: list[bytes] = []


def random_bytes() -> bytes:
    """Return 32 random bytes that no other call returns, in this process or in a forked one."""
    while True:
        pool = _pool
        try:
            return pool.pop()
        except IndexError:
            block = os.urandom(SIZE * _PIECES)
            # Into the list read above: if a signal handler has forked since, the child uses a new list.
            pool.extend([block[at : at + SIZE] for at in range(0, len(block), SIZE)])


def _in_child() -> None:
    global _pool
    _pool = []


os.register_at_fork(after_in_child=_in_child)
