"""docs/observability.md says what the code emits."""

from __future__ import annotations

import re

import pytest

from docs.emitted import PAGE, tables, written
from docs.examples import missing
from framework.telemetry import names


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_tables_are_up_to_date(page: str) -> None:
    assert written(page, tables()) == page, "make docs"


def test_every_event_has_an_example() -> None:
    assert missing() == set()


def test_every_name_is_explained(page: str) -> None:
    values = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    emitted = {value for value in values if re.fullmatch(r"(worker|messaging|error|exception)\.[a-z_.]+", value)}
    assert len(emitted) > 30
    assert {value for value in emitted if f"`{value}`" not in page} == {names.EXCEPTION_ESCAPED}


def test_a_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics"):
        written("# nothing", tables())


def test_pictures_and_files_that_it_names_exist(page: str) -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", page):
        assert (PAGE.parent / name).exists(), name
