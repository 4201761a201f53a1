"""The pause of a queue: a file in `ready/`, a directory at which each claim looks in any case.

`ready/paused` says who paused the queue and when; while it is there, listings are empty. `resumed` beside `ready/` says
the same of the latest resumption. Versions that know no pauses see a foreign file, and go on claiming.
"""

from __future__ import annotations

import contextlib
import json
import math
import os

from framework.engine.port import Pause
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir

MARKER = "paused"
MOST_BYTES = 4096


def pause(disk: Disk, queue: QueueDir, by: str, now: float) -> bool:
    """Pause a queue durably. Return False: it is paused. Raises OSError."""
    done = True
    try:
        disk.write_new(queue.paused, _record(by, now), sync=True)
    except FileExistsError:
        done = False
    disk.sync_dir(os.path.dirname(queue.paused))  # also the file of a process that was killed before it did this
    return done


def resume(disk: Disk, queue: QueueDir, by: str, now: float) -> bool:
    """Resume a queue durably. Return False: it is not paused. Raises OSError."""
    if not is_paused(disk, queue):
        return False
    with contextlib.suppress(FileExistsError):  # another process resumes it, too
        disk.unlink(queue.resumed)
        disk.write_new(queue.resumed, _record(by, now), sync=False)
    done = disk.unlink(queue.paused)
    disk.sync_removal(os.path.dirname(queue.paused))
    return done


def is_paused(disk: Disk, queue: QueueDir) -> bool:
    """Return whether the queue is paused. Raises OSError."""
    return disk.stat(queue.paused) is not None


def latest(disk: Disk, queue: QueueDir) -> Pause | None:
    """Return the latest pause or resumption; None: there was none. Raises OSError."""
    if is_paused(disk, queue):
        return _read(disk, queue.paused, True) or Pause(
            True, "", 0.0
        )  # by hand, or by a process that was killed: a pause
    return _read(disk, queue.resumed, False)


def _record(by: str, now: float) -> bytes:
    return json.dumps({"by": by[:200], "since": now}).encode()


def _read(disk: Disk, path: str, paused: bool) -> Pause | None:
    try:
        found = json.loads(disk.read_small(path, MOST_BYTES) or b"")
        since = float(found["since"])
        return Pause(paused, str(found["by"]), since if math.isfinite(since) else 0.0)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
