"""docs/engines.md names every file that a new engine touches, every verb and every feature."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from framework.engine.port import ENGINES, Engine, Features
from tests.contract import engines, test_model
from tests.unit.test_engine_options import PLACES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"`([^`]+)`", PAGE))
NEW = "framework/engine/x/engine.py"


def test_every_file_that_it_names_exists() -> None:
    named = {text for text in QUOTED if re.fullmatch(r"[\w/.]+\.(py|toml)|(framework|tests)/[\w/]+", text)}
    assert NEW in named
    assert [text for text in named - {NEW} if not (ROOT / text).exists()] == []


def test_every_table_of_engines_is_named_and_knows_every_engine() -> None:
    own = {scheme for scheme, module in ENGINES.items() if module.startswith("framework.engine.")}
    assert own == PLACES.keys()
    for table in (engines.ENGINES, test_model.BOUNDS, test_model.PATIENCE):
        assert own <= table.keys()
    assert {"ENGINES", "BOUNDS", "PATIENCE", "PLACES"} <= QUOTED
    places = {scheme: ROOT / module.replace(".", "/") for scheme, module in ENGINES.items()}
    assert [
        scheme for scheme, place in places.items() if not (place.is_dir() or place.with_suffix(".py").exists())
    ] == []


def test_every_verb_and_every_feature_is_named() -> None:
    verbs = {name for name in vars(Engine) if not name.startswith("_")}
    assert {"settle", "claim", "notes", "local_dir"} <= verbs
    assert verbs - QUOTED == set()
    assert {field.name for field in fields(Features)} - QUOTED == set()


def test_no_other_file_imports_an_engine() -> None:
    """A new engine needs no change elsewhere: only the table knows their modules."""
    found = []
    for path in (ROOT / "framework").rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        if where.startswith(("framework/engine/", "framework/testing/")):
            continue
        if re.search(r"^\s*(from|import) framework\.engine\.(spool|memory)\b", path.read_text("utf-8"), re.MULTILINE):
            found.append(where)
    assert found == []
