"""A bounded queue of small messages between processes, in shared memory; neither side ever waits for the other.

One process puts and one takes; each may be replaced by another process at any time. A message is taken at most once: if
the taker is killed, its parent knows the message, and the next taker does not get it.
"""

from __future__ import annotations

import mmap
import struct

from framework.process.nameless import shared_memory

MOST = 1024  # messages that can wait
LARGEST = 2044  # bytes of a message
# Words: messages put, messages taken, the open message (0: none), refused messages, and refused messages that were
# reported. Each word has one writer at a time.
_PUT, _TAKEN, _OPEN, _REFUSED, _SAID = range(5)
_LENGTH = struct.Struct("<I")
_HEADER, _SLOT = 64, _LENGTH.size + LARGEST
_SIZE = _HEADER + (MOST + 1) * _SLOT  # one more than can wait: the open message keeps its slot


class Mailbox:
    """The mapped queue. Only messages that were put take memory.

    Args:
        descriptor: of the file, from `made`; a process that is not forked inherits the descriptor.
    """

    def __init__(self, descriptor: int, memory: mmap.mmap | None = None) -> None:
        self.descriptor = descriptor
        self._memory = memory or mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def made(cls) -> Mailbox:
        """Return a new mailbox. Raises OSError."""
        return cls(*shared_memory("mailbox", _SIZE, sparse=True))

    @property
    def waiting(self) -> int:
        """Return how many messages wait to be taken."""
        return self._words[_PUT] - self._words[_TAKEN]

    def put(self, message: bytes) -> bool:
        """Add a message. Return False, and count the refusal, if there is no room for it."""
        number = self._words[_PUT]
        if number - self._words[_TAKEN] >= MOST or len(message) > LARGEST:
            self._words[_REFUSED] += 1
            return False
        at = _HEADER + number % (MOST + 1) * _SLOT
        _LENGTH.pack_into(self._memory, at, len(message))
        self._memory[at + _LENGTH.size : at + _LENGTH.size + len(message)] = message
        self._words[_PUT] = number + 1  # last: a writer that is killed before this line has put nothing
        return True

    def take(self) -> bytes | None:
        """Return the oldest message; None: none waits. The message is open until `close`."""
        number = self._words[_TAKEN]
        if number == self._words[_PUT]:
            return None
        self._words[_OPEN] = number + 1
        self._words[_TAKEN] = number + 1
        return self._read(number)

    def close(self) -> None:
        """Mark the message that was taken last as finished."""
        self._words[_OPEN] = 0

    def abandoned(self) -> bytes | None:
        """Return once the message that a process had open when it died; None: it had none. Its parent calls this."""
        number = self._words[_OPEN]
        if not number:
            return None
        self._words[_TAKEN] = max(self._words[_TAKEN], number)
        self._words[_OPEN] = 0
        return self._read(number - 1)

    def refused(self) -> int:
        """Return how many messages were refused since the last call."""
        total, said = self._words[_REFUSED], self._words[_SAID]
        self._words[_SAID] = total
        return total - said

    def _read(self, number: int) -> bytes:
        at = _HEADER + number % (MOST + 1) * _SLOT
        (length,) = _LENGTH.unpack_from(self._memory, at)
        return self._memory[at + _LENGTH.size : at + _LENGTH.size + length]
