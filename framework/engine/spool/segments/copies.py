"""A job leaves its segment: it becomes a file of its own in its owner's directory, and is settled there as any other.

    1  a copy is written in claimed/<wid>/ under a name that is no job's, and made durable
    2  the word says *moved*, by this owner at this delivery: the commit point
    3  the words are flushed: else a power cut could bring the job back here while it is there
    4  the copy gets the name of a job

Killed before 2, the copy is nobody's; after it, it is the job. The word names one copy, by owner and delivery: an owner
has one of a job at a time, and removes it before it settles the job in another way. Only who holds the lock of the
directory decides, and settles the copies before the words: a word that it has changed would say nothing of the copy.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from functools import partial

from framework.engine.spool.claim.life import Held, Owner
from framework.engine.spool.disk.calls import HAS_SYNCFS
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import frame, names
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.open import Segments

SYNCFS_FROM = 4  # copies
_COPY = re.compile(r"\.([^~]+)~([^~]+)~([0-9a-f]{9})", re.ASCII)


def leave(disk: Disk, held: Sequence[Held]) -> list[tuple[Held, OSError]]:
    """Make files of leases that are records; others are left alone. Return those that failed and stay leases.

    A lease whose word is not its owner's is lost: its file is not there, and settling it says so.
    """
    failed: list[tuple[Held, OSError]] = []
    inside = [one for one in held if one.segment is not None and not one.settled]
    together = HAS_SYNCFS and len(inside) >= SYNCFS_FROM
    copied = [one for one in inside if _tried(one, lambda one: _copy(disk, one, sync=not together), failed)]
    if together and copied and disk.power:
        try:
            disk.calls.syncfs(disk.fd)
        except OSError as error:
            failed += [(one, error) for one in copied]
            return failed
    moved = [one for one in copied if _tried(one, _commit, failed)]
    for segment in {id(one.segment): one.segment for one in moved}.values():
        with contextlib.suppress(OSError):  # then a power cut may bring the jobs back: they run again
            segment.flush()
    for one in moved:
        _tried(one, lambda one: _place(disk, one), failed)
    return failed


def forget(disk: Disk, held: Held) -> bool:
    """Take back the copy of a lease that is to be settled in its segment after all.

    Return whether that is so; False: the job is the copy by now, and `leave` goes on with it. Raises OSError.
    """
    if held.copied:
        if held.segment.word(held.index) == _moved(held):
            return False
        disk.unlink(_path(held))  # before the word is written: when the segment is gone, a copy is the job
        held.copied = False
    return True


def is_copy(entry: str) -> bool:
    """Return whether an entry of an owner's directory has the name of a copy."""
    return "~" in entry and _COPY.fullmatch(entry) is not None


def settle_copies(disk: Disk, owner: Owner, segments: Segments) -> bool:
    """Settle what an owner's copies are, before its words; by the holder of its lock. Return whether all are settled.

    Those of leases are not touched: their settlement is on its way, perhaps in another thread. Raises OSError.
    """
    done = True
    for entry in disk.listdir(owner.base):
        match = _COPY.fullmatch(entry)
        name = names.parse(match[1]) if match else None
        if match is None or name is None or names.segment(match[2]) is None or match[1] in owner.held:
            continue
        step = partial(_settle_copy, disk, segments, match, name)
        done = segments.setbacks.tried(f"{owner.base}/{entry}", step) is not None and done
    return done


def _settle_copy(disk: Disk, segments: Segments, match: re.Match[str], name: names.Name, path: str) -> bool:
    now = segments.word(match[2], names.index_in_segment(name))
    # Where the segment is gone, all in it was settled, and a copy goes before its job is settled in another way.
    if now is None or now == word.moved(name.delivery, int(match[3], 16)):
        disk.move(path, f"{os.path.dirname(path)}/{match[1]}")
    else:
        disk.unlink(path)
    return True


def _tried(held: Held, step: Callable[[Held], bool], failed: list[tuple[Held, OSError]]) -> bool:
    try:
        return step(held)
    except OSError as error:
        failed.append((held, error))
        return False


def _copy(disk: Disk, held: Held, *, sync: bool) -> bool:
    """Write the copy; False: the lease was lost. Raises OSError."""
    held.segment.check()
    now = held.segment.word(held.index)
    if held.copied and now == _moved(held):
        return True  # an earlier call came so far
    if now != held.word:
        held.segment.store.leave(held)
        return False
    if held.copied:
        disk.unlink(_path(held))  # what an earlier call has left
    held.copied = True
    data = frame.encode(held.segment.job(held.index))
    held.slots_at = frame.layout(data).slots_at
    try:
        disk.write_new(_path(held), data, sync=sync)
    except FileNotFoundError:  # somebody has removed the owner's directory
        if not disk.mkdir(held.owner.base):
            raise
        disk.write_new(_path(held), data, sync=sync)
    return True


def _path(held: Held) -> str:
    return f"{held.owner.base}/.{held.entry}~{held.segment.entry}~{held.owner.tag:09x}"


def _moved(held: Held) -> int:
    return word.moved(held.name.delivery, held.owner.tag)


def _commit(held: Held) -> bool:
    held.segment.write(held.index, _moved(held))
    return True


def _place(disk: Disk, held: Held) -> bool:
    target = f"{held.owner.base}/{held.entry}"
    try:
        disk.rename(_path(held), target)
    except FileNotFoundError:  # an earlier call may have come so far
        if disk.stat(target) is None:
            raise
    held.inode = 0
    held.segment.store.leave(held)
    return True
