"""Main and helper thread of a worker over one deque, for the explorer: every operation of the deque is a step."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.worker.gate.claims import Claims
from tests.spool.seam import Seam

from .protocol import Protocol
from .scheduler import Turns


class Deque(deque[Any]):
    """One whose every operation is a step."""

    pause: Callable[[], None] = staticmethod(lambda: None)

    def append(self, one: Any) -> None:
        self.pause()
        super().append(one)

    def extend(self, some: Any) -> None:
        self.pause()
        super().extend(some)

    def pop(self) -> Any:  # type: ignore[override]
        self.pause()
        return super().pop()

    def popleft(self) -> Any:
        self.pause()
        return super().popleft()

    def __len__(self) -> int:
        self.pause()
        return super().__len__()


class MainAndHelper(Protocol):
    """Main and helper thread of a worker over one deque: each lease is run or given back, once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.back: list[str] = []
        self.ran: list[str] = []
        self.claims = Claims(self.back.extend)  # type: ignore[arg-type]
        self.claims._waiting = Deque()
        self.claims._waiting.extend("abc")
        self.works = [self.main, self.helper, self.helper]
        self._nothing = os.open(os.devnull, os.O_RDONLY)
        self._own = threading.local()
        self.claims._waiting.pause = self._pause  # type: ignore[attr-defined]

    def _pause(self) -> None:
        """A call that changes nothing but one thing that all share, in the thread that uses the deque."""
        seam = getattr(self._own, "seam", None)
        if seam is not None:
            seam.flock(self._nothing, fcntl.LOCK_UN)

    def main(self, seam: Seam) -> None:
        """Runs what it gets, then claims one more."""
        self._own.seam = seam
        for more in ("d", ""):
            while (lease := self.claims.take()) is not None:
                self.ran.append(lease)  # type: ignore[arg-type]
            self.claims._waiting.extend(more)

    def helper(self, seam: Seam) -> None:
        """Gives back what has not started."""
        self._own.seam = seam
        self.claims._empty()

    def check(self, turns: Turns) -> None:
        assert sorted(self.ran + self.back) == ["a", "b", "c", "d"]
        assert self.ran == sorted(self.ran), "out of order"

    def close(self) -> None:
        """And the thread that Claims has of its own."""
        self.claims.close()
        os.close(self._nothing)
