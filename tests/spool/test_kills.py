"""Everything at once, killed in the middle of it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.support.settling import ack, retry

from .world import (
    broker,
    census,
    claim,
    failure,
    heal,
    job,
    settle_orphan,
)


def test_processes_that_are_killed_at_random_lose_nothing(root: Path) -> None:
    """Workers, producers and rescuers on one root, killed in the middle of anything, again and again."""
    acknowledged: list[str] = []
    done: list[str] = []
    for round_ in range(12):
        pipes = [os.pipe() for _ in range(3)]
        children = []
        for number, (_, write) in enumerate(pipes):
            child = os.fork()
            if child == 0:
                _work_until_killed(root, write, f"{round_}-{number}")
            children.append(child)
        reports = [b""] * 3
        threads = [
            threading.Thread(target=lambda n=n: reports.__setitem__(n, _read_some(pipes[n][0], 60 + 37 * round_)))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread, child in zip(threads, children, strict=True):
            thread.join()
            os.kill(child, signal.SIGKILL)
        for child, (read, write) in zip(children, pipes, strict=True):
            os.waitpid(child, 0)
            os.close(write)
            reports[children.index(child)] += _read_all(read)
            os.close(read)
        for line in b"".join(r if r.endswith(b"\n") else r[: r.rfind(b"\n") + 1] for r in reports).decode().split("\n"):
            if line.startswith("+"):
                acknowledged.append(line[1:])
            elif line.startswith("-"):
                done.append(line[1:])
    fresh = heal(root)
    found = census(fresh)
    missing = set(acknowledged) - set(done) - set(found)
    assert not missing
    assert max(found.values(), default=0) <= 1
    assert len(acknowledged) > 50
    assert not any(fresh.stats(queue).bad for queue in ("jobs", "letters"))
    fresh.close()


def _work_until_killed(root: Path, write: int, name: str) -> None:
    try:
        mine = broker(root)
        number = 0
        while True:
            made = f"{name}-{number}"
            number += 1
            mine.enqueue([job(made, chosen=number % 3 == 0)])
            os.write(write, f"+{made}\n".encode())
            for orphan in mine.rescue():
                settle_orphan(mine, orphan)
            mine.maintain()
            for lease in claim(mine, limit=3):
                if number % 4 == 1:
                    retry(mine, lease, delay=0, failure=failure(lease))
                elif number % 4 == 2:
                    mine.release([lease])
                else:
                    # said before it is done: a job that is done and not said would look lost
                    os.write(write, f"-{lease.job.id}\n".encode())
                    ack(mine, [lease])
    finally:
        os._exit(1)


def _read_some(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(fd, size)):
        data += more
    return data


def _read_all(fd: int) -> bytes:
    data = b""
    while more := os.read(fd, 1 << 16):
        data += more
    return data
