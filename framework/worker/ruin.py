"""The check with which a worker distinguishes a process that a handler has ruined from an engine that fails for all."""

from __future__ import annotations

import errno
import gc
import os
import resource
import stat
from collections.abc import Mapping

from framework.worker.putback import Identity, identity, is_same

_BAD_DESCRIPTOR = (errno.EBADF, errno.ENOTDIR, errno.ENOTSOCK, errno.ESPIPE)

SPARE = 4  # with fewer free descriptors than this, a process counts as out of descriptors


def descriptors() -> dict[int, Identity]:
    """Return all open descriptors of this process except devices; empty where /proc does not tell.

    A device that an engine holds is a spare descriptor, which it gives up and opens again.
    """
    found = {}
    try:
        numbers = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        return {}
    for number in numbers:
        try:
            if not stat.S_ISCHR(os.fstat(number).st_mode):
                found[number] = identity(number)
        except OSError:  # the descriptor of the listing itself
            continue
    return found


class SelfCheck:
    """The state that this process must keep for its engine to work, and the checks that find what of it is gone.

    Args:
        held: descriptors that the engine has opened; only the engine may close them.
    """

    def __init__(self, held: Mapping[int, Identity]) -> None:
        self._held = held
        self._ids = _ids()
        self._root = _root()
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._had_room = _has_room()

    def changed(self) -> str:
        """Return what a handler has changed permanently; empty: nothing. The engine may still work, but the next jobs
        would fail."""
        ids = _ids()
        if ids != self._ids:
            return f"user and group were changed from {_names(self._ids)} to {_names(ids)}"
        if _root() != self._root:
            return "the root directory was changed"
        return leak(self._most) if self._had_room else ""

    def cause(self, error: BaseException) -> str:
        """Return what in this process explains an error of the engine; empty: nothing, so the engine itself fails."""
        number = _errno(error)
        if number == errno.EMFILE:
            return leak(self._most)
        lost = self._closed()
        if not lost and number in _BAD_DESCRIPTOR:
            return f"a descriptor of the engine was closed ({os.strerror(number)})"
        return lost or self.changed()

    def damage(self) -> str:
        """Return what in this process is gone or changed for good, before anything fails because of it. Empty:
        nothing."""
        return self._closed() or self.changed()

    def _closed(self) -> str:
        lost = [fd for fd, was in self._held.items() if not is_same(fd, was)]
        return f"{len(lost)} of the engine's {len(self._held)} descriptors were closed" if lost else ""


def leak(before: int) -> str:
    """Return one line with numbers if this process has no descriptors left; empty: it has some.

    Args:
        before: the limit when the process began.
    """
    if _has_room() or (gc.collect() and _has_room()):  # descriptors held by cyclic garbage are not a leak
        return ""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowered = f" (lowered from {before})" if most < before else ""
    return f"descriptors leak: {_open_below(most)} are open, the limit is {most}{lowered}"


def _has_room() -> bool:
    """Return whether the next job could open some files. The lowest free number shows how many are taken."""
    try:
        lowest = os.open("/", os.O_RDONLY)
    except OSError as error:
        return error.errno != errno.EMFILE
    os.close(lowest)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most == resource.RLIM_INFINITY or lowest < most - SPARE


def _open_below(most: int) -> int:
    """Return how many descriptors are open, without opening one."""
    count = 0
    for fd in range(min(most, 2**20)):
        try:
            os.fstat(fd)
        except OSError:
            continue
        count += 1
    return count


def root_of(error: BaseException) -> str:
    """Return the innermost error in a chain of causes, as text."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"


def _errno(error: BaseException | None) -> int:
    """Return the errno of the failed system call anywhere in the chain of errors; 0: none failed."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return 0


def _ids() -> tuple[int, ...]:
    return os.getuid(), os.getgid(), os.geteuid(), os.getegid()


def _names(ids: tuple[int, ...]) -> str:
    user, group, effective_user, effective_group = ids
    real = "" if (user, group) == (effective_user, effective_group) else f" (real {user}:{group})"
    return f"{effective_user}:{effective_group}{real}"


def _root() -> Identity:
    try:
        found = os.stat("/")
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
