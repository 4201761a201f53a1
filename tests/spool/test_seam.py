"""The seam has no hole: every place that asks the disk for something is tried, and nothing goes past it.

What is meant to go past it stands in a list here, with the reason.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import framework.engine.spool
from framework.engine.spool.disk.disk import Disk

from . import fan_in_cases
from .cases import CASES
from .seam import NAMES, Seam
from .stage import Case
from .world import broker

PLACE = Path(framework.engine.spool.__file__).parent
FLOCKS = PLACE.parent / "flocks.py"
PROJECT = PLACE.parents[2]
# Of a Disk: no call of the disk's, but of /dev/null and of locks in memory.
QUIET = {"after_fork", "reserve", "close"}
STEPS = {name for name in vars(Disk) if not name.startswith("_")} - QUIET
LOCKS = {"take", "take_within", "opened", "drop"}
# (file, function, what is called): asked only after an error or in a race, so that no act by itself comes there.
# The errnos reach most of them; what else reaches them is named.
LATE = {
    ("disk.py", "open", "open"),  # no descriptor left: spool/test_resources, test_errnos
    ("disk.py", "write_all", "write"),  # a short write: spool/test_enqueue
    ("temp_files.py", "create", "unlink"),  # flock failed: test_errnos
    ("temp_files.py", "create", "drop"),  # a recoverer was faster: spool/test_explorer
    ("life.py", "_make_as", "drop"),  # a rescuer was faster: spool/test_explorer
    ("life.py", "_name_it", "unlink"),  # a rescuer was faster: spool/test_explorer
    ("promote.py", "_move_of", "is_there"),  # others had moved two jobs before: spool/test_promote
    ("disk.py", "mkdir", "mkdir"),  # what is above was removed: spool/test_replaced
    ("temp_files.py", "create", "mkdir"),  # tmp was removed: spool/test_replaced
    ("write.py", "publish", "stat"),  # the rename failed: test_errnos
    ("change.py", "_take_entry", "stat"),  # the entry could not be replaced: test_errnos
    ("change.py", "_take_entry", "fstat"),  # likewise
    ("change.py", "_take_entry", "move"),  # likewise
    ("copies.py", "_copy", "mkdir"),  # the owner's directory was removed: spool/test_segment_traps
    ("copies.py", "_copy", "write_new"),  # likewise
    ("copies.py", "_name", "stat"),  # an earlier rename had worked: spool/test_segment_errors
    ("claim.py", "_stranded", "listdir"),  # a copy lies there that no lease has: spool/test_segment_errors
    ("file.py", "_lock", "flock"),  # where there are no locks of ranges: spool/test_segment_traps
    ("mending.py", "_content", "pread"),  # a short read
    ("job_file.py", "content", "pread"),  # a file larger than one read, or a short read
    ("open.py", "_again", "listdir"),  # a power cut has undone a rename: spool/test_segment_traps
    ("rescue.py", "finish", "drop"),  # a segment could not be read: test_errnos
    ("life.py", "_make_as", "mkdir"),  # claimed was removed: likewise
    ("browse.py", "undeclared", "listdir"),  # looks at queues that no case has: unit/test_observing
    ("listing.py", "is_current", "stat"),  # of many queues: test_many
    ("rescue.py", "_take", "drop"),  # flock failed: test_errnos
    ("upkeep.py", "_one", "unlink"),  # a producer was killed between two files: spool/test_fan_in
    ("upkeep.py", "_waiting", "stat"),  # a member has waited for long: spool/test_fan_in
    ("rescue.py", "_take", "move"),  # something planted in the place of a lock: test_damaged
}
# (file, function): system calls that no promise rests on, and what they are for.
PAST = {
    ("disk.py", "reserve"): "the spare descriptor, of /dev/null",
    ("disk.py", "_spend"): "the spare descriptor",
    ("disk.py", "close"): "the root's descriptor",
    ("notifier.py", "*"): "the notifier and the pipe to ourselves: never the truth",
    ("filesystem.py", "*"): "looks at /proc and /sys",
    ("flocks.py", "_child"): "a forked child closes what is its parent's",
    ("flocks.py", "locked"): "the lock of a role",
    ("flocks.py", "release"): "the lock of a role",
    ("clock.py", "boot_id"): "/proc/sys/kernel/random/boot_id",
    ("layout.py", "_make_root"): "whether the root is there",
}
OF_PATHS = {"exists", "is_dir", "is_file", "iterdir", "glob", "rglob", "read_text", "read_bytes", "write_text", "touch"}
PURE = {
    "fsencode", "fsdecode", "fspath", "strerror", "getpid", "geteuid", "urandom", "register_at_fork", "major", "minor",
    "dirname", "basename", "join", "normpath", "startswith", "endswith", "removeprefix", "partition",
}  # fmt: skip


def functions() -> Iterator[tuple[str, str, ast.AST]]:
    """(file, name, node) of every function of the spool; of nested ones too."""
    for path in [*sorted(PLACE.rglob("*.py")), FLOCKS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path.name, node.name, node


def calls(node: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    """(of what, which, node) of every call `x.y(...)`, `z.x.y(...)` or `y(...)` in it."""
    for found in ast.walk(node):
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute):
            of = found.func.value
            name = of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else ""
            yield name, found.func.attr, found
        elif isinstance(found, ast.Call) and isinstance(found.func, ast.Name):
            yield "", found.func.id, found


def places() -> Iterator[tuple[tuple[str, str, str], range]]:
    """((file, function, what), lines) wherever the disk is asked for something."""
    for file, function, node in functions():
        for of, what, call in calls(node):
            seam = of in ("calls", "_calls") and what in NAMES
            step = (of in ("disk", "_disk") or (of == "self" and file == "disk.py")) and what in STEPS
            if seam or step or (of == "flocks" and what in LOCKS):
                yield (file, function, what), range(call.lineno, (call.end_lineno or call.lineno) + 1)


class Steps:
    """A hook that notes every line of the spool that stands behind a system call."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        frame = sys._getframe(2)
        while frame is not None:
            path = frame.f_code.co_filename
            if path.startswith(str(PLACE)) or path == str(FLOCKS):
                self.lines.add((os.path.basename(path), frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        return real(*args, **kwargs)


def act(case: Case, root: Path, hook: Any) -> None:
    """Once, undisturbed, with the hook."""
    seam = Seam()
    stage = case.stage(root, seam)
    seam.arm(hook)
    case.act(stage)
    seam.disarm()
    stage.broker.close()


def act_on_fan_in(prepare: Callable[..., Any], do: Callable[..., Any], root: Path, hook: Any) -> None:
    """The same for a case of fan-ins."""
    seam = Seam()
    mine = broker(root, calls=seam)
    held = prepare(mine)
    seam.arm(hook)
    do(mine, held)
    seam.disarm()
    mine.close()


def test_every_place_that_asks_the_disk_has_a_case(root: Path) -> None:
    """A new call in framework/spool is not tried by the crash points and errnos: write a case, or say why not.

    Verified: with a case left out its places are named here.
    """
    steps = Steps()
    for number, case in enumerate(CASES):
        act(case, root / str(number), steps)
    for name, (prepare, do) in fan_in_cases.ALL.items():
        act_on_fan_in(prepare, do, root / name, steps)
    missed = {place for place, lines in places() if not any((place[0], line) in steps.lines for line in lines)}
    assert missed - LATE == set()
    assert LATE - missed == set(), "these have a case by now"


def test_no_system_call_goes_past_the_seam() -> None:
    past = set()
    for file, function, node in functions():
        for of, what, _ in calls(node):
            direct = (of in ("os", "path") and what not in PURE) or of in ("fcntl", "shutil", "io", "tempfile")
            if file != "calls.py" and (direct or (of == "" and what == "open") or what in OF_PATHS):
                past.add((file, function))
    unknown = {(file, function) for file, function in past if not {(file, function), (file, "*")} & PAST.keys()}
    assert unknown == set()
    stale = {key for key in PAST if not any(key in ((file, function), (file, "*")) for file, function in past)}
    assert stale == set()


# --- the same, as the kernel sees it ----------------------------------------------------------------------------------

PLAYED = ("rescue nobody", "ack while the id is locked", "ack while the key is locked")
# The root itself: looked at by its absolute path before it is open, and let go.
ROOT_ITSELF = r'(newfstatat|readlinkat)\(AT_FDCWD<[^>]*>, "|(l?stat|readlink)\("/|close\(\d+<[^>]*/\d+>\)'
BEGIN, END, INTO, OUT = "/seam/act", "/seam/end", "/seam/into", "/seam/out"


def tell(path: str) -> None:
    """A mark in the trace: a look at something that is not there."""
    os.path.lexists(path)


def passing(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
    """Marks the way into the seam and out of it."""
    tell(INTO)
    try:
        return real(*args, **kwargs)
    finally:
        tell(OUT)


def traced(place: Path) -> None:
    """In a process that is traced: every case but those whose act also plays another process."""
    for number, case in enumerate(case for case in CASES if case.name not in PLAYED):
        seam = Seam()
        root = place / str(number)
        stage = case.stage(root, seam)
        seam.arm(passing)
        tell(f"{BEGIN} {case.name}")
        case.act(stage)
        tell(END)
        seam.disarm()
        stage.broker.close()


def went_past(trace: Path, place: Path) -> tuple[int, set[str]]:
    """(calls on the disk that were made within the seam, those that were made outside it)."""
    within, past, case, inside = 0, set(), "", False
    for line in trace.read_text(errors="replace").splitlines():
        if (found := re.search(r'"/seam/(\w+) ?(.*?)"', line)) is not None:
            word = found[1]
            case = found[2] if word == "act" else "" if word == "end" else case
            inside = word == "into"
        elif case and str(place) in line:
            within += inside
            if not inside and "/doorbell" not in line and not re.search(ROOT_ITSELF, line):
                past.add(f"{case}: {line[:200]}")
    return within, past


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_sees_no_call_on_the_disk_outside_the_seam(root: Path) -> None:
    trace = root.parent / "trace"
    command = ["strace", "-f", "-y", "-s", "200", "-o", str(trace), sys.executable, "-m", "tests.spool.test_seam"]
    done = subprocess.run([*command, str(root)], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stderr[-2000:]
    within, past = went_past(trace, root)
    assert past == set()
    assert within > 500


if __name__ == "__main__":
    traced(Path(sys.argv[1]))
