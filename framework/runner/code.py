"""The check of a tree's code: a fresh interpreter must find on the disk what its supervisor has loaded."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from framework.process.nameless import nameless_file
from framework.service.app import WorkerApp


class LoadedCode:
    """The source files of all loaded modules except those of Python itself, with a fingerprint of each.

    It is handed over in an open file without a name, because a command line is too short for it.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    @classmethod
    def now(cls) -> LoadedCode:
        """Return what this process has loaded."""
        return cls({path: print_ for path in sorted(set(_sources())) if (print_ := _fingerprint(path))})

    @classmethod
    def received(cls, descriptor: int) -> LoadedCode:
        """Return what the supervisor has loaded; close the descriptor."""
        with open(descriptor, "rb") as file:
            return cls(json.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)))

    def handed_over(self) -> int:
        """Return a descriptor for `received`; it stays open as long as this process lives."""
        descriptor = nameless_file("code")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(self._files).encode())
        return descriptor

    def changed(self) -> str:
        """Return one line about a file whose content has changed; empty: none has."""
        for path, print_ in self._files.items():
            if _fingerprint(path) != print_:
                return f"{path} has changed since the service was started: its workers run one version only, restart it"
        return ""


def declared(app: type[WorkerApp]) -> list[str]:
    """Return the queues, handlers and pools that worker and supervisor must find declared alike."""
    handlers, found = app.worker_handlers, []
    for queue in app.worker_queues.values():
        pool = f" in pool {queue.pool.name}" if queue.pool is not None else ""
        found.append(f"{queue.name}:{handlers[queue.name].name if queue.name in handlers else ''}{pool}")
    return found


def _sources() -> Iterator[str]:
    python = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
    installed = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib"))
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        path = getattr(getattr(spec, "loader", None), "archive", None) or getattr(module, "__file__", None)
        if name == "__main__" or not isinstance(path, str):
            continue
        path = os.path.abspath(path)
        if path.startswith(installed) or not path.startswith(python):
            yield path


def _fingerprint(path: str) -> str:
    """Return a fingerprint of a file; empty: it cannot be read. Libraries are compared by size and time."""
    with suppress(OSError):
        if path.endswith(".py"):
            return blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
        found = os.stat(path)
        return f"{found.st_size}-{found.st_mtime_ns}"
    return ""
