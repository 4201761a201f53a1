"""One removal of the mutation gate."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FRAMEWORK = Path(__file__).parents[2] / "framework"


class Mutant(NamedTuple):
    """One removal.

    Attributes:
        file: below framework/. patches: pairs of texts, each of which must be there exactly once.
        tests: below tests/, with what pytest takes. trap: in the words of the protocol; empty = none of them.
    """

    name: str
    file: str
    patches: tuple[tuple[str, str], ...]
    tests: str
    trap: str = ""


def spool_file(name: str) -> str:
    """Return where a file of the spool lies, below framework/."""
    (found,) = (path for path in (FRAMEWORK / "engine" / "spool").rglob("*.py") if path.as_posix().endswith(f"/{name}"))
    return found.relative_to(FRAMEWORK).as_posix()
