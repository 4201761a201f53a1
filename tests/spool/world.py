"""What the tests of the spool share: queues, jobs, brokers on a root, dead owners, and the look at what is there."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from framework.engine.port import JobView, Rescued
from framework.engine.spool.engine import SpoolEngine, connect
from framework.engine.spool.segments.append import WORTH
from framework.model.extras import NONE, USUAL, Extras
from framework.model.job import Failure, Job, Lease, RunRecord
from framework.model.limits import Breaker, Rate
from framework.model.options import QueueOptions
from tests.support.settling import retry

from .seam import Seam, before

LETTERS = QueueOptions("letters", is_dead_letter=True)
JOBS = QueueOptions("jobs", dead_letter="letters", max_length=None)
LIMITED = replace(JOBS, max_running=9, rate=Rate(1000, "s"), breaker=Breaker())
STRICT = replace(JOBS, grouped=True, group_order="strict")
PLAIN = QueueOptions("plain", max_length=None)
QUEUES = (JOBS, PLAIN, LETTERS)
STATES = ("ready", "delayed", "in_flight", "dead")
OVER = 1e-6  # seconds; a time to live that has ended at the next look

_births = count(1)


def job(
    job_id: str,
    *,
    queue: str = "jobs",
    payload: bytes | None = None,
    chosen: bool = False,
    delay: float | None = None,
    ttl: float | None = None,
    priority: int = USUAL,
    key: str | None = None,
    until: str = "done",
    group: str | None = None,
) -> Job:
    """A job whose payload says which one it is; with a unique key and a group, if they are given."""
    now = time.time()
    return Job(
        id=job_id,
        uid=os.urandom(16),
        queue=queue,
        payload=body(job_id) if payload is None else payload,
        headers={"content-type": "application/json"},
        enqueued_at=now,
        not_before=None if delay is None else now + delay,
        ttl=ttl,
        chosen_id=chosen,
        extras=NONE
        if (priority, key, group) == (USUAL, None, None)
        else Extras(priority, key, until if key else None, group),
    )


def body(job_id: str) -> bytes:
    """The payload of `job(id)`."""
    return f"payload of {job_id} ".encode() * 20


def failure(lease: Lease | None = None, *, message: str = "broken") -> Failure:
    """A failure of this run."""
    delivery, attempt, queue = (lease.delivery, lease.attempt, lease.queue) if lease else (1, 1, "jobs")
    return Failure(attempt, "error", message, "Traceback ...", error_type="ValueError", queue=queue, delivery=delivery)


def run(lease: Lease, row: int = 0) -> RunRecord:
    """A run record of this lease."""
    return RunRecord(row, lease.delivery, lease.attempt, 1000.5, "ab" * 16, "cd" * 8, True)


def broker(root: Path, *queues: QueueOptions, calls: Any = None, durability: Any = "power") -> SpoolEngine:
    """An open broker of its own incarnation."""
    made = connect(
        f"spool:{root}", incarnation=f"test-{os.getpid()}-{next(_births)}", calls=calls, durability=durability
    )
    made.open(queues or QUEUES)
    return made


def in_segments(broker: SpoolEngine, *, least: int = 1) -> SpoolEngine:
    """The same, which stores runnable jobs in segments from so many of one call on, in all its queues."""
    for parts in broker._spool._parts.values():
        parts.enqueue.least_segment = least
        (broker.root / parts.queue.segmented).touch(mode=0o600)
    return broker


def often(broker: SpoolEngine, queue: str = "jobs") -> SpoolEngine:
    """The same, as if many jobs had come one by one within the last second: the next ones share a segment."""
    parts = broker._spool.parts(queue)
    (broker.root / parts.queue.segmented).touch(mode=0o600)
    parts.enqueue._appender._times.extend([time.monotonic() + 60.0] * WORTH)
    parts.enqueue._appender.age = 3600.0  # it is closed by those who mean it
    return broker


def claim(broker: SpoolEngine, queue: str = "jobs", limit: int = 100) -> list[Lease]:
    """What is ready now."""
    return list(broker.claim([queue], limit=limit, wait=0))


def one(broker: SpoolEngine, queue: str = "jobs") -> Lease:
    """The next job, which must be there."""
    (lease,) = claim(broker, queue, 1)
    return lease


def ids(leases: Any) -> list[str]:
    """Job ids, in order."""
    return [lease.job.id for lease in leases]


def in_child(work: Callable[[], Any]) -> int:
    """Runs `work` in a forked child that is killed at its end; the pid, reaped. Nothing of it returns into pytest."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(99)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child did not get to its end: status {status}"
    return child


def dead_owner(root: Path, work: Callable[[SpoolEngine], Any], *queues: QueueOptions) -> None:
    """A process opens a broker, does `work` and is killed."""
    in_child(lambda: work(broker(root, *queues)))


def dies_before(broker: SpoolEngine, name: str, number: int = 1) -> SpoolEngine:
    """The same, killed before its call of this name with this number."""
    seam, disk, left = Seam(), broker._spool._disk, number
    assert disk is not None
    disk.calls = seam  # type: ignore[assignment]

    def hook(called: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal left
        left -= called == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    seam.arm(hook)
    return broker


def heal(root: Path, *queues: QueueOptions) -> SpoolEngine:
    """What the next supervisor does: opens, maintains, rescues; orphans are settled by the rules of DESIGN.md."""
    fresh = broker(root, *queues)
    if any(queue.name == "jobs" for queue in queues or QUEUES):
        fresh.ticks("jobs", ["hourly"])
    for _ in range(3):
        fresh.maintain()
        for orphan in fresh.rescue():
            settle_orphan(fresh, orphan)
    return fresh


def settle_orphan(broker: SpoolEngine, orphan: Rescued) -> None:
    """Every second one is charged, as if it had started; the others are released."""
    lease = orphan.lease
    if sum(lease.job.id.encode()) % 2:  # not by anything random: the explorer's runs take the same steps
        retry(broker, lease, delay=0, failure=failure(lease, message="its worker died"))
    else:
        broker.release([lease])


def views(broker: SpoolEngine, *states: Any) -> Iterator[JobView]:
    """Every job of every queue of this broker in these states; what needs a newer version is none of its own."""
    for queue in sorted(path.name for path in broker.root.iterdir() if (path / "ready").is_dir()):
        for state in states or STATES:
            yield from (view for view in broker.browse(queue, state) if not view.newer)


def census(broker: SpoolEngine) -> Counter[str]:
    """How often each job id is there, in any state; payloads are checked on the way."""
    found: Counter[str] = Counter()
    for view in views(broker):
        assert view.job.payload == body(view.job.id), f"torn: {view.job.id}"
        found[view.job.id] += 1
    return found


def pass_time(broker: SpoolEngine, seconds: float) -> None:
    """So much time passes by the broker's wall clock."""
    clock = broker._spool.opened()[1]
    before = clock.wall
    clock.wall = lambda: before() + seconds


class Cut(BaseException):
    """Ends an operation where it is, as a kill does, but within the process."""


def cut_at(root: Path, name: str, act: Callable[[SpoolEngine], Any], *queues: QueueOptions) -> None:
    """A broker whose act ends just before the first system call of this name; its locks are free afterwards."""
    seam = Seam()
    mine = broker(root, *queues, calls=seam)

    def cut() -> None:
        raise Cut

    seam.arm(before(name, cut))
    try:
        act(mine)
        raise AssertionError(f"the act made no call of {name}")
    except Cut:
        seam.disarm()
    mine.close()


def files(root: Path, pattern: str = "**/*") -> list[Path]:
    """Regular files below the root."""
    return sorted(path for path in root.glob(pattern) if path.is_file())


def descriptors_here() -> int:
    """One more than the highest descriptor of this process: a limit counts from there."""
    return max(int(entry) for entry in os.listdir("/proc/self/fd")) + 1
