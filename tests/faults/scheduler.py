"""Several "processes" in one: threads that take turns at the seam, so that every order of their steps can be tried.

Only one thread runs at a time; each stops before its next system call. All schedules are explored by running the
scenario again and again, with sleep sets: of two steps that do not touch the same thing, only one order is tried.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.spool.seam import Seam

Touch = frozenset[tuple[str, bool]]  # (what, whether it is changed)
ANYTHING: Touch = frozenset({("anything", True)})
MOST_WAITS = 500  # of all processes together
MOST_STEPS = 2000  # of one run: a livelock ends there
PATIENCE = 60.0  # seconds until a thread that does not come to its next step is a failure of the explorer
SLICE = 0.1  # seconds


@dataclass(eq=False)
class Process:
    """One of those that take turns.

    Attributes:
        touches: what its next step touches. blocked: it waits, and nobody has made a step since.
    """

    work: Callable[[Seam], Any]
    seam: Seam = field(default_factory=Seam)
    touches: Touch = frozenset()
    blocked: bool = False
    done: bool = False
    error: BaseException | None = None
    result: Any = None
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Deadlock(AssertionError):
    """Nobody can go on."""


class Turns:
    """Runs processes in an order that the caller chooses."""

    def __init__(self, works: list[Callable[[Seam], Any]]) -> None:
        self.processes = [Process(work) for work in works]
        self._stopped = threading.Semaphore(0)
        self._locks: set[int] = set()
        self._abandoned = False
        self._by_thread: dict[int, Process] = {}
        self.clock = 1000.0
        self.waits = 0
        for process in self.processes:
            process.thread = threading.Thread(target=self._live, args=(process,), daemon=True)
            process.thread.start()
            self._wait()

    def enabled(self) -> list[int]:
        """Who can make a step; when all wait, time passes. Raises Deadlock."""
        if all(one.done or one.blocked for one in self.processes):
            self.clock += 0.06
            self.waits += 1
            if self.waits > MOST_WAITS:
                raise Deadlock("everybody waits for a lock")
            for one in self.processes:
                one.blocked = False
        return [at for at, one in enumerate(self.processes) if not one.done and not one.blocked]

    @property
    def over(self) -> bool:
        """All have come to their end."""
        return all(one.done for one in self.processes)

    def step(self, at: int) -> None:
        """One makes its next step, and goes on to the one after."""
        for one in self.processes:
            one.blocked = False
        self.processes[at].go.release()
        self._wait()

    def abandon(self) -> None:
        """Lets everybody run to their end, unwatched."""
        self._abandoned = True
        for one in self.processes:
            one.go.release()
        for one in self.processes:
            assert one.thread is not None
            one.thread.join(PATIENCE)

    def sleep(self, seconds: float) -> None:
        """`time.sleep` of a process: it goes on when somebody else has made a step, or time has passed."""
        process = self._by_thread[threading.get_ident()]
        if self._abandoned:
            time.sleep(0.001)
            self.clock += seconds
            return
        self.clock += seconds
        process.blocked = True
        self.pause(process, ANYTHING)

    def pause(self, process: Process, touches: Touch) -> None:
        """Called by a process before a step."""
        if not self._abandoned:
            process.touches = touches
            self._stopped.release()
            process.go.acquire()

    def _wait(self) -> None:
        # In slices: a machine that was itself suspended meanwhile lets one of them pass at once, not all.
        slices = range(int(PATIENCE / SLICE))
        if not any(self._stopped.acquire(timeout=SLICE) for _ in slices):
            raise AssertionError(f"a process neither stops nor ends: {self._where()}")

    def _where(self) -> str:
        """The innermost lines of all threads of ours."""
        frames = sys._current_frames()
        found = [frames[one.thread.ident] for one in self.processes if one.thread and one.thread.ident in frames]
        return " | ".join(
            " < ".join(f"{frame.name} {frame.lineno}" for frame in reversed(traceback.extract_stack(one)[-8:]))
            for one in found
        )

    def _live(self, process: Process) -> None:
        self._by_thread[threading.get_ident()] = process
        process.seam.arm(lambda *call: self._call(process, *call))
        self.pause(process, frozenset())
        try:
            process.result = process.work(process.seam)
        except BaseException as error:
            process.error = error
        process.done = True
        if not self._abandoned:
            self._stopped.release()

    def _call(
        self, process: Process, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]
    ) -> Any:
        touches = touched(name, args, kwargs, self._locks)
        if touches:
            self.pause(process, touches)
        if name == "close":
            self._locks.discard(args[0])
        result = real(*args, **kwargs)
        if name in ("flock", "lock"):
            self._locks.add(args[0])
        return result


OF_DESCRIPTORS = frozenset(
    "fstat pread read write pwrite ftruncate fcntl flock lock map fallocate listdir close".split()
)


def touched(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], locks: set[int]) -> Touch:
    """What a call looks at or changes; empty: nothing that another process could see."""
    found: set[tuple[str, bool]] = set()
    if name in OF_DESCRIPTORS:
        return _touched_open(name, args[0], locks)
    if name in ("fsync", "fdatasync", "syncfs", "fstatvfs"):
        return frozenset()
    changes = name not in ("stat", "open") or (name == "open" and bool(args[1] & os.O_CREAT))
    for path in (args[0], args[1]) if name in ("rename", "link") else (args[0],):
        dir_fd = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
        whole = _whole(path, dir_fd)
        found.add((f"name {whole}", changes))
        found.add((f"name {os.path.dirname(whole)}", False))
        if changes:
            found.add((f"names in {os.path.dirname(whole)}", True))
        if name == "rmdir":
            found.add((f"names in {whole}", False))
        if name in ("stat", "link", "unlink", "rename"):
            try:
                found.add((f"links of {os.lstat(whole).st_ino}", name != "stat"))
            except OSError:
                continue
    return frozenset(found)


def _touched_open(name: str, fd: int, locks: set[int]) -> Touch:
    inode = os.fstat(fd).st_ino
    if name == "close":
        return frozenset({(f"lock of {inode}", True)}) if fd in locks else frozenset()
    if name in ("flock", "lock"):
        return frozenset({(f"lock of {inode}", True)})
    if name == "fcntl":
        return frozenset({(f"claims of {inode}", True)})
    if name == "map":
        return frozenset()
    if name == "listdir":
        return frozenset({(f"names in {os.readlink(f'/proc/self/fd/{fd}')}", False)})
    if name == "fstat":
        return frozenset({(f"links of {inode}", False)})
    return frozenset({(f"data of {inode}", name not in ("pread", "read"))})


def _whole(path: str, dir_fd: int | None) -> str:
    return os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else "", path))


def _depend(one: Touch, other: Touch) -> bool:
    if ANYTHING in (one, other):
        return True
    first = dict(sorted(one))  # (what, True) comes last: a change wins over a look
    return any(what in first and (changes or first[what]) for what, changes in other)


@dataclass
class Point:
    """A moment of a schedule: who went on, who is still to be tried, who need not: another schedule stands for it."""

    chosen: int
    left: list[int]
    asleep: set[int]


def schedules(start: Callable[[], Turns], finish: Callable[[Turns], None], *, most: int = 10**9) -> Iterator[list[int]]:
    """Runs every schedule, up to `most`; `finish` checks each and raises what is wrong. Yields them.

    Raises Deadlock.
    """
    path: list[Point] = []
    for _ in range(most):
        turns = start()
        whole = _follow(turns, path)
        if whole:
            finish(turns)
            yield [point.chosen for point in path]
        else:
            turns.abandon()
            finish_quietly(turns)
        while path and not path[-1].left:
            path.pop()
        if not path:
            return
        last = path[-1]
        last.asleep.add(last.chosen)
        last.chosen = last.left.pop(0)


def finish_quietly(turns: Turns) -> None:
    """A schedule that another one stands for: nothing to check."""
    for one in turns.processes:
        if isinstance(one.error, AssertionError):
            raise one.error


def _follow(turns: Turns, path: list[Point]) -> bool:
    """Goes down a path and on to its end, adding the points; False: all that is left has been tried elsewhere."""
    depth = 0
    asleep: set[int] = set()
    while not turns.over:
        if depth > MOST_STEPS:
            raise Deadlock(f"{MOST_STEPS} steps, and no end")
        enabled = turns.enabled()
        if depth == len(path):
            awake = [at for at in enabled if at not in asleep]
            if not awake:
                return False
            path.append(Point(awake[0], awake[1:], set(asleep)))
        point = path[depth]
        assert point.chosen in enabled, (
            f"step {depth}: other steps than in the run before, though the order is the same"
        )
        # A sleeper has not moved, so what it touches is what it touches in this run: names differ from run to run.
        step = turns.processes[point.chosen].touches
        asleep = {at for at in point.asleep if not _depend(turns.processes[at].touches, step)}
        turns.step(point.chosen)
        depth += 1
    return True
