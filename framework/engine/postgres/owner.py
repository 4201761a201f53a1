"""The signs of life of owners: each claiming process holds a locked file, and its machine sends heartbeats."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.model.errors import EngineError

PATIENCE = 15.0  # seconds without a heartbeat, by the database's clock, after which a machine counts as dead
BEAT = 3.0  # seconds between heartbeats


class LocalLife:
    """The sign of life of this process on its machine: a locked file.

    Args:
        directory: directory that all processes of this machine share.
        name: name of this owner.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self._node = ""
        self._lock: int | None = None

    def make(self) -> None:
        """Make the directory, and ignore errors: a process that only enqueues does not need it."""
        with suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)

    def begin(self) -> str:
        """Lock this owner's file and return the name of this machine's node. Raises EngineError."""
        try:
            (self.directory / "owners").mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                path = self._path(self.name)
                self._lock = flocks.keep(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._node or self._read_node()
        except OSError as error:
            raise EngineError(
                f"{self.directory} cannot be used by workers: {error.strerror or error}; set ?local_dir= in "
                "WORKER_ENGINE_URL to a directory that they may write"
            ) from error

    def _read_node(self) -> str:
        path = self.directory / "node"
        with suppress(FileExistsError):
            fresh = self.directory / f".node-{secrets.token_hex(8)}"
            fresh.write_text(secrets.token_hex(8))
            try:
                os.link(fresh, path)
            finally:
                fresh.unlink()
        # Host name and boot id keep two machines apart, also where the file was copied with an image or is shared.
        self._node = f"{socket.gethostname()[:60]}-{path.read_text()}-{_boot()}"
        return self._node

    def is_dead(self, name: str) -> bool:
        """Return whether an owner of this machine no longer holds its file."""
        if name == self.name:
            return False
        try:
            found = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            return error.errno == errno.ENOENT
        try:
            fcntl.flock(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(found)
        return True

    def forget(self, name: str) -> None:
        """Remove the file of an owner that has no claims."""
        with suppress(OSError):
            self._path(name).unlink()

    def end(self) -> None:
        """End this owner: remove and unlock its file. It counts as dead then."""
        if self._lock is not None:
            self.forget(self.name)
            flocks.drop(Calls(), self._lock)
            self._lock = None

    def _path(self, name: str) -> Path:
        return self.directory / "owners" / quote(name, safe="").replace(".", "%2E")


def _boot() -> str:
    """Return a part of the kernel's boot id, which differs between machines and boots, or "" if it is unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return ""
