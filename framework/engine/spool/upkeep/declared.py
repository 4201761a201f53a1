"""The declarations of services: a file `declared.<service>` in the root for each, which no queue could be named as.

They are not flushed: after a power cut no service runs. Its own time stands in it, because a copy has another.
"""

from __future__ import annotations

import contextlib
from urllib.parse import quote

from framework.engine.declarations import MOST_BYTES, Declaration, read
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import FULL, Disk

_PREFIX, _NEW = "declared.", ".new"


def declare(disk: Disk, clock: Clock, said: Declaration) -> None:
    """Write the file of a service. Raises OSError."""
    _write(disk, _path(said.service), f"{clock.wall():.3f}\n{said.text()}")


def withdraw(disk: Disk, service: str) -> None:
    """Note in the file of a service that it has stopped. Raises OSError."""
    path = _path(service)
    found = disk.read_small(path, MOST_BYTES)
    if found is not None:
        _, _, text = found.decode("utf-8", "replace").partition("\n")
        _write(disk, path, f"stopped\n{text}")


def declarations(disk: Disk, clock: Clock) -> list[Declaration]:
    """Return what all files say; a damaged one says nothing. Raises OSError."""
    found = []
    for entry in sorted(disk.listdir(".")):
        if entry.startswith(_PREFIX) and not entry.endswith(_NEW):
            time, _, text = (disk.read_small(entry, MOST_BYTES) or b"").partition(b"\n")
            silent: float | None = None
            with contextlib.suppress(ValueError):
                silent = clock.wall() - float(time)
            found.append(read(text, silent))
    return [one for one in found if one is not None]


def _path(service: str) -> str:
    return f"{_PREFIX}{quote(service, safe='')[:200]}"


def _write(disk: Disk, path: str, text: str) -> None:
    try:
        disk.unlink(path + _NEW)
        disk.write_new(path + _NEW, text.encode(), sync=False)
        disk.rename(path + _NEW, path)
    except (FileExistsError, FileNotFoundError):  # another process of the service does the same
        return
    except OSError as error:
        if error.errno not in FULL:
            raise
