"""docs/reference.md lists all public names, and says of each what its docstring says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import framework
from docs import reference
from docs.site import PUBLIC_NAME
from tests.site.pages import ROOT


def test_the_lists_are_up_to_date() -> None:
    # In a process of its own: what Django is told there stays there.
    code = "import docs.reference as r; print(r.written(r.PAGE.read_text(), r.lists(), by=r.GENERATOR), end='')"
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "services.django_site.settings"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == reference.PAGE.read_text(encoding="utf-8"), "make docs"


def test_each_name_of_framework_is_listed_once() -> None:
    listed = re.findall(r"^- \[`framework\.(\w+)`\]", reference.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(framework.__all__)


def test_a_name_without_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework, "__all__", [*framework.__all__, "Unheard"])
    with pytest.raises(ValueError, match="Unheard"):
        reference.lists()


def test_each_line_becomes_a_docstring_on_the_site() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    assert len(PUBLIC_NAME.findall(page)) == len(re.findall(r"^- ", page, re.MULTILINE)) > 40
