"""Writing to a descriptor that others share without ever waiting for its reader.

Setting O_NONBLOCK on it is out of the question: the flag belongs to the open file, which the shell, the parent and
every child share. So each kind of file has a way of its own: a pipe or terminal is opened once more for this process, a
socket and a pipe that cannot be opened take a flag for each call. Where none of that can be had, a look whether there
is room comes first, and the pieces are small: only another process that takes the room in between can make such a
write wait.

A regular file has no reader. A write waits only as long as its disk stands still, as every other file of the tree does.
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

# POSIX: a write of up to so many bytes to a pipe is atomic. Linux: a pipe that is writable has room for as many.
PIPE_BUF = getattr(select, "PIPE_BUF", 4096)
_TIOCGDEV = 0x80045432  # Linux: which terminal is behind a descriptor
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # what a kernel before 6.4 says to RWF_NOWAIT on a pipe


class Outlet:
    """Writes whole pieces of text, or nothing of them.

    It keeps a descriptor of its own: code that closes standard output, or puts another file there, does not turn its
    lines into bytes of somebody else's file.

    Args:
        fd: what to write to.

    Attributes:
        is_stream: a pipe or a socket; there a piece of more than PIPE_BUF bytes may be torn.
        full: the last piece was refused for want of room, not for an error.
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
        """Takes all of it, or nothing: False. What only fits in part is finished by the next write."""
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
        """Waits until there may be room."""
        try:
            poll = select.poll()
            poll.register(self._own, select.POLLOUT)
            return bool(poll.poll(seconds * 1000))
        except (OSError, ValueError):
            return False

    def _push(self, data: bytes) -> int:
        """Bytes written before there was no more room, or an error."""
        done = 0
        try:
            while done < len(data) and (count := self._put(data[done:])):
                done += count
        except BlockingIOError:
            self.full = True
        except OSError:  # nobody reads, full disk
            pass
        return done

    def _is_ours(self) -> bool:
        """Whether our descriptor is still what it was; code that closes all descriptors takes ours along."""
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
            self._channel.detach()  # its end would close the number, which is another file's by now
        if stat.S_ISSOCK(kind):
            self.is_stream, self._own = True, os.dup(self._fd)
            self._channel = channel = socket.socket(fileno=self._own)
            self._put = lambda data: channel.send(data, socket.MSG_DONTWAIT)
        elif stat.S_ISFIFO(kind) or os.isatty(self._fd):
            self.is_stream = stat.S_ISFIFO(kind)
            self._own = _reopened(self._fd)
            self._put = lambda data: os.write(self._own, data)
            if self._own < 0:  # another user's
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
        )  # a terminal has room, but nobody says for what


def _identity(fd: int) -> tuple[int, int, int] | None:
    """Names the open file behind a descriptor; None: there is none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_rdev


def _reopened(fd: int) -> int:
    """An open file of our own, which does not block; -1: it cannot be had."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for path in (f"/proc/self/fd/{fd}", "/dev/tty"):  # the second may be opened by everybody whose terminal it is
        with suppress(OSError):
            own = os.open(path, flags)
            if path != "/dev/tty" or _terminal(own) == _terminal(fd):
                return own
            os.close(own)
    return -1


def _terminal(fd: int) -> bytes:
    return fcntl.ioctl(fd, _TIOCGDEV, bytes(4))
