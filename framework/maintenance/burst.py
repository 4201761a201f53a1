"""The end of `worker run --burst`: the tree drains once its queues have nothing left that could run now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from framework.engine.port import Engine
from framework.process.scoreboard import Scoreboard

APART = 1.1  # seconds between two looks: counts may be a second old


class Burst:
    """The watch over the served queues. It ends the tree once two looks in a row find no job that may run or runs.

    A job that is delayed beyond this moment, such as a retry, stays delayed: the next burst runs it. So do the jobs of
    a paused queue stay, and the last line names the queue.

    Args:
        queues: names of the queues that the tree serves.
        say: takes the line that reports the end.
        end: tells the tree to drain; it is called once.
    """

    def __init__(
        self,
        engine: Engine,
        queues: Sequence[str],
        board: Scoreboard,
        *,
        say: Callable[[str], None],
        end: Callable[[], object],
    ) -> None:
        self._engine, self._queues, self._board = engine, queues, board
        self._say, self._end = say, end
        self._idle_since: float | None = None
        self._look_at = 0.0
        self._over = False

    def step(self, *, busy: bool) -> None:
        """Look at the queues if a look is due, and end the tree if this was the second idle one.

        Args:
            busy: maintenance has more to do now, such as due jobs to promote.
        """
        now = time.monotonic()
        if busy or any(slot.is_worker and self._board.busy_rows(slot.index) for slot in self._board.all_slots()):
            self._idle_since = None
        elif not self._over and now >= self._look_at:
            self._look(now)

    def _look(self, now: float) -> None:
        found = [self._engine.stats(queue) for queue in self._queues]
        if any(stats.in_flight or (stats.ready and not stats.paused) for stats in found):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since, self._look_at = now, now + APART
        else:
            self._over = True
            delayed = sum(stats.delayed or 0 for stats in found)
            later = f"; {delayed:,} delayed jobs stay for later" if delayed else ""
            pairs = zip(self._queues, found, strict=True)
            held = [f"{queue} ({stats.ready:,} ready)" for queue, stats in pairs if stats.paused and stats.ready]
            paused = f"; paused queues keep their jobs: {', '.join(held)}" if held else ""
            self._say(f"nothing is waiting, running or due: the burst is over{later}{paused}")
            self._end()
