"""Writes to a descriptor that other processes share, without waiting for its reader.

O_NONBLOCK cannot be set: the flag belongs to the open file, which the shell, the parent and every child share. So each
kind of file needs its own way. A pipe or terminal is opened again for this process. A socket, or a pipe that cannot be
opened, takes a flag for each call. If neither is possible, the outlet checks for room first and writes small pieces;
then a write waits only if another process takes the room in between.

A regular file has no reader. A write to it waits only while its disk stands still, like any write to a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

# POSIX: a write of up to this many bytes to a pipe is atomic. Linux: a writable pipe has room for this many.
PIPE_BUF = getattr(select, "PIPE_BUF", 4096)
_TIOCGDEV = 0x80045432  # Linux: asks which terminal a descriptor refers to
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # answers of kernels before 6.4 to RWF_NOWAIT on a pipe


class Outlet:
    """A writer of whole pieces of text: a piece is written completely or not at all.

    It keeps its own descriptor: when code closes standard output or puts another file there, the lines do not end up in
    that file.

    Args:
        fd: the descriptor to write to.

    Attributes:
        is_stream: the file is a pipe or a socket, where a piece of more than PIPE_BUF bytes may be torn.
        full: the last piece was refused because there was no room, not because of an error.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = self._own_identity = _identity(fd)
        self._own = -1
        self._channel: socket.socket | None = None
        self._put: Callable[[bytes], int] = len
        self._rest = b""
        self.is_stream = False
        self.full = False
        if self._identity is not None:
            self._open()

    def write(self, data: bytes) -> bool:
        """Write all of the data, or nothing and return False. The next write finishes a piece that was written only in
        part."""
        self.full = False
        try:
            if not self._is_ours():
                return False
            rest, self._rest = self._rest, b""
            self._rest = rest[self._push(rest) :]
            if self._rest:
                return False
            done = self._push(data)
            if done:
                self._rest = data[done:]
            return done > 0
        except (OSError, ValueError):
            return False

    def wait(self, seconds: float) -> bool:
        """Wait until there may be room; return whether there may be."""
        try:
            poll = select.poll()
            poll.register(self._own, select.POLLOUT)
            return bool(poll.poll(seconds * 1000))
        except (OSError, ValueError):
            return False

    def _push(self, data: bytes) -> int:
        """Write as much as possible; return how many bytes were written before the file was full or failed."""
        done = 0
        try:
            while done < len(data) and (count := self._put(data[done:])):
                done += count
        except BlockingIOError:
            self.full = True
        except OSError:  # the pipe has no reader, or the disk is full
            pass
        return done

    def _is_ours(self) -> bool:
        """Return whether our own descriptor is usable. Code that closes all descriptors closes it too; it is then
        opened again."""
        if self._identity is None:
            return False
        if self._own >= 0 and _identity(self._own) == self._own_identity:
            return True
        if _identity(self._fd) != self._identity:
            return False
        self._open()
        return True

    def _open(self) -> None:
        kind = os.fstat(self._fd).st_mode
        if self._channel is not None:
            self._channel.detach()  # its end would close the number, which may belong to another file by now
        if stat.S_ISSOCK(kind):
            self.is_stream, self._own = True, os.dup(self._fd)
            self._channel = channel = socket.socket(fileno=self._own)
            self._put = lambda data: channel.send(data, socket.MSG_DONTWAIT)
        elif stat.S_ISFIFO(kind) or os.isatty(self._fd):
            self.is_stream = stat.S_ISFIFO(kind)
            self._own = _reopened(self._fd)
            self._put = lambda data: os.write(self._own, data)
            if self._own < 0:  # the file belongs to another user
                self._own = os.dup(self._fd)
                self._put = self._try if self.is_stream and hasattr(os, "RWF_NOWAIT") else self._ask
        else:
            self._own = os.dup(self._fd)
            self._put = lambda data: os.write(self._own, data)
        self._own_identity = _identity(self._own)

    def _try(self, data: bytes) -> int:
        try:
            return os.pwritev(self._own, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self._put = self._ask
            return self._ask(data)

    def _ask(self, data: bytes) -> int:
        if not self.wait(0):
            raise BlockingIOError
        return os.write(
            self._own, data if self.is_stream else data[:1]
        )  # a terminal says that it has room, but not for how much


def _identity(fd: int) -> tuple[int, int, int] | None:
    """Return what identifies the open file of a descriptor; None: it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_rdev


def _reopened(fd: int) -> int:
    """Return a descriptor of a new, non-blocking open file on the same pipe or terminal; -1: that is not possible."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for path in (f"/proc/self/fd/{fd}", "/dev/tty"):  # every process may open the second for its own terminal
        with suppress(OSError):
            own = os.open(path, flags)
            if path != "/dev/tty" or _terminal(own) == _terminal(fd):
                return own
            os.close(own)
    return -1


def _terminal(fd: int) -> bytes:
    return fcntl.ioctl(fd, _TIOCGDEV, bytes(4))
