"""Links between the pages hold where a forge shows the files, and the site's own check finds what does not."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from docs.site import FENCE, INLINE, broken, links, pages
from tests.site.pages import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests/faults").glob("*.md")])


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found, seen = set(), Counter[str]()
    for title in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_hold_where_files_are_shown(page: Path) -> None:
    text = INLINE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" not in path:
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in headings(file), target


def test_each_page_is_in_the_navigation() -> None:
    config = YAML(typ="rt").load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(pages(config["nav"]))
    assert {path for path in listed if path.startswith("docs/")} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert len(listed) == len(set(listed))
    assert all((ROOT / path).is_file() for path in listed)


def test_a_link_in_code_is_none() -> None:
    assert list(links("[a](b.md#c)\n```\nqueue[int](x.md)\n```\n[d](https://e) `q[int](f.md)` [`g`](h.md)")) == [
        "b.md",
        "h.md",
    ]


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="one"></h1><a href="a/#two"><img src="gone.png"><a href="#one">')
    (tmp_path / "a" / "index.html").write_text('<a href="../#one"><a href="../#three"><a href="https://example.com">')
    assert list(broken(tmp_path)) == [
        "a/index.html: ../#three: no such heading",
        "index.html: a/#two: no such heading",
        "index.html: gone.png: no such file",
    ]
