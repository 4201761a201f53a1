"""Disks in files that can lose their power: an image, mounted and in use, of which exact copies are made.

The images lie on an xfs or btrfs of their own, because there a copy is a reflink: one instant of the image, whatever is
being written to it, which a plain copy of a file in use is not. What the file system under test had not written to its
device at that instant is gone, as in a cut. `volatile` cuts go one layer further down and lose also what the device had
been given but not been told to flush.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FICLONE = 0x40049409
_CLONE_NEWNS = 0x00020000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Kind:
    """A file system and how it is made and mounted.

    Attributes:
        options: of the mount. Commits come from fsync only, as far as the file system can be told so.
        copies: further options where a copy is mounted beside its original.
    """

    name: str
    megabytes: int
    make: tuple[str, ...]
    options: str = "loop"
    copies: str = ""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4", 64, ("mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=4"), "loop,commit=600"),
        Kind("xfs", 320, ("mkfs.xfs", "-q", "-f"), copies=",nouuid"),
        Kind("btrfs", 256, ("mkfs.btrfs", "-q", "-f"), "loop,commit=600"),
        Kind("ext4 without journal", 64, ("mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^has_journal"), "loop"),
    )
}


PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}
STORES = (
    ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    ("mkfs.btrfs", "-q", "-f"),
)  # file systems that copy in an instant


def missing(kind: Kind, which: Callable[[str], str | None] = shutil.which) -> str:
    """Return why this kind cannot be had here; empty = it can."""
    if which(kind.make[0]) is None:
        return f"no {kind.make[0]}: install {PACKAGES[kind.make[0]]}"
    if all(which(store[0]) is None for store in STORES):
        packages = " or ".join(PACKAGES[store[0]] for store in STORES)
        return f"no {' and no '.join(store[0] for store in STORES)} to copy images with: install {packages}"
    return ""


def _store() -> tuple[str, ...]:
    """Return the command that makes the file system on which the images lie."""
    return next(store for store in STORES if shutil.which(store[0]) is not None)


def alone() -> None:
    """Gives the calling process a mount table of its own: whatever ends it unmounts all. Raises OSError."""
    if _LIBC.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    _run("mount", "--make-rprivate", "/")


def die_with_parent() -> None:
    """For forked children: none outlives the one that mounts."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


class Disk:
    """A disk of one kind below `place`, which must lie in memory or on a fast file system.

    Attributes:
        live: where it is mounted.
    """

    def __init__(self, kind: Kind, place: Path) -> None:
        self.kind = kind
        self._place = place
        self._number = 0
        self._outer = place / "outer.image"
        self._store = place / "outer"
        _blank(self._outer, 6144)
        _run(*_store(), self._outer)
        _mount(self._outer, self._store, "loop")
        self._image = self._store / "disk.0"
        _blank(self._image, kind.megabytes)
        _run(*kind.make, self._image)
        self.live = place / "live"
        _mount(self._image, self.live, kind.options)

    def cut(self) -> Path:
        """A copy of the disk as it is in this instant."""
        self._number += 1
        return self.copy(self._image, self._store / f"cut.{self._number}")

    def copy(self, image: Path, to: Path | None = None) -> Path:
        """Another copy of an image."""
        target = to or image.with_suffix(image.suffix + "+")
        source_fd, target_fd = os.open(image, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.ioctl(target_fd, _FICLONE, source_fd)
        finally:
            os.close(source_fd)
            os.close(target_fd)
        return target

    def restart(self, image: Path) -> Path:
        """Mounts a copy beside its original, which replays its journal; the directory."""
        where = self._place / "copy"
        _mount(image, where, self.kind.options + self.kind.copies)
        return where

    def discard(self, image: Path, *, mounted: bool = True) -> None:
        """Unmounts a copy and deletes it."""
        if mounted:
            _run("umount", self._place / "copy")
        image.unlink()

    def go_on_with(self, image: Path) -> None:
        """The live disk is this copy from now on: what lives on it must have ended."""
        _run("umount", self.live)
        self._image.unlink()
        self._image = image
        _mount(image, self.live, self.kind.options)


def _blank(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(megabytes << 20)


def _mount(image: Path, where: Path, options: str) -> None:
    where.mkdir(exist_ok=True)
    _run("mount", "-o", options, image, where)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
