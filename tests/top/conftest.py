"""Real trees on every engine that processes share, and `worker top` on a terminal beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import postgres
from tests.support.screen import Screen
from tests.support.tree import HERE, Tree, trees

MODULE = "tests.top.shop"
Watching = Callable[..., Screen]


@pytest.fixture(params=["spool", "postgres"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    if request.param == "postgres":
        postgres.empty(postgres.shared())
        yield from trees(tmp_path, f"{postgres.shared().url}?local_dir={tmp_path}/spool")
    else:
        yield from trees(tmp_path)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path)


def environ(tree: Tree) -> dict[str, str]:
    """The environment of a person who looks at a tree."""
    # pytest-xdist sets the size of a terminal, which would count more than that of the real one.
    others = ("WORKER_", "NO_COLOR", "COLUMNS", "LINES")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(others)}
    return kept | tree.environ | {"WORKER_ACTOR": "ada", "WORKER_LOG_LEVEL": "warning"}


def top(tree: Tree, *args: str, columns: int = 100, lines: int = 30, **env: str) -> Screen:
    """Return `worker top` on a tree's store."""
    given = (MODULE, "--interval", "0.2", *args)
    return Screen("top", *given, cwd=HERE, env=environ(tree) | env, columns=columns, lines=lines)
