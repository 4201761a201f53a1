"""The worker puts back what a handler or a library has left changed in its process, before the next job."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import faulthandler
import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from framework.process.blackbox import dump
from framework.process.signals import BLACK_BOX

# `signal` wraps each answer in an enum, which takes 1.5 microseconds instead of 0.02.
_handler_of: Callable[[int], Any] = _signal.getsignal
# For these the handler that the service's lifespan has installed stays; the worker only needs it not to change.
_KEPT = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1, BLACK_BOX)
_LIMITS = {
    name: getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
    if hasattr(resource, f"RLIMIT_{name}")
}
_UNBLOCK, _TERM, _ALRM = int(signal.SIG_UNBLOCK), int(signal.SIGTERM), int(signal.SIGALRM)
_PATH = getattr(os, "O_PATH", os.O_RDONLY)  # needs no permission to read the directory

Identity = tuple[int, int]  # device and inode


def stacks(number: int, frame: FrameType | None) -> None:
    """Do nothing: this handler of SIGUSR1 and BLACK_BOX stands beneath faulthandler's. Python knows only this one, so
    it notices another."""


class PutBack:
    """The state of the process when it became ready, and the ways to restore it. Use it in the main thread only.

    Args:
        installed: signals for which the worker itself has just installed handlers, SIGTERM among them.
        say: takes a line about what cannot be put back.
    """

    def __init__(self, installed: Iterable[signal.Signals], say: Callable[[str], None]) -> None:
        self._handlers: dict[int, Any] = {number: _handler_of(number) for number in installed}
        self._needed = [int(number) for number in (*self._handlers, *_KEPT)]
        self._term, self._alarm = self._handlers[signal.SIGTERM], self._handlers.get(signal.SIGALRM)
        self._say = say
        self._said = False
        self._umask = -1

    def remember(self) -> None:
        """Remember the state to keep. Call it when the lifespan is open and no job has run."""
        self.signals()
        self._handlers |= {number: _handler_of(number) for number in _KEPT}
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wakeup)
        self._limits = {name: resource.getrlimit(number) for name, number in _LIMITS.items()}
        self._recursion = sys.getrecursionlimit()
        self._interval, self._collects = sys.getswitchinterval(), gc.isenabled()
        self._remember_directory()
        self._standard = {}
        for fd in (0, 1, 2):
            with suppress(OSError):  # it was closed when the service began
                self._standard[fd] = (identity(fd), fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))

    def _remember_directory(self) -> None:
        self._directory, self._directory_is = -1, (0, 0)
        with suppress(OSError):  # it is gone already, or not accessible
            self._path = os.getcwd()
            self._directory = os.open(".", _PATH | os.O_DIRECTORY)
            self._directory_is = identity(self._directory)

    def after_job(self) -> bool:
        """Put back what costs almost nothing to check. Return whether the job had taken SIGTERM or SIGALRM."""
        os.umask(self._umask)
        if _handler_of(_TERM) is self._term and (self._alarm is None or _handler_of(_ALRM) is self._alarm):
            return False
        self.signals()
        return True

    def signals(self) -> None:
        """Put back the signal handlers, and unblock the signals."""
        for number, handler in self._handlers.items():
            if _handler_of(number) is not handler and handler is not None:  # None: a C library has installed it
                signal.signal(number, handler)
                if handler is stacks:
                    faulthandler.unregister(number)  # otherwise faulthandler believes that it is still registered
                    dump.install(number)
        _signal.pthread_sigmask(_UNBLOCK, self._needed)

    def between_jobs(self) -> None:
        """Put back what the next job needs: signals, the standard descriptors, the working directory."""
        self.signals()
        self._standard_descriptors()
        self._change_back()

    def _change_back(self) -> None:
        """Change back to the working directory; report once if it is gone."""
        if self._directory < 0:
            return
        try:
            found = os.fstat(self._directory)
            if (found.st_dev, found.st_ino) != self._directory_is:
                raise OSError("the descriptor is another's")
            os.fchdir(self._directory)
        except OSError:
            with suppress(OSError):
                os.chdir(self._path)
            self._remember_directory()
            return
        if found.st_nlink == 0 and not self._said:
            self._said = True
            self._say(f"the working directory {self._path} is gone: handlers that use relative paths will fail")

    def everything(self, *, alone: bool = True) -> str:
        """Put everything back, between two claims. Return what cannot be put back, or an empty string.

        Args:
            alone: no job runs; otherwise keep what a running job may have changed for a while.
        """
        if not alone:
            self.signals()
            self._change_back()
            self._interpreter()
            return ""
        self.between_jobs()
        if self._alarm is not None:  # an event loop has a wakeup descriptor of its own
            with suppress(OSError, ValueError):
                signal.set_wakeup_fd(self._wakeup)
        self._interpreter()
        if self._collects and not gc.isenabled():
            gc.enable()
        return self._raise_limits()

    def _interpreter(self) -> None:
        """Put back the settings of the interpreter that all threads need. A shorter switch interval may belong to an
        interruption in progress and stays."""
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
        if sys.getswitchinterval() > self._interval:
            sys.setswitchinterval(self._interval)

    def _standard_descriptors(self) -> None:
        """Put back descriptors 0, 1 and 2: another file with one of these numbers would receive the log."""
        for fd, (was, copy) in self._standard.items():
            if is_same(fd, was) or not is_same(copy, was):
                continue
            with suppress(OSError):
                os.dup2(copy, fd)

    def _raise_limits(self) -> str:
        for name, wanted in self._limits.items():
            now = resource.getrlimit(_LIMITS[name])
            if not _below(now[0], wanted[0]):
                continue
            try:
                resource.setrlimit(_LIMITS[name], (wanted[0], wanted[1] if _below(now[1], wanted[1]) else now[1]))
            except (OSError, ValueError):
                return f"RLIMIT_{name} was lowered from {_limit(wanted[0])} to {_limit(now[0])} for good"
        return ""


def identity(fd: int) -> Identity:
    """Return device and inode of a descriptor. Raises OSError."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def is_same(fd: int, wanted: Identity) -> bool:
    """Return whether a descriptor is open and still refers to the same file."""
    try:
        return identity(fd) == wanted
    except OSError:
        return False


def _below(one: int, other: int) -> bool:
    return one != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or one < other)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
