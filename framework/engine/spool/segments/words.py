"""A segment's words: eight bytes a job that say what became of it. Read and written alone; only claims need a lock.

Words are written by pwrite, never through a map: a mapped store makes the next flush of that file commit the journal,
and is a SIGBUS on a full disk. A word says its state in its first bits and in its last: half a word is no word, and
belongs to nobody (see `upkeep`), so that its job runs again.

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
# XORed to a claimed job's word it says that the job is finished; the owner stays, and knows its own at a repetition.
FINISH = OWNED ^ DONE


def free(delivery: int) -> int:
    """Return the word of a job that was claimed so often and may be claimed."""
    return min(delivery, _DELIVERY) << 4


def owned(delivery: int, tag: int) -> int:
    """Return the word of a job that an owner has."""
    return OWNED | min(delivery, _DELIVERY) << 4 | tag << 24


def claimed(words: list[int], places: Sequence[int], tag: int) -> dict[int, int]:
    """Return the words with which an owner claims those of these jobs that are free, by their places."""
    mine = owned(0, tag)
    return {i: mine | min((words[i] >> 4) + 1, _DELIVERY) << 4 for i in places if not words[i] & 0xF}


def moved(delivery: int, tag: int) -> int:
    """Return the word of a job that is the copy which this owner made at this delivery; there is one at a time."""
    return MOVED | min(delivery, _DELIVERY) << 4 | tag << 24


def delivery_of(word: int) -> int:
    """Return how often the job was claimed."""
    return word >> 4 & _DELIVERY


def is_free(word: int) -> bool:
    """Return whether the job may be claimed."""
    return not word & 0xF and not word >> 24


def is_settled(word: int) -> bool:
    """Return whether the segment has nothing more to do with the job."""
    return word & _STATE in _SETTLED


def is_owned(word: int) -> bool:
    """Return whether the job is claimed; what no version writes, or only half a word, counts as an unknown owner's."""
    return not is_settled(word) and not is_free(word) and word != VACANT


def is_vacant(word: int) -> bool:
    """Return whether no job is there yet."""
    return word == VACANT


def all_free(words: list[int]) -> list[int]:
    """Return the places of the jobs that may be claimed."""
    return [i for i, word in enumerate(words) if not word & 0xF and not word >> 24]


def all_of(words: list[int], tag: int) -> set[int]:
    """Return the places of the jobs that this owner has."""
    mask, mine = _STATE | _TAG << 24, OWNED | tag << 24
    return {i for i, word in enumerate(words) if word & mask == mine}


def tag_of_word(word: int) -> int:
    """Return the owner of a claimed job; 0: nobody's, as no owner has that tag."""
    return word >> 24 & _TAG if word & _STATE == OWNED else 0


def pack(words: list[int]) -> bytes:
    """Return words that follow each other as bytes."""
    return struct.pack(f"<{len(words)}Q", *words)


def unpack(data: bytes) -> list[int]:
    """Return the words in bytes; a rest shorter than a word is none."""
    count = len(data) // SIZE
    return list(struct.unpack_from(f"<{count}Q", data))


@lru_cache(maxsize=1024)
def tag(wid: str) -> int:
    """Return the 36 bits by which words name an owner. Two of a thousand owners share one in 100,000 spools."""
    return int.from_bytes(blake2b(wid.encode(), digest_size=8).digest(), "little") & _TAG or 1
