"""Where everything is stored: a file system with a journal, the same for all.

Durable writes on ext4 without a journal cost something else than what users have, and deleting and creating many files
there is slow in itself. Where the place has no journal and we are root, an ext4 image is made, mounted, and removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

JOURNALED = ("xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs")
_SETTLE = 120.0  # seconds for a command


@dataclass(frozen=True)
class Place:
    """A directory to store in, and what it is."""

    path: Path
    description: str
    journaled: bool


@contextmanager
def storage(below: Path, *, gigabytes: int, files: int) -> Iterator[Place]:
    """Opens the place; removes what it made.

    Args:
        below: a directory of ours; its file system is used when it has a journal.
        gigabytes, files: what an image must be able to hold; it is sparse.
    """
    below.mkdir(parents=True, exist_ok=True)
    below.chmod(0o755)  # PostgreSQL runs as another user
    kind, device, journal = _file_system(below)
    if journal:
        with _directory(below, f"{kind} with a journal ({device})", journaled=True) as place:
            yield place
        return
    image, mount = below / "image.ext4", below / "mount"
    why = _make(image, mount, gigabytes, files) if os.geteuid() == 0 else "not root: no image can be mounted"
    if why:
        note = f"{kind} WITHOUT A JOURNAL ({device}; {why}): what is durable here is not what users have"
        with _directory(below, note, journaled=False) as place:
            yield place
        return
    try:
        yield Place(mount, f"ext4 with a journal, a loop-mounted image on {kind}", journaled=True)
    finally:
        if subprocess.run(["umount", mount], check=False, timeout=_SETTLE).returncode:
            subprocess.run(["umount", "--lazy", mount], check=False, timeout=_SETTLE)
        image.unlink(missing_ok=True)


@contextmanager
def _directory(below: Path, description: str, *, journaled: bool) -> Iterator[Place]:
    path = below / "store"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    path.chmod(0o755)
    try:
        yield Place(path, description, journaled)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _make(image: Path, mount: Path, gigabytes: int, files: int) -> str:
    """An empty mounted file system; or why not."""
    mount.mkdir(exist_ok=True)
    if os.path.ismount(mount):  # of a run that was killed
        subprocess.run(["umount", mount], check=False, timeout=_SETTLE)
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(gigabytes * 2**30)
    commands = [
        # Nothing is left for the kernel to initialise in the background while we measure.
        ["mkfs.ext4", "-q", "-F", "-N", str(files), "-E", "lazy_itable_init=1", str(image)],
        ["mount", "-o", "loop,noinit_itable", str(image), str(mount)],
    ]
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SETTLE)
        except (OSError, subprocess.SubprocessError) as error:
            image.unlink(missing_ok=True)
            return f"{command[0]} failed: {_reason(error)}"
    mount.chmod(0o755)
    return ""


def _reason(error: Exception) -> str:
    output = getattr(error, "stderr", None)
    return output.decode(errors="replace").strip()[:200] if output else str(error)


def _file_system(path: Path) -> tuple[str, str, bool]:
    """(type, device, whether it has a journal)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kind = source = "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            kind, source = rest.split()[:2]
    if kind in ("ext3", "ext4"):
        return kind, source, Path(f"/proc/fs/jbd2/{os.path.basename(os.path.realpath(source))}-8").exists()
    return kind, source, kind in JOURNALED
