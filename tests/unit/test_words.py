"""Retired words stay out of docstrings, comments and documents: one word for each thing."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEMS = (
    r"verdicts?|doorbells?|ripen\w*|census(?:es)?|wards?|pump(?:s|ed|ing)?|guilty|houses?|rooms|floors"
    r"|drafts?|strays?|forgiv\w*|"
    r"somebody|nobody"
)
# A name in quotes, backticks or a path is code: the file name of the notifier's FIFO is "doorbell".
WORD = re.compile(rf"(?<![\w`\"/])(?:{STEMS})(?![\w`\"])", re.IGNORECASE)
INSTEAD = {
    "verdict": "kill reason",
    "doorbell": "notifier",
    "ripen": "promote due jobs",
    "census": "counts",
    "ward": "abandoned lease",
    "pump": "sender",
    "guilty": "charged",
    "house": "architecture",
    "room": "package",
    "floor": "layer",
    "draft": "temp file",
    "stray": "orphan process",
    "forgiv": "already settled",
    "somebody": "who it is",
    "nobody": "what does not happen, or which process does not",
}
ABOUT_ARCHITECTURE = ("ARCHITECTURE.md", "CONTRIBUTING.md")  # only there are they retired: house, rooms, floors
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/faults/*.md")]
NOT_TODAY = "CHANGELOG.md"  # it says what things were called


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings and comments of a module, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    yield first.lineno, first.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def retired(file: str, text: str, line: int = 1) -> list[str]:
    """Return a line for each retired word in a text of a file."""
    found = []
    for match in WORD.finditer(text):
        word = next(stem for stem in INSTEAD if match[0].lower().startswith(stem))
        if word in ("house", "room", "floor") and file not in ABOUT_ARCHITECTURE:
            continue
        at = line + text[: match.start()].count("\n")
        found.append(f"{file}:{at}: {match[0]!r}: write {INSTEAD[word]!r}")
    return found


def test_the_code_has_no_retired_word() -> None:
    found = []
    for path in sorted((ROOT / "framework").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if WORD.search(source):
            file = path.relative_to(ROOT).as_posix()
            found += [hit for line, text in prose(source) for hit in retired(file, text, line)]
    assert found == []


def test_the_documents_have_no_retired_word() -> None:
    found = []
    for path in sorted(DOCUMENTS):
        if path.name != NOT_TODAY:
            found += retired(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("file", "text", "count"),
    [
        ("framework/worker/core.py", "The verdict of a pump.", 2),
        ("framework/engine/port.py", "Ripens a ward.", 2),
        ("framework/engine/port.py", 'The FIFO is the file "doorbell"; forward and upward.', 0),
        ("framework/engine/port.py", "A doorbell rings.", 1),
        ("framework/engine/port.py", "A draft of a stray is forgiven.", 3),
        ("ARCHITECTURE.md", "The house has rooms on seven floors.", 3),
        ("ARCHITECTURE.md", "The disk has no room for a row above the floor.", 0),
        ("docs/reliability.md", "The room of a house.", 0),
    ],
)
def test_a_retired_word_is_found_where_it_is_retired(file: str, text: str, count: int) -> None:
    assert len(retired(file, text)) == count
