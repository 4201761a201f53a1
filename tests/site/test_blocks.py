"""Every block of Python in the pages is run: here, or by the test that is named here."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.site.pages import ROOT, python_of

PORTS = {"celery": 2, "rq": 2, "huey": 1, "dramatiq": 1}
ELSEWHERE = {
    "README.md": "tests/telemetry/test_docs.py",
    "docs/deploying.md": "tests/telemetry/test_docs.py",
    "docs/first-service.md": "tests/site/test_pages.py",
    "docs/handlers.md": "tests/telemetry/test_docs.py",
    "docs/observability.md": "tests/telemetry/test_docs.py",
    "docs/schedules.md": "tests/cli/test_schedules.py",
    "docs/steering.md": "tests/telemetry/test_docs.py",
    "docs/tutorial.md": "tests/site/test_pages.py",
    "docs/web.md": "tests/web/test_pages.py",
}
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", PORTS)
def test_a_port_runs(name: str) -> None:
    (source,) = python_of(f"docs/coming/{name}.md")
    scope: dict[str, Any] = {"__name__": "port"}
    exec(compile(source, f"{name}.md", "exec", dont_inherit=True), scope)
    tests = [value for key, value in scope.items() if key.startswith("test_")]
    assert len(tests) == PORTS[name]
    for test in tests:
        test()


def test_the_settings_of_django_are_what_its_page_says() -> None:
    (source,) = python_of("docs/frameworks.md")
    scope: dict[str, Any] = {}
    exec(source, scope)
    from services.django_site import settings

    assert scope["INSTALLED_APPS"][-1] in settings.INSTALLED_APPS
    assert scope["TASKS"]["default"]["BACKEND"] == settings.TASKS["default"]["BACKEND"]


def test_no_page_has_a_block_that_nothing_runs() -> None:
    here = {*(f"docs/coming/{name}.md" for name in PORTS), "docs/frameworks.md"}
    assert {path for path in PAGES if python_of(path)} == here | set(ELSEWHERE)
    for page, test in ELSEWHERE.items():
        assert re.search(
            rf"\b{page.rpartition('/')[2].partition('.')[0]}\b", (ROOT / test).read_text(encoding="utf-8")
        ), page
