"""Pages whose commands are typed, in order, into a shell, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.pages import follow


@pytest.mark.parametrize(("path", "commands"), [("docs/first-service.md", 18), ("docs/tutorial.md", 19)])
def test_a_page_can_be_followed(tmp_path: Path, path: str, commands: int) -> None:
    assert follow(path, tmp_path) == commands
