"""The guarantees of the file system under a root, as far as this machine shows them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# flock or rename do not hold between machines there, or only with options that are not visible from here
_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.juicefs")
NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", *_FUSE)
)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system as the mount table names it.

    Attributes:
        kind: type, such as `ext4`; empty where unknown.
        mount_point: where it is mounted.
        survives_power_cut: an acknowledged job survives a power cut.
        doubt: why it does not, or another warning, in one line; empty: none.
    """

    kind: str
    mount_point: str
    survives_power_cut: bool
    doubt: str = ""

    @property
    def network(self) -> bool:
        """Return whether it is shared over a network."""
        return self.kind in NETWORK


def probe(
    root: Path, *, mountinfo: Path = Path("/proc/self/mountinfo"), ext4: Path = Path("/proc/fs/ext4")
) -> FileSystem:
    """Return the root's file system; never raises for what it cannot find."""
    if not sys.platform.startswith("linux"):
        return FileSystem(
            "", "", False, f"{sys.platform} is for development: jobs survive a killed process, not a power cut"
        )
    kind, mount_point, device = _mount_of(root, mountinfo)
    here = f"{kind} at {mount_point}"
    if kind in ("xfs", "btrfs"):
        survives, doubt = True, ""
    elif kind == "ext4":
        survives, doubt = _ext4(here, ext4 / _kernel_name(root, device) / "options")
    elif kind in ("tmpfs", "ramfs"):
        survives, doubt = False, f"{here} is memory: jobs end with this machine's uptime"
    else:
        what = here if kind else "an unknown file system"
        survives, doubt = False, f"{what}: jobs survive a killed process; a power cut was never tested there"
    return FileSystem(kind, mount_point, survives, doubt)


def _ext4(here: str, options: Path) -> tuple[bool, str]:
    try:
        lines = options.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False, f"{here}: {options} cannot be read, so it is unknown whether there is a journal"
    if not any(line.startswith("data=") for line in lines):
        return False, f"{here} has no journal: a power cut can lose acknowledged jobs"
    if "fast_commit" in lines:
        return True, f"{here} has fast_commit: e2fsck's replay of it can lose jobs; tune2fs -O ^fast_commit"
    return True, ""


def _mount_of(root: Path, mountinfo: Path) -> tuple[str, str, str]:
    """Return (type, mount point, source) of the longest mount point above; st_dev would not find btrfs subvolumes."""
    real = os.path.realpath(root)
    best = ("", "", "")
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return best
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
        below = real == point or real.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best[1]):  # of two mounts on one path the later one is seen
            best = (rest[0], point, rest[1])
    return best


def _kernel_name(root: Path, source: str) -> str:
    """Return the block device's name in /proc/fs/ext4 (`sda1`, `dm-0`); resolve /dev/root and /dev/mapper names."""
    device = os.stat(root).st_dev
    try:
        return Path(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}", strict=True)).name
    except OSError:
        return Path(os.path.realpath(source)).name
