"""One removal of the mutation gate: a function, the code in it that guards a promise, and what stands there instead.

The code is compared token by token, without comments and line breaks: neither a like line in another function nor a
moved comment or another indentation makes an entry unfit.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

FRAMEWORK = Path(__file__).parents[2] / "framework"
_TOKEN = re.compile(
    r"""(?P<none> \s+ | \\\n | \#[^\n]* )
    | [rbfuRBFU]{0,2} (?: \"{3} (?:[^\\]|\\.)*? \"{3} | " (?:[^"\\\n]|\\.)* " | ' (?:[^'\\\n]|\\.)* ' )
    | \w+ | [!=<>:]= | -> | \*\* | // | << | >> | .""",
    re.VERBOSE | re.DOTALL,
)

_SQL = re.compile(r"create function \{schema\}\.(\w+)\(.*?\$\$;", re.DOTALL)


class Misfit(ValueError):
    """The code does not have what a change takes out, or has it more than once."""


class Change(NamedTuple):
    """What is put in the place of some code.

    Attributes:
        function: qualified name of the function or class where it stands; empty = the module.
        old: the code, which must be there exactly once. Any part of a statement, or several.
        new: the same, with its indentation relative to the line where `old` begins.
    """

    function: str
    old: str
    new: str


class Mutant(NamedTuple):
    """One removal.

    Attributes:
        file: below framework/.
        tests: below tests/, with what pytest takes. trap: in the words of the protocol; empty = none of them.
    """

    name: str
    file: str
    changes: tuple[Change, ...]
    tests: str
    trap: str = ""

    def applied(self, source: str) -> str:
        """Return the source with all changes made. Raises Misfit."""
        for change in self.changes:
            start, end = place(source, change)
            line = source[source.rfind("\n", 0, start) + 1 : start]
            indent = line[: len(line) - len(line.lstrip())]
            source = source[:start] + change.new.replace("\n", f"\n{indent}") + source[end:]
        return source


def in_spool(name: str, file: str, function: str, old: str, new: str, tests: str, trap: str = "") -> Mutant:
    """Return a mutant of one change in a file of the spool, which is named by the end of its path."""
    return Mutant(name, spool_file(file), (Change(function, old, new),), tests, trap)


def spool_file(name: str) -> str:
    """Return where a file of the spool lies, below framework/."""
    (found,) = (path for path in (FRAMEWORK / "engine" / "spool").rglob("*.py") if path.as_posix().endswith(f"/{name}"))
    return found.relative_to(FRAMEWORK).as_posix()


@cache
def tokens(code: str) -> tuple[tuple[str, int, int], ...]:
    """Return (text, start, end) of each token of code, or of a fragment of code, without comments and blanks."""
    return tuple((m[0], m.start(), m.end()) for m in _TOKEN.finditer(code) if m["none"] is None)


@cache
def functions(source: str) -> tuple[tuple[str, int, int], ...]:
    """Return (qualified name, start, end) of the module, which has no name, and of all functions and classes in it.

    A file that begins with an SQL comment is SQL; the name of a function there has no schema.
    """
    if source.startswith("--"):
        return (("", 0, len(source)), *((m[1], m.start(), m.end()) for m in _SQL.finditer(source)))
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([child.lineno, *(one.lineno for one in child.decorator_list)])
                yield prefix + child.name, starts[first - 1], starts[child.end_lineno or first]
                yield from below(child, f"{prefix}{child.name}.")
            else:
                yield from below(child, prefix)

    return (("", 0, len(source)), *below(ast.parse(source), ""))


def place(source: str, change: Change) -> tuple[int, int]:
    """Return where the code begins and ends that a change takes out. Raises Misfit."""
    wanted = [text for text, _, _ in tokens(change.old)]
    scopes = [(start, end) for name, start, end in functions(source) if name == change.function]
    if not scopes:
        raise Misfit(f"no function {change.function}")
    found = [(start + a, start + b) for start, end in scopes for a, b in _spans(tokens(source[start:end]), wanted)]
    if len(found) != 1:
        raise Misfit(f"{change.function or 'the module'} has {len(found)} times {change.old[:70]!r}")
    return found[0]


def _spans(there: Sequence[tuple[str, int, int]], wanted: list[str]) -> Iterator[tuple[int, int]]:
    """Yield where each run of tokens begins and ends that reads as wanted."""
    texts = [text for text, _, _ in there]
    for at in range(len(texts) - len(wanted) + 1):
        if texts[at : at + len(wanted)] == wanted:
            yield there[at][1], there[at + len(wanted) - 1][2]
