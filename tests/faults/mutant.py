"""One removal of the mutation gate."""

from __future__ import annotations

from typing import NamedTuple


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
