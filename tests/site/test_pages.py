"""Pages whose commands are typed, in order, into a shell, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.pages import blocks, follow


@pytest.mark.parametrize(("path", "commands"), [("docs/first-service.md", 18), ("docs/tutorial.md", 19)])
def test_a_page_can_be_followed(tmp_path: Path, path: str, commands: int) -> None:
    assert follow(path, tmp_path) == commands


def test_the_first_page_installs_what_it_and_the_next_one_run() -> None:
    first = [text for _, text in blocks("docs/first-service.md")]
    (installs,) = (line for text in first for line in text.splitlines() if line.startswith("pip install "))
    assert any("$ python -m pytest " in text for text in first)
    assert installs.split()[-1] == "pytest"
