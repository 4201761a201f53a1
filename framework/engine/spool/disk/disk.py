"""A root directory, and the few compound steps that make up every operation.

Paths are relative to one descriptor of the root, which stays open. Descriptors of buckets are never kept: the
descriptor of a removed directory stays useless, while a path finds the new directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from framework.engine.calls import HAS_SYNCFS, Calls

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class Disk:
    """The file operations below one root directory.

    Attributes:
        calls: the system calls; tests replace them.
        fd: descriptor of the root.
        power: whether fsync is called at all (`durability="power"`).
        queues: how many queues of this root the process serves.
        forgetful: the file system may undo a removal in spite of the directory's fsync; see `sync_removal`.
    """

    def __init__(self, calls: Calls, fd: int, *, power: bool) -> None:
        self.calls = calls
        self.fd = fd
        self.power = power
        self.queues = 1
        self.forgetful = False
        self._spares: list[int] = []  # pop is atomic: a signal handler may take one while its thread takes one
        self.reserve()

    def reserve(self) -> None:
        """Keep one spare descriptor for the moment when the process has no more."""
        if not self._spares and self.fd >= 0:  # two threads here at the same time keep two, which does no harm
            with contextlib.suppress(OSError):
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _spend(self) -> bool:
        """Close a spare descriptor, so that the process can open another file; False: there is none."""
        try:
            os.close(self._spares.pop())
        except IndexError:
            return False
        return True

    def close(self) -> None:
        """Close the root. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        while self._spend():
            pass

    def open(self, path: str, flags: int) -> int:
        """Open a path and return the descriptor; use the spare one where the process has no more. Raises OSError."""
        try:
            return self.calls.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        except OSError as error:
            if error.errno != errno.EMFILE or not self._spend():
                raise
            return self.calls.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=self.fd)

    @contextmanager
    def opened(self, path: str, flags: int) -> Iterator[int]:
        """Open a path for the length of a block; yield the descriptor. Raises OSError."""
        fd = self.open(path, flags)
        try:
            yield fd
        finally:
            self.calls.close(fd)
            self.reserve()

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, in no order; a missing directory is empty. Raises OSError."""
        try:
            with self.opened(path, DIRECTORY) as fd:
                return self.calls.listdir(fd)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            error.filename = path  # instead of the number of a descriptor
            raise

    def stat(self, path: str) -> os.stat_result | None:
        """Return the state of the entry itself, without following a symlink; None: not there. Raises OSError."""
        try:
            return self.calls.stat(path, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_there(self, path: str) -> bool:
        """Return whether there is an entry; True also where it cannot be looked at (damaged metadata)."""
        try:
            return self.stat(path) is not None
        except OSError:
            return True

    def read_small(self, path: str, most: int = 4096) -> bytes | None:
        """Return the first bytes of a regular file; None: not there, or not a regular file. Raises OSError."""
        try:
            with self.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                return self.calls.read(fd, most)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a planted symlink, socket or pipe
                return None
            raise

    def write_all(self, fd: int, data: bytes) -> None:
        """Write all of the data. Raises OSError."""
        done = self.calls.write(fd, data)
        while done < len(data):
            done += self.calls.write(fd, data[done:])

    def write_new(self, path: str, data: bytes, *, sync: bool) -> None:
        """Make a new file with this content. Raises OSError, also FileExistsError."""
        with self.opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) as fd:
            self.write_all(fd, data)
            if sync:
                self.sync(fd)

    def sync(self, fd: int) -> None:
        """Call fsync, where `power` asks for it. Raises OSError.

        After an error it is never repeated on the same descriptor: the second call may falsely report success.
        """
        if self.power:
            self.calls.fsync(fd)

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable. Raises OSError."""
        if self.power:
            with self.opened(path, DIRECTORY) as fd:
                self.calls.fsync(fd)

    def sync_removal(self, path: str) -> None:
        """Make the removal of names from a directory durable. Raises OSError.

        On btrfs the fsync of the directory is not enough while other processes commit the file system at the same time:
        in 3 to 15 of 100 power cuts (kernel 6.18) the unlinked name was back. The cause is unknown; a commit of our own
        (syncfs) prevents it.
        """
        self.sync_dir(path)
        if self.power and self.forgetful and HAS_SYNCFS:
            self.calls.syncfs(self.fd)

    def mkdir(self, path: str) -> bool:
        """Make a directory durably, with removed ones above it; True: it is new. Raises OSError."""
        above = os.path.dirname(path)
        try:
            self.calls.mkdir(path, 0o700, dir_fd=self.fd)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not above:
                raise  # the root itself is gone
            self.mkdir(above)
            return self.mkdir(path)
        self.sync_dir(above or ".")
        return True

    def is_at(self, path: str) -> bool:
        """Return whether this path still leads to the root: it was not moved, removed, or mounted over."""
        try:
            found, own = self.calls.stat(path), self.calls.fstat(self.fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # the path cannot be looked at from here, but the descriptor works
            return True
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def rmdir(self, path: str) -> bool:
        """Remove a directory. True: removed, or gone already; False: it is not empty. Raises OSError."""
        try:
            self.calls.rmdir(path, dir_fd=self.fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        return True

    def unlink(self, path: str) -> bool:
        """Remove a file. False: it was not there. Raises OSError."""
        try:
            self.calls.unlink(path, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def link(self, source: str, target: str) -> bool:
        """Make a hard link. False: the target exists. Raises OSError."""
        try:
            self.calls.link(source, target, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    def rename(self, source: str, target: str) -> None:
        """Call rename, and nothing else. Raises OSError."""
        self.calls.rename(source, target, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def move(self, source: str, target: str) -> bool:
        """Rename, and make the target's directory when it is gone; False: the source is gone. Raises OSError.

        ENOENT does not say which of the two is missing, and a wrong guess would strand the job: so this looks.
        """
        for _ in range(5):  # a bucket can be removed again between mkdir and rename, hardly five times
            try:
                self.rename(source, target)
            except FileNotFoundError:
                if self.stat(source) is None:
                    return False
                self.mkdir(os.path.dirname(target))
            else:
                with contextlib.suppress(OSError):  # it has moved: an error here does not undo that
                    self.drop_twin(source, target)
                return True
        raise OSError(errno.ENOENT, f"its directory keeps vanishing: {target}")

    def drop_twin(self, source: str, target: str) -> None:
        """Remove the source after a rename that did nothing, because both names are one file. Raises OSError.

        After a power cut btrfs can show one file under both names; rename() then reports success and does nothing.
        Without the removal the source would be moved for ever.
        """
        left = self.stat(source)
        if left is None:
            return
        moved = self.stat(target)
        if moved is not None and (left.st_ino, left.st_dev) == (moved.st_ino, moved.st_dev):
            self.unlink(source)
