"""The command `worker new`, which writes the repository of a service that runs at once."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from framework.model.errors import UsageError

ENDING = ".tmpl"  # of the template's files, so that no tool takes them for code
RUNS = f"{sys.version_info.major}.{sys.version_info.minor}"


@click.command(short_help="Write the repository of a new service.")
@click.argument("name")
def new(name: str) -> int:
    """Write the repository of a new service into the directory NAME: queues apart from handlers, tests, types, and
    files for a container, compose and CI. It runs at once."""
    module = _module_of(name)
    root = Path(name)
    if root.exists() and any(root.iterdir() if root.is_dir() else [root]):
        raise UsageError(f"{root} exists already: choose another name, or remove it")
    words = {"name": name, "module": module, "app": "".join(part.capitalize() for part in module.split("_"))}
    words["python"] = RUNS
    try:
        for path, text in _files(words):
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    except OSError as error:
        raise UsageError(f"{root} cannot be written: {error.strerror or error}") from error
    click.echo(f"{root} is a service. Next:\n  cd {root}\n  worker run {module}.service")
    click.echo(f'and in another terminal:\n  worker enqueue {module}.service greetings \'{{"name": "Ada"}}\'')
    return 0


def _module_of(name: str) -> str:
    """Return the package's name. Raises UsageError: it would hide another one, or is no name."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,60}", name) or keyword.iskeyword(module):
        raise UsageError(f"{name!r} is no name for a service: small letters, digits and '-', as in my-service")
    if module in sys.stdlib_module_names or module in ("framework", "tests"):
        raise UsageError(f"{name!r} would hide the package {module}: choose another name")
    return module


def _files(words: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield path and text of each file."""
    for path, source in _walk(files("framework.cli.starting") / "template", Path()):
        yield (
            Path(str(path).replace("__module__", words["module"]).removesuffix(ENDING)),
            _filled(source.read_text(), words),
        )


def _walk(directory: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, path / entry.name)
        elif entry.name.endswith(ENDING):
            yield path / entry.name, entry


def _filled(text: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        text = text.replace(f"[[{name}]]", value)
    return text
