from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import Tree, trees


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path)
