"""A model of the disk: the calls of a trace, and every state in which a power cut may leave the disk after it.

The model is weaker than any file system that is promised: an fsync of a file makes durable its data and its own names
so far, nothing else (ext4 and xfs commit everything before it, btrfs no more than this); an fdatasync, only its data;
an fsync of a directory, the changes of names in it; syncfs, everything. A rename is atomic, but what is not synced may
be lost in any combination, as long as changes of one inode, and of one name, come in their order. Data that is not
synced is there, or not, or torn, or zeros; where it overwrites data that was synced, it is never zeros, but the old
data or the new.
"""

from __future__ import annotations

import os
import random
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# What may be there of the writes that were not synced: all, none, only the first, the first half of each, zeros.
DATA = ("whole", "empty", "first", "half", "zeros")
MOST_STATES = 64  # of one moment; beyond, they are drawn


@dataclass(eq=False, slots=True)
class Inode:
    """A file, directory or pipe, and the writes to it: (offset, bytes), or (length, None) for a truncation."""

    kind: str
    writes: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, synced: int, variant: str) -> bytes:
        """With all writes that were synced, and the others as the variant has it."""
        data, durable = bytearray(), 0
        for at, (offset, written) in enumerate(self.writes):
            if at < synced:
                durable = offset if written is None else max(durable, offset + len(written))
            else:
                if variant == "empty" or (variant == "first" and at > synced):
                    break
                if written is not None and variant == "half":
                    written = written[: len(written) // 2]
                elif written is not None and variant == "zeros":
                    old = bytes(data[offset : min(offset + len(written), durable)])
                    written = old.ljust(len(written), b"\0")
            if written is None:
                del data[offset:]
            else:
                data.extend(bytes(max(0, offset - len(data))))
                data[offset : offset + len(written)] = written
        return bytes(data)


class Entry(NamedTuple):
    """A name in a directory."""

    directory: Inode
    name: str


@dataclass(eq=False, slots=True)
class Change:
    """Of names: added, removed or moved. A name belongs to its directory, wherever that is moved to.

    Attributes:
        moment: the call after which it was made.
        needs: changes that are there if this one is.
    """

    moment: int
    inode: Inode
    source: Entry | None = None
    target: Entry | None = None
    needs: tuple[Change, ...] = ()

    def directories(self) -> set[int]:
        """Those in which it changes a name, by identity."""
        return {id(entry.directory) for entry in (self.source, self.target) if entry is not None}


@dataclass(slots=True)
class Sync:
    """Of one call: what it made durable. `site` is the function that asked for it."""

    moment: int
    site: str
    changes: list[Change]
    writes: dict[Inode, int]


class Recorder:
    """A hook for the seam that records what calls do to the disk below `base`.

    Attributes:
        moment: number of calls so far. syncs, changes: what they did.
    """

    def __init__(self, base: Path) -> None:
        self._base = str(base)
        self.moment = 0
        self.changes: list[Change] = []
        self.syncs: list[Sync] = []
        self._root = Inode("directory")
        self._names: dict[str, Inode] = {"": self._root}
        self._fds: dict[int, tuple[Inode, str]] = {}
        self._last: dict[Any, Change] = {}
        self._positions: dict[int, int] = defaultdict(int)
        self.writes: list[tuple[int, Inode]] = []

    def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        note = getattr(self, f"_{name}", None)
        before = args
        if name == "close":
            self._fds.pop(args[0], None)
        result = real(*args, **kwargs)
        if note is not None:
            note(result, *before, **kwargs)
        self.moment += 1
        return result

    def _path(self, path: str, dir_fd: int | None) -> str:
        base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else ""
        whole = os.path.normpath(os.path.join(base, path))
        return os.path.relpath(whole, self._base) if whole != self._base else ""

    def _entry(self, path: str) -> Entry:
        return Entry(self._names[os.path.dirname(path)], os.path.basename(path))

    def _change(self, inode: Inode, source: str, target: str, *after: Change) -> None:
        old, new = (self._entry(path) if path else None for path in (source, target))
        keys: list[Any] = [inode, *filter(None, (old, new))]
        needs = tuple({id(c): c for c in (*after, *(self._last.get(key) for key in keys)) if c}.values())
        change = Change(self.moment, inode, old, new, needs)
        self.changes.append(change)
        self._last.update(dict.fromkeys(keys, change))
        if source:
            self._names.pop(source, None)
        if target:
            self._names[target] = inode
        if source and target and inode.kind == "directory":
            for path in [path for path in self._names if path.startswith(f"{source}/")]:
                self._names[target + path[len(source) :]] = self._names.pop(path)

    # What each call does. The names are those of the seam.

    def _open(self, fd: int, path: str, flags: int, mode: int = 0, dir_fd: int | None = None) -> None:
        where = self._path(path, dir_fd)
        if where not in self._names and flags & os.O_CREAT:
            self._change(Inode("file"), "", where)
        if where in self._names:
            self._fds[fd] = (self._names[where], where)
            self._positions[fd] = 0

    def _mkdir(self, _: None, path: str, mode: int, dir_fd: int | None = None) -> None:
        self._change(Inode("directory"), "", self._path(path, dir_fd))

    def _mkfifo(self, _: None, path: str, mode: int, dir_fd: int) -> None:
        self._change(Inode("pipe"), "", self._path(path, dir_fd))

    def _rename(self, _: None, source: str, target: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        old = self._path(source, src_dir_fd)
        self._change(self._names[old], old, self._path(target, dst_dir_fd))

    def _link(self, _: None, source: str, target: str, src_dir_fd: int, dst_dir_fd: int, **__: Any) -> None:
        self._change(self._names[self._path(source, src_dir_fd)], "", self._path(target, dst_dir_fd))

    def _unlink(self, _: None, path: str, dir_fd: int) -> None:
        where = self._path(path, dir_fd)
        self._change(self._names[where], where, "")

    def _rmdir(self, _: None, path: str, dir_fd: int) -> None:
        where = self._path(path, dir_fd)
        # It was empty, and no file system forgets why: what had left it is as gone as it is itself.
        left = [change for change in self.changes if id(self._names[where]) in change.directories()]
        self._change(self._names[where], where, "", *left)

    def _written(self, fd: int, offset: int, data: bytes | None) -> None:
        inode = self._fds[fd][0]
        inode.writes.append((offset, data))
        self.writes.append((self.moment, inode))

    def _write(self, length: int, fd: int, data: bytes) -> None:
        self._written(fd, self._positions[fd], bytes(data[:length]))
        self._positions[fd] += length

    def _pwrite(self, length: int, fd: int, data: bytes, offset: int) -> None:
        self._written(fd, offset, bytes(data[:length]))

    def _ftruncate(self, _: None, fd: int, length: int) -> None:
        self._written(fd, length, None)

    def _fsync(self, _: None, fd: int) -> None:
        inode, _path = self._fds[fd]
        if inode.kind == "directory":
            changes = [change for change in self.changes if id(inode) in change.directories()]
            self.syncs.append(Sync(self.moment, _site(), changes, {}))
        else:
            changes = [change for change in self.changes if change.inode is inode]
            self.syncs.append(Sync(self.moment, _site(), changes, {inode: len(inode.writes)}))

    def _fdatasync(self, _: None, fd: int) -> None:
        """Data alone: no name is promised by it."""
        inode, _path = self._fds[fd]
        self.syncs.append(Sync(self.moment, f"{_site()}, data", [], {inode: len(inode.writes)}))

    def _syncfs(self, _: None, fd: int) -> None:
        writes = {inode: len(inode.writes) for _, inode in self.writes}
        self.syncs.append(Sync(self.moment, _site(), list(self.changes), writes))

    def states(
        self, moment: int, *, without: str = "", chance: random.Random, most: int = MOST_STATES
    ) -> Iterator[State]:
        """What the disk may hold when the power is cut before the call `moment`.

        Args:
            without: a site whose syncs do nothing.
            most: combinations of what was not synced, about; 1: only what was synced is there, 2: or all.
        """
        done = [change for change in self.changes if change.moment < moment]
        durable: set[int] = set()
        writes: dict[Inode, int] = defaultdict(int)
        for sync in self.syncs:
            if sync.moment < moment and sync.site != without:
                for change in sync.changes:
                    _take_in(change, durable)
                for inode, count in sync.writes.items():
                    writes[inode] = max(writes[inode], count)
        loose = [change for change in done if id(change) not in durable]
        written: dict[Inode, int] = defaultdict(int)
        for at, inode in self.writes:
            written[inode] += at < moment
        unsynced = any(written[inode] > writes[inode] for inode in written)
        for kept in _combinations(loose, chance, most):
            present = [change for change in done if id(change) in durable or id(change) in kept]
            for variant in DATA if unsynced else DATA[:1]:
                yield State(self._root, present, written, writes, variant)


def _site() -> str:
    """Module and function of the spool that asked for a sync."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.startswith("framework.engine.spool.") and (
            module != "framework.engine.spool.disk.disk" or function == "mkdir"
        ):
            return f"{module.rpartition('.')[2]}.{function}"
        frame = frame.f_back
    return "unknown"


def _take_in(change: Change, durable: set[int]) -> None:
    if id(change) not in durable:
        durable.add(id(change))
        for need in change.needs:
            _take_in(need, durable)


def _combinations(loose: list[Change], chance: random.Random, most: int) -> Iterator[set[int]]:
    """Subsets of what was not synced, with all that each one needs: every one, or as many as there is time for."""
    inside = {id(change) for change in loose}
    choices: Iterator[int]
    if most <= 2:
        choices = iter([0, 2 ** len(loose) - 1][:most])
    elif 2 ** len(loose) <= most:
        choices = iter(range(2 ** len(loose)))
    else:
        singles = [1 << at for at in range(len(loose))]
        whole = 2 ** len(loose) - 1
        drawn = [chance.getrandbits(len(loose)) for _ in range(most // 4)]
        choices = iter([0, whole, *singles, *(whole ^ one for one in singles), *drawn])
    seen: set[frozenset[int]] = set()
    for bits in choices:
        kept: set[int] = set()
        for at, change in enumerate(loose):
            if bits >> at & 1:
                _take_in(change, kept)
        kept &= inside
        if frozenset(kept) not in seen:
            seen.add(frozenset(kept))
            yield kept


@dataclass(slots=True)
class State:
    """One state of the disk."""

    root: Inode
    changes: list[Change]
    written: dict[Inode, int]
    synced: dict[Inode, int]
    variant: str

    def tree(self) -> dict[str, Inode]:
        """Names that are there; a name in a directory that is not there is lost."""
        inside: dict[int, dict[str, Inode]] = defaultdict(dict)
        for change in self.changes:
            if change.source is not None:
                inside[id(change.source.directory)].pop(change.source.name, None)
            if change.target is not None:
                inside[id(change.target.directory)][change.target.name] = change.inode
        found: dict[str, Inode] = {}

        def walk(directory: Inode, above: str) -> None:
            for name, inode in inside[id(directory)].items():
                found[above + name] = inode
                if inode.kind == "directory":
                    walk(inode, f"{above}{name}/")

        walk(self.root, "")
        return dict(sorted(found.items()))

    def content(self, inode: Inode) -> bytes:
        """Of a file."""
        writes = inode.writes
        there = Inode("file", writes[: self.written.get(inode, 0)])
        return there.content(min(self.synced.get(inode, 0), len(writes)), self.variant)

    def key(self) -> tuple[Any, ...]:
        """Two states with one key are the same."""
        return tuple(
            (path, id(inode), self.content(inode) if inode.kind == "file" else "")
            for path, inode in self.tree().items()
        )

    def build(self, base: Path) -> None:
        """Makes it, in an empty directory."""
        made: dict[int, str] = {}
        for path, inode in self.tree().items():
            where = base / path
            if id(inode) in made:
                os.link(made[id(inode)], where)
                continue
            made[id(inode)] = str(where)
            if inode.kind == "directory":
                where.mkdir(mode=0o700)
            elif inode.kind == "pipe":
                os.mkfifo(where, 0o600)
            else:
                where.write_bytes(self.content(inode))
                where.chmod(stat.S_IRUSR | stat.S_IWUSR)
