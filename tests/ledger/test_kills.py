"""SIGKILL while slots are written: never torn, never behind what the process had done."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from pathlib import Path

from framework.engine.ledger import DeadLedgers, Entry, Ledger
from framework.model.outcome import SUCCEEDED, Kind, Outcome

from .helpers import lease, retried, run

ROWS = 3
STEPS = ("free", "begun", "ended", "sent")


def outcome_of(number: int) -> Outcome:
    of = lease(number)
    return (SUCCEEDED, retried(of, message="x" * (number % 900)), Outcome(Kind.DISCARDED, message=f"m{number}"))[
        number % 3
    ]


def work(place: Path, owner: str, shared: mmap.mmap) -> None:
    """Job after job on three rows; what is done stands in the shared memory, a word for each row: number and step."""
    ledger = Ledger(place, owner, slots=2)  # one less than rows: it grows, too
    words = memoryview(shared).cast("Q")
    number = 0
    while True:
        leases = []
        for row in range(ROWS):
            number += 1
            one = lease(number)
            leases.append(one)
            ledger.begin(one, run(one, row=row))
            words[row] = number << 2 | 1
        for row, one in enumerate(leases):
            of = int.from_bytes(one.job.uid, "big")
            ledger.end(one, outcome_of(of))
            words[row] = of << 2 | 2
            ledger.sent(one)
            words[row] = of << 2 | 3
        for row, one in enumerate(leases):
            ledger.free(one)
            words[row] = int.from_bytes(one.job.uid, "big") << 2


def test_what_was_done_is_there_after_hundreds_of_kills(place: Path) -> None:
    """Verified: with the word stored before the run's bytes, or the outcome's, some are damaged or behind."""
    choices = random.Random(7)
    ledgers, damaged = DeadLedgers(place, say=lambda line: lines.append(line)), 0
    lines: list[str] = []
    seen: set[str] = set()
    for kill in range(300):
        owner, shared = f"1-{kill:x}", mmap.mmap(-1, 4096)
        child = os.fork()
        if child == 0:
            try:
                work(place, owner, shared)
            finally:
                os._exit(99)
        while struct.unpack("<Q", shared[:8])[0] == 0:
            time.sleep(0.0005)
        time.sleep(choices.random() * 0.003)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        dead = ledgers.of(owner)
        assert dead is not None
        damaged += len(dead.damage)
        for row in range(ROWS):
            word = struct.unpack_from("<Q", shared, 8 * row)[0]
            number, step = word >> 2, word & 3
            seen.add(STEPS[step])
            check(step, number, dead.entry(lease(number)))
        ledgers.finished(owner)
    assert (damaged, lines) == (0, [])
    assert seen == set(STEPS)
    ledgers.close()


def check(step: int, number: int, entry: Entry | None) -> None:
    """The entry is as its process last said, or one step further."""
    if entry is None:  # the last step is to free it
        assert step in (0, 3), f"job {number} had {STEPS[step]} and is not there"
        return
    assert step, f"job {number} was freed and is there"
    assert entry.run.started_at == run(lease(number)).started_at
    if entry.outcome is None:
        assert step == 1
        return
    assert entry.outcome == outcome_of(number)
    assert entry.sent or step < 3
