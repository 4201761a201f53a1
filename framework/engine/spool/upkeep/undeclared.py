"""The queues in the root that no running service declares: a service renamed or dropped them, or is stopped.

A service that declares a queue does its housekeeping and publishes its depth each second.
"""

from __future__ import annotations

from collections.abc import Collection

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir, queue_of
from framework.engine.spool.enqueue.limits import read_depth
from framework.engine.spool.upkeep.counts import Counts
from framework.model.options import QueueOptions

KEPT = 60_000_000_000  # nanoseconds for which a queue counts as declared after its last depth: services are restarted


def find(disk: Disk, clock: Clock, declared: Collection[str], known: dict[str, Counts]) -> dict[str, Counts]:
    """Return the counts of each undeclared queue, by name. Raises OSError.

    Args:
        declared: queues that this process declares itself.
        known: the result of the last call.
    """
    found: dict[str, Counts] = {}
    for entry in disk.listdir("."):
        name = queue_of(entry)
        if name is None or name in declared:
            continue
        queue = QueueDir(QueueOptions(name))
        try:
            if disk.stat(f"{queue.base}/ready") is not None and not _is_kept(disk, clock, queue):
                found[name] = known.get(name) or Counts(disk, queue)
        except NotADirectoryError:  # a file with a name that a queue could have
            continue
    return found


def _is_kept(disk: Disk, clock: Clock, queue: QueueDir) -> bool:
    published = read_depth(disk, queue)
    return published is not None and 0 <= clock.now() - published[1] < KEPT
