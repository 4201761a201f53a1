"""The directories of a root and of its queues. They are made durably, and refused when they are unsafe.

`<root>/<queue>/` holds tmp, ready/<bucket>, segments, claimed/<wid>, delayed/<minute>, dead, bad, ids/<xx>, schedules,
depth, `doorbell` (the notifier), the marker `segmented.2`, where the queue was paused `ready/paused` or `resumed`,
where a job was cancelled `cancels` and `cancelled`, where jobs are members of fan-ins `fan-ins`, and where it has
limits `limits`. Beside the queues lie `declared.<service>`, `leader.<name>.lock`, the clock, and the runner's
directories.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from framework.engine.calls import Calls
from framework.engine.spool.claim.setbacks import OF_ONE_FILE
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.format.names import Name
from framework.model.errors import EngineError, EngineUnavailable
from framework.model.options import QueueSpec, check_name

STATES = ("tmp", "ready", "segments", "claimed", "delayed", "dead", "bad", "ids")
_RESERVED = ("run", "instances", "leader.lock")


class QueueDir:
    """The paths of one queue, relative to the root.

    Attributes:
        options: the queue's declaration.
        base: its directory.
    """

    def __init__(self, options: QueueSpec) -> None:
        self.options = options
        self.name = options.name
        self.base = directory_of(options.name)
        self.depth = f"{self.base}/depth"
        self.notifier = f"{self.base}/doorbell"
        self.paused, self.resumed = f"{self.base}/ready/paused", f"{self.base}/resumed"
        self.cancels, self.cancelled = f"{self.base}/cancels", f"{self.base}/cancelled"
        self.segmented = f"{self.base}/segmented.2"  # `segmented` was set by versions that read no open segments

    def path(self, state: str, entry: object) -> str:
        """Return the path of a file in a state without buckets: tmp, dead, bad."""
        return f"{self.base}/{state}/{entry}"

    def ready(self, name: Name) -> str:
        """Return the path of a runnable job."""
        return f"{self.base}/ready/{name.bucket}/{name}"

    def delayed(self, name: Name) -> str:
        """Return the path of a job that is not due yet."""
        return f"{self.base}/delayed/{name.minute}/{name}"

    def waiting(self, name: Name, now: int) -> str:
        """Return the path in ready or delayed, depending on `now` (microseconds since the epoch)."""
        return self.ready(name) if name.not_before is None or name.not_before <= now else self.delayed(name)


def directory_of(queue: str) -> str:
    """Return the directory of a queue. A name that the root itself uses gets an `@`, which no queue name has."""
    check_name(queue)
    return f"@{queue}" if queue in _RESERVED or queue.startswith("clock.") else queue


def queue_of(directory: str) -> str | None:
    """Return the queue of a directory in the root; None: it is something else."""
    name = directory.removeprefix("@")
    try:
        return name if directory_of(name) == directory else None
    except ValueError:
        return None


def open_root(root: Path, calls: Calls, *, power: bool) -> Disk:
    """Open the root, and make it where it is missing. Raises EngineUnavailable, EngineError: the root is unsafe."""
    disk = None
    try:
        made = _make_root(root, calls)
        disk = Disk(calls, calls.open(str(root), DIRECTORY & ~os.O_NOFOLLOW), power=power)
        _check_owner(root, calls.fstat(disk.fd))
        if made and power:
            _sync_parents(root, calls, made)
    except (OSError, EngineError) as error:
        if disk is not None:
            disk.close()
        if isinstance(error, OSError):
            raise unfit(root, error) from error
        raise
    return disk


def make_queue(disk: Disk, queue: QueueDir) -> None:
    """Make a queue's directories durably, in any order; each open makes what is missing. Raises OSError."""
    disk.mkdir(queue.base)
    new = False
    for state in STATES:
        try:
            disk.calls.mkdir(f"{queue.base}/{state}", 0o700, dir_fd=disk.fd)
            new = True
        except FileExistsError:
            continue
    if new:
        disk.sync_dir(queue.base)
    try:
        disk.calls.mkfifo(queue.notifier, 0o600, dir_fd=disk.fd)
    except OSError as error:  # claims also look without notifications: a damaged notifier does not close the queue
        if error.errno != errno.EEXIST and error.errno not in OF_ONE_FILE:
            raise


def is_complete(disk: Disk, queue: QueueDir) -> bool:
    """Return whether all directories of a queue are there. Raises OSError."""
    return all(disk.stat(f"{queue.base}/{state}") is not None for state in STATES)


def check_one_device(root: Path, disk: Disk, queue: QueueDir) -> None:
    """Refuse a mount below the root, as every rename across it would fail. Raises EngineError, OSError."""
    device = disk.calls.fstat(disk.fd).st_dev
    own = [queue.base, *(f"{queue.base}/{state}" for state in STATES)]
    inside = []
    for state in ("ready", "claimed", "delayed", "ids"):
        inside += [f"{queue.base}/{state}/{entry}" for entry in disk.listdir(f"{queue.base}/{state}")]
    for path in (*own, *inside):
        try:
            found = disk.stat(path)
        except OSError as error:
            if error.errno not in OF_ONE_FILE or path in own:
                raise
            continue  # a damaged directory does not stop the others
        if found is not None and found.st_dev != device:
            raise EngineError(
                f"{root / path} is on another file system than {root}: unmount it, or mount it at {root} itself"
            )
        if path in own and (found is None or not stat.S_ISDIR(found.st_mode)):
            raise EngineError(f"{root / path} is not a directory: move it away, the spool needs that name")


def unfit(root: Path, error: OSError) -> EngineError:
    """Return an error at the root as one for the user; it names the entry where that is not the root itself."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    inside = isinstance(error.filename, str) and os.path.normpath(root / error.filename) != os.path.normpath(root)
    where = f"spool {root}: {error.filename}" if inside else f"spool {root}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE):
        return EngineUnavailable(f"{where}: {reason}")
    if error.errno == errno.EACCES:
        return EngineError(
            f"{where}: permission denied for uid {os.geteuid()}: give it the directory, or set WORKER_ENGINE_URL"
        )
    if error.errno == errno.EROFS:
        return EngineUnavailable(
            f"{where}: its file system is read-only: remount it, or set WORKER_ENGINE_URL to another place"
        )
    return EngineError(f"{where}: {reason}: set WORKER_ENGINE_URL to a directory, as in spool:./var/spool")


def unavailable(root: Path, doing: str, error: OSError) -> EngineUnavailable:
    """Return an error of a running operation as EngineUnavailable. Raises EngineError: trying again cannot help."""
    if error.errno == errno.EBADF:
        raise EngineError(f"spool {root}: {doing}: code in this process has closed descriptors of the spool") from error
    reason = os.strerror(error.errno) if error.errno else str(error)
    where = f"{root}/{error.filename}" if isinstance(error.filename, str) else str(root)
    hint = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "raise the quota",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "raise the system's limit of open files",
        errno.EROFS: "remount the file system",
    }.get(error.errno or 0, "tried again")
    return EngineUnavailable(f"spool {where}: {doing}: {reason}: {hint}")


def _make_root(root: Path, calls: Calls) -> list[Path]:
    missing = []
    path = root
    while not path.exists() and path != path.parent:
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        try:
            calls.mkdir(str(path), 0o700 if path == root else 0o755)
        except FileExistsError:
            continue
    return missing


def _sync_parents(root: Path, calls: Calls, made: list[Path]) -> None:
    for path in made:
        fd = calls.open(str(path.parent), DIRECTORY & ~os.O_NOFOLLOW)
        try:
            calls.fsync(fd)
        finally:
            calls.close(fd)


def _check_owner(root: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise EngineError(
            f"spool {root} belongs to uid {found.st_uid}, this process is uid {os.geteuid()}: run both as one user"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(found.st_mode)
        raise EngineError(f"spool {root} has mode {mode:o}, others could plant jobs in it: chmod 700 {root}")
