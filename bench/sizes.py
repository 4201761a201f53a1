"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Jobs unless said otherwise.

    Attributes:
        rounds: samples of enqueue and of drain with two processes; every system is measured once in each.
        solo_rounds: in how many of them drain with one process and latency are measured, too.
        single, concurrent, coroutines, bulk: enqueued in each way; a drain runs all of them.
        solo: drained by one process.
        paced: at 100 a second, for the latency.
        backlog: the deep queue; `window` of them are drained.
        image: gigabytes of the file system; `files` that it holds.
        idle: seconds.
    """

    mode: str
    rounds: int
    solo_rounds: int
    single: int
    concurrent: int
    coroutines: int
    bulk: int
    solo: int
    paced: int
    backlog: int
    window: int
    shallow_rounds: int
    starts: int
    idle: float
    image: int
    files: int

    @property
    def jobs(self) -> int:
        """Of a drain with two processes."""
        return self.single + self.concurrent + self.coroutines + self.bulk


QUICK = Sizes(
    mode="quick",
    rounds=3,
    solo_rounds=1,
    single=200,
    concurrent=600,
    coroutines=600,
    bulk=2_200,
    solo=1_500,
    paced=150,
    backlog=100_000,
    window=4_000,
    shallow_rounds=3,
    starts=3,
    idle=4.0,
    image=4,
    files=400_000,
)
FULL = Sizes(
    mode="full",
    rounds=7,
    solo_rounds=5,
    single=1_000,
    concurrent=2_000,
    coroutines=2_000,
    bulk=7_000,
    solo=10_000,
    paced=1_000,
    backlog=1_000_000,
    window=20_000,
    shallow_rounds=7,
    starts=7,
    idle=30.0,
    image=16,
    files=3_000_000,
)
