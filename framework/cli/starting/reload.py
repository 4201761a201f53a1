"""`worker run --reload`: the process tree starts again when a source file of the service changes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence

from framework.process.signals import SignalQueue
from framework.runner.beside import command

EVERY = 0.5  # seconds between two looks at the files
# Seconds of a drain, where WORKER_DRAIN does not say: who has just saved a file waits for it.
DRAIN = "2"
WATCHED = (".py", ".env")
_SKIPPED = ("node_modules", "__pycache__", "site-packages", "var")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

Times = dict[str, int]


def run(arguments: Sequence[str], here: str) -> int:
    """Run `worker run` with these arguments as a child, again after each change; return its last exit code.

    A tree that ends with an error, for example because a file cannot be imported, waits for the next change. One that
    ends by itself with 0 ends this, too.
    """
    environ = before_dotenv() if "WORKER_DRAIN" in os.environ else {**before_dotenv(), "WORKER_DRAIN": DRAIN}
    signals = SignalQueue(_SIGNALS)
    seen = times(here)
    while True:
        child = subprocess.Popen(
            command("run", *arguments, "--parent", str(os.getpid())), env=environ, cwd=here, process_group=0
        )
        changed = _watch(child, signals, here, seen)
        if not changed:
            return child.returncode
        seen = times(here)
        print(f"worker: {', '.join(changed)} changed: starting again", flush=True)


def _watch(child: subprocess.Popen[bytes], signals: SignalQueue, here: str, seen: Times) -> list[str]:
    """Return the files that have changed, once the child has ended; none: the command ends, too."""
    told, stopping, changed = False, False, list[str]()
    while True:
        while (number := signals.take()) is not None:
            if number != signal.SIGCHLD:
                told = stopping = True
                child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        ended = child.poll() is not None
        if ended and (stopping or changed or child.returncode == 0):
            return [] if stopping else changed
        if not changed and (changed := _differences(seen, times(here))):
            changed = [os.path.relpath(path, here) for path in changed]
            if not told and not ended:
                child.send_signal(signal.SIGTERM)
                told = True
            continue
        signals.wait(EVERY)


def times(root: str) -> Times:
    """Return when each source file below a directory was changed last, in ns since the epoch, by its path."""
    found = {}
    for path in _sources(root):
        try:
            found[path] = os.stat(path).st_mtime_ns
        except OSError:  # removed meanwhile
            continue
    return found


def _sources(root: str) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [
            name
            for name in below
            if not name.startswith(".")
            and name not in _SKIPPED
            and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))
        ]
        yield from (os.path.join(directory, name) for name in names if name.endswith(WATCHED))


def _differences(before: Times, after: Times) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def before_dotenv() -> dict[str, str]:
    """Return the environment without what `.env` has set, which the child reads anew."""
    from dotenv import dotenv_values

    loaded = dotenv_values(".env")
    return {name: value for name, value in os.environ.items() if loaded.get(name) != value}
