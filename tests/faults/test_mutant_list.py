"""The mutation gate is complete and fits: whatever guards a promise is taken out by some mutant of it."""

from __future__ import annotations

import re
from pathlib import Path

from .mutant_list import MUTANTS
from .mutants import TREE

PLACE = TREE / "framework"
# What guards a promise, as it stands in the source.
GUARDS = re.compile(
    r"O_EXCL|O_NOFOLLOW|_NOFOLLOW|flocks\.take|LOCK_EX|!= zlib\.crc32|zlib\.crc32\(\w+\) != |== zlib\.crc32|S_ISREG"
    r"|\.sync\(|\.sync_dir\(|\.sync_removal\(|\.fsync\(|\.fdatasync\(|\.syncfs\(|st_nlink"
)
# A line that has such a word and guards nothing by it, or is what others are made of.
NONE = {
    ("engine/spool/disk/layout.py", "DIRECTORY & ~os.O_NOFOLLOW"): "the root itself may be reached by a link",
    ("engine/flocks.py", "calls.flock("): "of what all locks are made",
    ("engine/spool/segments/file.py", "LOCK_EX"): "of what `locked` is made",
    ("engine/spool/disk/disk.py", "self.calls.fsync(fd)"): "of what sync and sync_dir are made",
    ("engine/spool/disk/disk.py", "self.sync_dir(path)"): "of what sync_removal is made",
    (
        "process/supervisor/instance.py",
        "os.O_RDONLY",
    ): "only in a directory that cannot be written: nobody plants there",
    (
        "engine/postgres/owner.py",
        "os.O_",
    ): "no job lies there: a planted link costs a lock",
    ("worker/putback.py", "st_nlink == 0"): "that the working directory is gone is only said",
    ("telemetry/export/health.py", "LOCK_EX"): "who says that the collector is away: no promise rests on it",
    ("cli/enqueue.py", "S_ISREG"): "how long a file of lines is, for a percentage",
}


def guards() -> list[tuple[str, int, str]]:
    """(file below framework/, line number, line) of each."""
    found = []
    for path in sorted(PLACE.rglob("*.py")):
        if path.name == "calls.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            code = line.partition("  #")[0]
            if GUARDS.search(code) and not code.lstrip().startswith(('"', "#", "def ")) and "`" not in code:
                file = str(path.relative_to(PLACE))
                if not any(file == place and text in line for place, text in NONE):
                    found.append((file, number, line.strip()))
    return found


def touched() -> set[tuple[str, int]]:
    """(file, line number) of all that mutants change."""
    lines = set()
    for mutant in MUTANTS:
        text = (PLACE / mutant.file).read_text(encoding="utf-8")
        for old, _ in mutant.patches:
            first = text[: text.find(old)].count("\n") + 1
            lines |= {(mutant.file, first + more) for more in range(old.count("\n") + 1)}
    return lines


def test_every_patch_fits_exactly_once() -> None:
    misfits = [
        f"{mutant.name}: {mutant.file} has {count} times {old[:60]!r}"
        for mutant in MUTANTS
        for old, _ in mutant.patches
        if (count := (PLACE / mutant.file).read_text(encoding="utf-8").count(old)) != 1
    ]
    assert misfits == []


def test_every_guard_is_taken_out_by_some_mutant() -> None:
    """Verified: with a mutant left out its guard is named here."""
    known = touched()
    left = [f"{file}:{number}: {line}" for file, number, line in guards() if (file, number) not in known]
    assert left == []


def test_every_test_that_is_to_fail_exists() -> None:
    named = {word for mutant in MUTANTS for word in mutant.tests.split()}
    assert [name for name in sorted(named) if not (Path(TREE) / "tests" / name.partition("::")[0]).exists()] == []
