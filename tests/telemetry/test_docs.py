"""docs/observability.md says what the code emits, docs/settings.md what can be set; files that the pages name exist."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from docs import settings
from docs.emitted import PAGE, tables, written
from docs.examples import missing
from framework import Context, DeadLetter, Failure
from framework.model.job import Reason
from framework.service.settings import BreakerOverride, QueueOverride, RetryOverride, Settings
from framework.telemetry import names
from framework.telemetry.instruments import TABLE
from tests.support.processes import wait_until
from tests.support.programs import free_ports, listens
from tests.support.registry import registry


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
    assert [value for value in emitted if f"`{value}`" not in page] == []


def test_the_registry_says_of_our_metrics_what_the_code_does() -> None:
    found = {name: (group.unit, group.brief) for name, group in registry().metrics.items()}
    assert found == {name: (one.unit, one.description) for name, one in TABLE.items() if name.startswith("worker.")}
    used = {name for group in registry().metrics.values() for name in group.attributes}
    assert {name for name in used if name.startswith("worker.")} <= set(registry().attributes)


def test_a_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics"):
        written("# nothing", tables())


@pytest.mark.parametrize("path", ["README.md", *sorted(f"docs/{found.name}" for found in PAGE.parent.glob("*.md"))])
def test_pictures_and_files_that_a_page_names_exist(path: str) -> None:
    file = PAGE.parents[1] / path
    for name in re.findall(r"\]\(([^)#:\"\s]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / name).exists(), name


def test_the_settings_are_up_to_date() -> None:
    page = settings.PAGE.read_text(encoding="utf-8")
    assert written(page, settings.tables(), by=settings.GENERATOR) == page, "make docs"


def test_every_setting_is_in_the_page() -> None:
    page = settings.PAGE.read_text(encoding="utf-8")
    names = [*Settings.model_fields, *QueueOverride.model_fields, *RetryOverride.model_fields]
    names += BreakerOverride.model_fields
    assert [name for name in names if name not in ("retry", "breaker") and f"{name.upper()}`" not in page] == []


def test_a_setting_without_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(settings.WHAT, "drain")
    with pytest.raises(ValueError, match="drain"):
        settings.tables()


def python_of(path: str) -> list[str]:
    page = (PAGE.parents[1] / path).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "tests"), [("README.md", 1), ("docs/handlers.md", 6), ("docs/steering.md", 7), ("docs/deploying.md", 1)]
)
def test_the_examples_run(path: str, tests: int) -> None:
    scope: dict[str, Any] = {"__name__": "example"}
    blocks = [block for block in python_of(path) if "slo=" not in block]
    exec(compile("\n".join(blocks), path, "exec"), scope)
    found = [value for name, value in scope.items() if name.startswith("test_")]
    assert len(found) == tests
    for test in found:
        test()


def test_all_that_a_handler_is_told_is_listed() -> None:
    page = (PAGE.parents[1] / "docs/handlers.md").read_text(encoding="utf-8")
    section = page.partition("## What a handler gets")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", section))
    told = {field.name for kind in (Context, DeadLetter, Failure) for field in fields(kind)}
    told |= {name for name in vars(Context) if isinstance(vars(Context)[name], property)} | set(get_args(Reason))
    assert listed - {"DeadLetter", "on_failure"} == {name for name in told if not name.startswith("_")}


def test_the_receiver_prints_what_comes(tmp_path: Path) -> None:
    (source,) = (block for block in python_of("docs/observability.md") if "serve_forever" in block)
    port = free_ports(1)[0]
    script = tmp_path / "receive.py"
    script.write_text(source.replace("4318", str(port)), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-u", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert wait_until(lambda: listens(port) or process.poll() is not None, 60)
            assert process.poll() is None
            exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces", compression=Compression.Gzip)
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            provider.get_tracer("docs").start_span("process orders").end()
            assert process.stdout is not None
            assert " process orders " in process.stdout.readline()
        finally:
            process.kill()
