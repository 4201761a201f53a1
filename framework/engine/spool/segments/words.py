"""A segment's words: eight bytes for each job, with its state. Each is read and written alone; only claims need a lock.

Words are written by pwrite, never through a mapping: a mapped store makes the next flush of that file commit the
journal, and raises SIGBUS on a full disk. A word has its state in its lowest and in its highest bits, so a half-written
word is recognized. It counts as the word of an unknown owner (see `upkeep`), and its job runs again.

    state 4 bits, deliveries 20, tag of an owner 36, state 4
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

FREE, OWNED, DONE, MOVED, VACANT = (state | state << 60 for state in range(5))
SIZE = 8
_STATE, _DELIVERY, _TAG = 0xF | 0xF << 60, 0xFFFFF, (1 << 36) - 1
_SETTLED = (DONE, MOVED)
# XOR with this turns a claimed job's word into that of a finished job. The owner's tag stays in it, so that an owner
# that repeats the settlement recognizes its own word.
FINISH = OWNED ^ DONE


def free(delivery: int) -> int:
    """Return the word of a free job with so many deliveries."""
    return min(delivery, _DELIVERY) << 4


def owned(delivery: int, tag: int) -> int:
    """Return the word of a job that the owner with this tag has."""
    return OWNED | min(delivery, _DELIVERY) << 4 | tag << 24


def claimed(words: list[int], indexes: Sequence[int], tag: int) -> dict[int, int]:
    """Return, by index, the words with which an owner claims the free jobs among these."""
    mine = owned(0, tag)
    return {i: mine | min((words[i] >> 4) + 1, _DELIVERY) << 4 for i in indexes if not words[i] & 0xF}


def moved(delivery: int, tag: int) -> int:
    """Return the word of a job that has become the copy which this owner made at this delivery; there is only one."""
    return MOVED | min(delivery, _DELIVERY) << 4 | tag << 24


def delivery_of(word: int) -> int:
    """Return how often a job was claimed."""
    return word >> 4 & _DELIVERY


def is_free(word: int) -> bool:
    """Return whether a job may be claimed."""
    return not word & 0xF and not word >> 24


def is_settled(word: int) -> bool:
    """Return whether the job has ended or has left the segment."""
    return word & _STATE in _SETTLED


def is_owned(word: int) -> bool:
    """Return whether a job is claimed; a half-written or impossible word counts as an unknown owner's."""
    return not is_settled(word) and not is_free(word) and word != VACANT


def all_free(words: list[int]) -> list[int]:
    """Return the indexes of the jobs that may be claimed."""
    return [i for i, word in enumerate(words) if not word & 0xF and not word >> 24]


def all_of(words: list[int], tag: int) -> set[int]:
    """Return the indexes of the jobs that the owner with this tag has."""
    mask, mine = _STATE | _TAG << 24, OWNED | tag << 24
    return {i for i, word in enumerate(words) if word & mask == mine}


def tag_of_word(word: int) -> int:
    """Return the tag of a claimed job's owner; 0, which is no owner's tag: the word names no owner."""
    return word >> 24 & _TAG if word & _STATE == OWNED else 0


def pack(words: list[int]) -> bytes:
    """Return adjacent words as bytes."""
    return struct.pack(f"<{len(words)}Q", *words)


def unpack(data: bytes) -> list[int]:
    """Return the words in bytes; a remainder shorter than a word is dropped."""
    count = len(data) // SIZE
    return list(struct.unpack_from(f"<{count}Q", data))


@lru_cache(maxsize=1024)
def tag(wid: str) -> int:
    """Return the 36 bits that name an owner in words. Of 100,000 spools with 1,000 owners, one has two equal tags."""
    return int.from_bytes(blake2b(wid.encode(), digest_size=8).digest(), "little") & _TAG or 1
