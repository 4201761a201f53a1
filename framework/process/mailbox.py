"""A bounded queue of small messages between processes, in shared memory: neither side ever waits for the other.

One process puts and one takes; each may be replaced by another at any time. A message is taken at most once: what a
process had taken when it was killed is known to its parent, and is not given to the next.
"""

from __future__ import annotations

import mmap
import struct

from framework.process.nameless import shared_memory

MOST = 1024  # messages that can wait
LARGEST = 2044  # bytes of a message
# Words: messages so far; the open one, 0 = none; those that found no room, and how many of them were said. Each has one
# writer at a time.
_PUT, _TAKEN, _OPEN, _REFUSED, _SAID = range(5)
_LENGTH = struct.Struct("<I")
_HEADER, _SLOT = 64, _LENGTH.size + LARGEST
_SIZE = _HEADER + (MOST + 1) * _SLOT  # one more than can wait: the open one keeps its place


class Mailbox:
    """The queue, mapped. Memory is taken for what was put, not for what could be.

    Args:
        descriptor: of the file, from `made`; a process that is not forked inherits it.
    """

    def __init__(self, descriptor: int, memory: mmap.mmap | None = None) -> None:
        self.descriptor = descriptor
        self._memory = memory or mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def made(cls) -> Mailbox:
        """Return a new one. Raises OSError."""
        return cls(*shared_memory("mailbox", _SIZE, sparse=True))

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return self._words[_PUT] - self._words[_TAKEN]

    def put(self, message: bytes) -> bool:
        """Add a message. Return False, and count it, where there is no room for it."""
        number = self._words[_PUT]
        if number - self._words[_TAKEN] >= MOST or len(message) > LARGEST:
            self._words[_REFUSED] += 1
            return False
        at = _HEADER + number % (MOST + 1) * _SLOT
        _LENGTH.pack_into(self._memory, at, len(message))
        self._memory[at + _LENGTH.size : at + _LENGTH.size + len(message)] = message
        self._words[_PUT] = number + 1  # last: a writer that is killed before has put nothing
        return True

    def take(self) -> bytes | None:
        """Return the oldest message, None where none waits. It is open until `close`."""
        number = self._words[_TAKEN]
        if number == self._words[_PUT]:
            return None
        self._words[_OPEN] = number + 1
        self._words[_TAKEN] = number + 1
        return self._read(number)

    def close(self) -> None:
        """Say that all is done with the message that was taken last."""
        self._words[_OPEN] = 0

    def abandoned(self) -> bytes | None:
        """Return the message that a process had open when it died, once, None where it had none. For its parent."""
        number = self._words[_OPEN]
        if not number:
            return None
        self._words[_TAKEN] = max(self._words[_TAKEN], number)
        self._words[_OPEN] = 0
        return self._read(number - 1)

    def refused(self) -> int:
        """Return how many messages have found no room since this was asked last."""
        total, said = self._words[_REFUSED], self._words[_SAID]
        self._words[_SAID] = total
        return total - said

    def _read(self, number: int) -> bytes:
        at = _HEADER + number % (MOST + 1) * _SLOT
        (length,) = _LENGTH.unpack_from(self._memory, at)
        return self._memory[at + _LENGTH.size : at + _LENGTH.size + length]
