"""The mutation gate is complete and fits: whatever guards a promise is taken out by some mutant of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .mutant import Change, Misfit, Mutant, place, tokens
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


def source_of(mutant: Mutant) -> str:
    return (PLACE / mutant.file).read_text(encoding="utf-8")


def touched() -> set[tuple[str, int]]:
    """(file, line number) of all that mutants change."""
    lines = set()
    for mutant in MUTANTS:
        source = source_of(mutant)
        for change in mutant.changes:
            start, end = place(source, change)
            first, last = (source.count("\n", 0, at) + 1 for at in (start, end))
            lines |= {(mutant.file, number) for number in range(first, last + 1)}
    return lines


def misfit(mutant: Mutant) -> str:
    """Return why a mutant does not fit the code; empty = it does, and makes other code of it."""
    try:
        made = mutant.applied(source_of(mutant))
        if mutant.file.endswith(".py"):
            ast.parse(made)
    except (Misfit, SyntaxError) as error:
        return f"{mutant.name}: {mutant.file}: {error}"
    words = [[[word for word, _, _ in tokens(code)] for code in (one.old, one.new)] for one in mutant.changes]
    return f"{mutant.name} changes nothing" if any(old == new for old, new in words) else ""


def test_every_mutant_fits_exactly_once_and_makes_other_code() -> None:
    assert [found for mutant in MUTANTS if (found := misfit(mutant))] == []


def test_every_guard_is_taken_out_by_some_mutant() -> None:
    """Verified: with a mutant left out its guard is named here."""
    known = touched()
    left = [f"{file}:{number}: {line}" for file, number, line in guards() if (file, number) not in known]
    assert left == []


def test_every_test_that_is_to_fail_exists() -> None:
    named = {word for mutant in MUTANTS for word in mutant.tests.split()}
    assert [name for name in sorted(named) if not (Path(TREE) / "tests" / name.partition("::")[0]).exists()] == []


SOURCE = """
class Box:
    def put(self, fd: int) -> None:
        # why
        if self.power:  # durable
            self.sync(
                fd
            )

    def take(self, fd: int) -> None:
        self.sync(fd)
"""


def test_a_change_is_looked_for_in_its_function_without_comments_and_line_breaks() -> None:
    change = Change("Box.put", "if self.power:\n    self.sync(fd)", "if True:\n    pass")
    made = Mutant("", "", (change,), "").applied(SOURCE)
    assert ast.unparse(ast.parse(made)) == (
        "class Box:\n\n    def put(self, fd: int) -> None:\n        if True:\n            pass\n\n"
        "    def take(self, fd: int) -> None:\n        self.sync(fd)"
    )


@pytest.mark.parametrize("change", [
    Change("Box", "self.sync(fd)", "pass"), Change("Box.take", "self.power", "True"), Change("take", "fd", "0"),
])  # fmt: skip
def test_a_change_that_is_not_there_exactly_once_does_not_fit(change: Change) -> None:
    with pytest.raises(Misfit):
        place(SOURCE, change)
