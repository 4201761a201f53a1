"""Copies: a job leaves its segment as a job file in its owner's directory, and is settled there like any other.

    1  a copy is written in claimed/<wid>/ under a name that no job has, and made durable
    2  the word becomes *moved*, with this owner and this delivery: the commit point
    3  the words are flushed: else a power cut could bring the job back in the segment while the copy exists
    4  the copy is renamed to the name of a job

After a kill before step 2 the copy is discarded; after a later kill it is the job. The word names one copy, by owner
and delivery: an owner has one copy of a job at a time, and removes it before it settles the job in another way. Only
the holder of the directory's lock settles copies. It does so before it settles the words, because a word that it has
changed says nothing of the copy any more.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.claim.life import Owner, Token
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.open import Segments

SYNCFS_FROM = 4  # copies
T = TypeVar("T")
_COPY = re.compile(r"\.([^~]+)~([^~]+)~([0-9a-f]{9})", re.ASCII)


def tried(token: Token, step: Callable[[Token], T], failed: list[tuple[Token, OSError]]) -> T | None:
    """Do a step for a claim and return its result; add the claim to `failed` where the step raises an OSError."""
    try:
        return step(token)
    except OSError as error:
        failed.append((token, error))
        return None


def leave(disk: Disk, tokens: Sequence[Token]) -> list[tuple[Token, OSError]]:
    """Turn leases that are records of segments into job files, and return those that failed and stay leases.

    A lease whose word is not its owner's any more is lost: it gets no file, so its settlement reports it as lost.
    """
    failed: list[tuple[Token, OSError]] = []
    inside = [one for one in tokens if one.segment is not None and not one.settled]
    together = HAS_SYNCFS and len(inside) >= SYNCFS_FROM
    copied = [one for one in inside if tried(one, lambda one: _copy(disk, one, sync=not together), failed)]
    if together and copied and disk.power:
        try:
            disk.calls.syncfs(disk.fd)
        except OSError as error:
            return [*failed, *((one, error) for one in copied)]
    moved = [one for one in copied if tried(one, _commit, failed)]
    for segment in {id(one.segment): one.segment for one in moved}.values():
        with contextlib.suppress(OSError):  # after an error a power cut may bring the jobs back: they run again
            segment.flush()
    for one in moved:
        tried(one, lambda one: _name(disk, one), failed)
    return failed


def forget(disk: Disk, token: Token) -> bool:
    """Remove the copy of a lease that is to be settled in its segment after all. Raises OSError.

    Return whether it can be settled there; False: the copy is the job by now, and `leave` continues with it.
    """
    if token.segment.word(token.index) == _moved(token):
        return False
    disk.unlink(_path(token))  # before the word is written: once the segment is gone, a copy counts as the job
    token.copied = False
    return True


def is_copy(entry: str) -> bool:
    """Return whether this entry of an owner's directory is named as a copy."""
    return "~" in entry and _COPY.fullmatch(entry) is not None


def settle_copies(disk: Disk, owner: Owner, segments: Segments) -> bool:
    """Make an owner's copies jobs or remove them; return whether all are settled. Raises OSError.

    The holder of the owner's lock calls this, before it settles the words. Copies of leases are not touched: their
    settlement is under way, perhaps in another thread.
    """
    done = True
    for entry in disk.listdir(owner.base):
        match = _COPY.fullmatch(entry)
        name = names.parse(match[1]) if match else None
        if match is None or name is None or names.segment(match[2]) is None or match[1] in owner.tokens:
            continue
        step = partial(_settle_copy, disk, segments, match, name)
        done = segments.setbacks.tried(f"{owner.base}/{entry}", step) is not None and done
    return done


def _settle_copy(disk: Disk, segments: Segments, match: re.Match[str], name: names.Name, path: str) -> bool:
    now = segments.word(match[2], names.index_in_segment(name))
    # A segment is gone only when all its jobs are settled, and a copy is removed before its job is settled in another
    # way. So a copy without a segment is the job.
    if now is None or now == word.moved(name.delivery, int(match[3], 16)):
        disk.move(path, f"{os.path.dirname(path)}/{match[1]}")
    else:
        disk.unlink(path)
    return True


def _copy(disk: Disk, token: Token, *, sync: bool) -> bool:
    """Write the copy; False: the lease was lost. Raises OSError."""
    token.segment.check()
    now = token.segment.word(token.index)
    if token.copied and now == _moved(token):
        return True  # an earlier call has done this step
    if now != token.word:
        token.segment.store.leave(token)
        return False
    if token.copied:
        disk.unlink(_path(token))  # left by an earlier call
    token.copied = True
    data = job_file.encode(token.segment.job(token.index))
    token.slots_at = job_file.layout(data).slots_at
    try:
        disk.write_new(_path(token), data, sync=sync)
    except FileNotFoundError:  # the owner's directory was removed
        if not disk.mkdir(token.owner.base):
            raise
        disk.write_new(_path(token), data, sync=sync)
    return True


def _path(token: Token) -> str:
    return f"{token.owner.base}/.{token.entry}~{token.segment.entry}~{token.owner.tag:09x}"


def _moved(token: Token) -> int:
    return word.moved(token.name.delivery, token.owner.tag)


def _commit(token: Token) -> bool:
    token.segment.write(token.index, _moved(token))
    return True


def _name(disk: Disk, token: Token) -> None:
    """Give the copy the name of a job, and end the lease on the segment. Raises OSError."""
    target = f"{token.owner.base}/{token.entry}"
    try:
        disk.rename(_path(token), target)
    except FileNotFoundError:  # an earlier call may have done this step
        if disk.stat(target) is None:
            raise
    token.inode = 0
    token.segment.store.leave(token)
