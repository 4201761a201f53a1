"""The strict order of groups: the marks of jobs that were claimed and wait again.

Such a job (a retry, a release) is the next of its group, wherever it is. `groups/<hash>` is a symbolic link to the stem
of its name: it is made and read in one step, and leads nowhere. It is made before the job leaves its claimer's
directory, where it counts as running, and removed before the job leaves its queue for good. So a process that is killed
between two steps leaves a job that runs or has a mark. Maintenance removes a mark that is left without its job, which
keeps only its own group waiting meanwhile. After a power cut the same holds, because a journal keeps the order of these
steps.
"""

from __future__ import annotations

import errno
import os

from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names
from framework.engine.spool.format.names import Name


def make(disk: Disk, queue: QueueDir) -> None:
    """Make the directory of marks while there is room for it: a settlement on a full disk must not need any.

    Raises OSError.
    """
    if queue.options.groups is not None and queue.options.groups.strict and disk.stat(queue.groups) is None:
        try:
            disk.mkdir(queue.groups)
        except OSError as error:
            if error.errno not in FULL:
                raise


def next_of(disk: Disk, queue: QueueDir, group: str) -> str:
    """Return the stem of the job that is the next of its group; "": any may be. Raises OSError."""
    try:
        return disk.calls.readlink(f"{queue.groups}/{group}", dir_fd=disk.fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file that is no mark was put there
            return ""
        raise


def waits_again(disk: Disk, queue: QueueDir, name: Name) -> None:
    """Mark a claimed job that is to wait again, if its queue keeps a strict order. Raises OSError."""
    groups = queue.options.groups
    if groups is None or not groups.strict or not name.group:
        return
    path = f"{queue.groups}/{name.group}"
    for _ in range(3):
        try:
            disk.calls.symlink(name.stem, path, dir_fd=disk.fd)
            return
        except FileNotFoundError:
            disk.mkdir(queue.groups)
        except FileExistsError:
            if next_of(disk, queue, name.group) == name.stem:
                return
            disk.unlink(path)  # its job has ended: this one could not have been claimed otherwise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


def ends(disk: Disk, queue: QueueDir, name: Name | None) -> None:
    """Remove the mark of a job that leaves its queue for good. Raises OSError."""
    if name is not None and name.other and name.group and next_of(disk, queue, name.group) == name.stem:
        disk.unlink(f"{queue.groups}/{name.group}")


def sweep(disk: Disk, queue: QueueDir) -> None:
    """Remove marks whose jobs are gone. No grouped claim may be under way meanwhile. Raises OSError.

    A job moves from claimed/ to delayed/ to ready/, so in this order no job that waits is missed.
    """
    marks = {mark: next_of(disk, queue, mark) for mark in disk.listdir(queue.groups)}
    if not marks:
        return
    there: set[str] = set()
    for state in ("tmp", "claimed", "delayed", "ready"):
        base = f"{queue.base}/{state}"
        for entry in disk.listdir(base):
            inside = [entry] if state == "tmp" else disk.listdir(f"{base}/{entry}")
            there.update(one.partition(",")[0] for one in inside if names.GROUP in one)
    for mark, stem in marks.items():
        if stem and stem not in there and next_of(disk, queue, mark) == stem:
            disk.unlink(f"{queue.groups}/{mark}")
