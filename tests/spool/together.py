"""Jobs as versions before segments have stored many at once: files in a directory of their own, renamed into ready/."""

from __future__ import annotations

import os
import time
from pathlib import Path

from framework.engine.spool.format import job_file, names

from .world import job


def directory(root: Path, *wanted: str, state: str = "ready") -> Path:
    """Return it; in tmp, as its writer was killed before the rename, and nobody has acknowledged its jobs."""
    stem = names.Name(f"{time.time_ns():020d}", names.tails.next()).stem
    place = root / "jobs" / "tmp" / stem
    place.mkdir(mode=0o700)
    for one in map(job, wanted):
        (place / str(names.first(one, f"{time.time_ns():020d}", names.tails.next()))).write_bytes(job_file.encode(one))
    os.utime(place, ns=(int(stem[:20]), int(stem[:20])))
    if state == "tmp":
        return place
    return place.rename(root / "jobs" / state / f"{stem},{len(wanted)}")
