"""A journal in which a short-lived process leaves records for the maintenance process of the next tree that runs.

A command of a person ends before any telemetry could be sent, and works also while no tree runs. So it appends a line
here, and maintenance turns each line into a log line and a count, once. A lock divides writers and reader, so that no
line comes between the reading and the removal.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = "@acts.jsonl"  # beside the queues of a spool: no queue's name begins with @


def append(directory: Path, record: Mapping[str, Any]) -> None:
    """Append a record; a power cut may lose it. Raises OSError: it is not noted."""
    line = json.dumps(dict(record), separators=(",", ":")).encode() + b"\n"
    with _locked(directory / NAME, os.O_CREAT) as fd:
        os.write(fd, line)


def take(directory: Path) -> list[dict[str, Any]]:
    """Return the records that no process has taken yet, and remove them; none while a writer is at it. Raises OSError.

    It does not wait: a command that is stopped (Ctrl-Z) while it writes must not hold up maintenance, which also
    rescues jobs. A line that is no record is left out: its writer was killed, or a person has edited the file.
    """
    path = directory / NAME
    if not path.exists():
        return []
    try:
        with _locked(path, 0, fcntl.LOCK_NB) as fd:
            data = os.pread(fd, os.fstat(fd).st_size, 0)
            os.ftruncate(fd, 0)
    except BlockingIOError:
        return []
    return list(_records(data))


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


@contextmanager
def _locked(path: Path, flags: int, at_once: int = 0) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | at_once)
        yield fd
    finally:
        os.close(fd)
