"""Builds the site into build/site: `python -m docs.site`, in an environment with mkdocs (`make site`).

The pages are staged at the paths that they have in the repository, together with each file that they link to. So a
relative link leads to the same place on GitHub, in an editor and on the site. In `docs/reference.md` each line of a
public name becomes what its docstring says. At the end every link of the built pages is followed, without a network.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
STAGED, BUILT = ROOT / "build/site-pages", ROOT / "build/site"
REFERENCE = "docs/reference.md"
LINK = re.compile(r"\]\(<?([^)#\s>]+)[^)]*\)")
INLINE = re.compile(r"`[^`\n]+`")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# - [`framework.Queue`](../framework/service/queues.py): …
PUBLIC_NAME = re.compile(r"^- \[`([\w.]+)`\]\([^)]+\): .*$", re.MULTILINE)


def pages(nav: list[Any]) -> Iterator[str]:
    """Yield the paths in mkdocs' navigation."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages(value) if isinstance(value, list) else [value]


def links(text: str) -> Iterator[str]:
    """Yield the paths that a page links to, without those in code."""
    for target in LINK.findall(INLINE.sub("", FENCE.sub("", text))):
        if not urlsplit(target).scheme:
            yield target


def stage(names: list[str]) -> None:
    """Copy the pages, and all files that they link to, below `STAGED`."""
    shutil.rmtree(STAGED, ignore_errors=True)
    todo, done = list(names), set[str]()
    while todo:
        name = todo.pop()
        source = ROOT / name
        if name in done or not source.is_file():
            continue  # mkdocs and the check of links complain about what is missing
        done.add(name)
        target = STAGED / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        text = source.read_text(encoding="utf-8")
        found = ((source.parent / link).resolve() for link in links(text))
        todo += [path.relative_to(ROOT).as_posix() for path in found if path.is_relative_to(ROOT)]
        target.write_text(PUBLIC_NAME.sub(r"::: \1", text) if name == REFERENCE else text, encoding="utf-8")


class Page(HTMLParser):
    """The ids and the links of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links = {""}, set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and tag != "base":
                self.links.add(value)


def broken(built: Path) -> Iterator[str]:
    """Yield one line for each link in the built pages that leads to no file, or to no id in it."""
    found = {path.resolve(): Page(path) for path in sorted(built.rglob("*.html")) if path.name != "404.html"}
    for path, page in found.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{path.relative_to(built)}: {link}: no such file"
            elif target in found and unquote(parts.fragment) not in found[target].ids | {"__comments"}:
                yield f"{path.relative_to(built)}: {link}: no such heading"


def main() -> int:
    import logging

    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    STAGED.mkdir(parents=True, exist_ok=True)  # mkdocs wants to see it before it says what the pages are
    config = load_config(str(ROOT / "mkdocs.yml"))
    stage(list(pages(config.nav or [])))
    build(config)
    lines = list(broken(BUILT))
    print(
        "\n".join(lines) or f"{len(list(BUILT.rglob('*.html')))} pages in {BUILT.relative_to(ROOT)}, every link holds"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
