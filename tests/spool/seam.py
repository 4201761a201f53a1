"""System calls that a test can count, kill at, fail or pause, in the place of `framework.engine.calls`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from framework.engine.calls import Calls

NAMES = tuple(name for name in vars(Calls) if not name.startswith("_"))
WRITES = ("write", "pwrite")
_CHANGES = frozenset(
    (*WRITES, "ftruncate", "fallocate", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "mkfifo")
)

Hook = Callable[[str, tuple[Any, ...], dict[str, Any], Callable[..., Any]], Any]


@dataclass
class Seam:
    """Passes every call through `hook` while it is set.

    Attributes:
        hook: gets (name, args, kwargs, the real call) and returns what the call returns.
        names: of the calls since `arm`.
        calls: the real ones: the spool's, or those of another package.
        changes: those of them that changed something on the disk.
    """

    hook: Hook | None = None
    names: list[str] = field(default_factory=list)
    calls: type = Calls
    changes: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in vars(self.calls):
            raise AttributeError(name)
        real = getattr(self.calls, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.hook is None:
                return real(*args, **kwargs)
            self.names.append(name)
            if changes(name, args):
                self.changes.append(name)
            return self.hook(name, args, kwargs, real)

        self.__dict__[name] = call
        return call

    def arm(self, hook: Hook) -> None:
        """From the next call on."""
        self.names, self.changes = [], []
        self.hook = hook

    def disarm(self) -> None:
        """The real calls again."""
        self.hook = None


def pass_on(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
    """Only counts."""
    return real(*args, **kwargs)


def changes(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether a call may leave something on the disk that was not there before."""
    return name in _CHANGES or (name == "open" and bool(args[1] & (os.O_CREAT | os.O_TRUNC)))


def kill_at(number: int, *, torn: bool = False) -> Hook:
    """SIGKILL before the change with this number; `torn`: in the middle of it, where it is a write.

    A kill before a call that only looks leaves what a kill before the next change leaves: locks go with the process.
    """
    left = number

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal left
        if not changes(name, args):
            return real(*args, **kwargs)
        if left == 0:
            if torn and name in WRITES:
                fd, data, *rest = args
                real(fd, data[: len(data) // 2], *rest)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)

    return hook


def fail_at(number: int, errno_: int, *, after: bool = False) -> Hook:
    """The call with this number raises; `after`: it has done its work before, as `close` always has."""
    left = number

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal left
        left -= 1
        if left != -1:
            return real(*args, **kwargs)
        if after or name == "close":
            result = real(*args, **kwargs)
            if name == "open":
                os.close(result)  # the caller never learns of it
        raise OSError(errno_, os.strerror(errno_))

    return hook


def fail_calls(
    errno_: int, *names: str, times: int = 10**9, when: Callable[[tuple[Any, ...]], bool] | None = None
) -> Hook:
    """Calls of these names raise, so many times."""
    left = times

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal left
        if name in names and left > 0 and (when is None or when(args)):
            left -= 1
            raise OSError(errno_, os.strerror(errno_))
        return real(*args, **kwargs)

    return hook


@dataclass
class Moving:
    """Moves a job while it is looked for, six times: to claimed/ as a look comes to its bucket, and back again.

    Attributes:
        claim, release: do so as another process.
        moves: how often it has moved.
    """

    claim: Callable[[], Any]
    release: Callable[[Any], None]
    moves: int = 0
    _held: list[Any] = field(default_factory=list)

    def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        where = os.readlink(f"/proc/self/fd/{args[0]}") if name == "listdir" and self.moves < 6 else ""
        if "/jobs/ready/" in where and not self._held:
            self._held.append(self.claim())
            self.moves += 1
        elif where.endswith("jobs/claimed") and self._held:
            self.release(self._held.pop())
            self.moves += 1
        return real(*args, **kwargs)


def before(name_: str, action: Callable[[], None], *, when: Callable[[tuple[Any, ...]], bool] | None = None) -> Hook:
    """Does something once, just before the first such call: how a test puts another process into a gap."""
    done = False

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal done
        if not done and name == name_ and (when is None or when(args)):
            done = True
            action()
        return real(*args, **kwargs)

    return hook
