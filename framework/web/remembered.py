"""Answers of the store that take long, kept for the next requests and read anew behind them.

A store with a hundred thousand files takes a tenth of a second to list them, whatever a page shows of them. So what
takes long is answered as it was read last, and the page says when that was. What is quick is always read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from framework.admin.live.desk import Desk
from framework.admin.store import Store
from framework.model.errors import EngineError

T = TypeVar("T")
QUICK = 0.008  # seconds of the processor
OLDEST = 60.0  # seconds: an older answer is not shown
SPARE, AGAIN = 10, 2.0  # an answer is read anew after so many times what it took, and so many seconds
MOST = 100  # answers


@dataclass(slots=True)
class _Answer:
    """An answer.

    Attributes:
        failed: the reads that failed. at: when it was read, in monotonic seconds.
        last, took: processor seconds of the last read, and of the quicker one of the last two: a first read is slow.
        due: it is being read anew.
    """

    value: Any
    failed: list[EngineError]
    at: float
    last: float
    took: float
    due: bool = False


class Remembered:
    """The answers of one page.

    Args:
        desk: reads behind the requests, with a store and a thread of its own.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._answers: dict[Hashable, _Answer] = {}

    def get(self, store: Store, key: Hashable, read: Callable[[Store], T]) -> tuple[T, float]:
        """Return the result of a read, and how many seconds old it is. Raises the errors of the read."""
        found, now = self._answers.get(key), time.monotonic()
        if found is None or found.took <= QUICK or now - found.at > OLDEST:
            return self._read(store, key, read), 0.0
        store.failed += found.failed
        self.renew(key, read)
        return found.value, now - found.at

    def renew(self, key: Hashable, read: Callable[[Store], Any]) -> None:
        """Read behind the requests, unless that is under way, or was done a moment ago."""
        found = self._answers.get(key)
        if found is not None:
            if found.due or time.monotonic() - found.at < max(AGAIN, SPARE * found.last):
                return
            found.due = True

        def renewed(store: Store) -> None:
            try:
                self._read(store, key, read)
            finally:
                if found is not None:
                    found.due = False

        self._desk.behind(renewed)

    def forget(self) -> None:
        """Forget all answers, also those that are being read: something was changed."""
        self._answers = {}

    def _read(self, store: Store, key: Hashable, read: Callable[[Store], T]) -> T:
        answers, known = self._answers, len(store.failed)
        at, began = time.monotonic(), time.thread_time()
        value = read(store)
        last, before = time.thread_time() - began, answers.get(key)
        took = last if before is None else min(last, before.last)
        if key not in answers and len(answers) >= MOST:
            answers.pop(next(iter(answers)), None)
        answers[key] = _Answer(value, store.failed[known:], at, last, took)
        return value
