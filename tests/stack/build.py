"""Builds collector, Jaeger, Prometheus and VictoriaLogs through Go's module proxy into a cache outside the repository.

The first time takes some ten minutes on two cores, afterwards nothing: a program is named by its version and what went
into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stack.manifest import manifest
from tests.stack.pins import Pins, load

_BUILDER = "go.opentelemetry.io/collector/cmd/builder"
_PROMETHEUS = "github.com/prometheus/prometheus"
_LOGS = "github.com/VictoriaMetrics/VictoriaLogs"
_JAEGER = "github.com/jaegertracing/jaeger/cmd/jaeger"
_PATIENCE = 3600  # seconds for one command of Go's


class CannotBuild(Exception):
    """One line that says what is missing, or what failed and its last lines."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the binaries."""

    collector: Path
    jaeger: Path
    prometheus: Path
    promtool: Path
    victorialogs: Path


def cache() -> Path:
    """Where the binaries lie: `$XDG_CACHE_HOME/continuum-worker/stack`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "continuum-worker" / "stack"


def programs(pins: Pins, say: Callable[[str], None]) -> Programs:
    """What is there already, the rest built. Raises CannotBuild."""
    if shutil.which("go") is None:
        raise CannotBuild(
            "make stack-test builds the collector, Jaeger, Prometheus and VictoriaLogs, and needs Go: https://go.dev/dl"
        )
    wanted = manifest(load("otel-collector.yaml"), pins.collector)
    mark = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    prometheus = _built(f"prometheus-{pins.prometheus}", say, lambda place: _prometheus(place, pins.prometheus))
    logs = _built(f"victorialogs-{pins.victorialogs}", say, lambda place: _victorialogs(place, pins.victorialogs))
    return Programs(
        collector=_built(f"otelcol-{pins.collector}-{mark}", say, lambda place: _collector(place, wanted, pins))
        / "otelcol",
        jaeger=_built(f"jaeger-{pins.jaeger}", say, lambda place: _jaeger(place, pins.jaeger)) / "jaeger",
        prometheus=prometheus / "prometheus",
        promtool=prometheus / "promtool",
        victorialogs=logs / "victoria-logs",
    )


def _built(name: str, say: Callable[[str], None], build: Callable[[Path], Sequence[Path]]) -> Path:
    """The directory of that name in the cache; it appears with one rename, so it is whole."""
    found = cache() / name
    if found.is_dir():
        say(f"{name}: in the cache")
        return found
    cache().mkdir(parents=True, exist_ok=True)
    say(f"{name}: building in {cache()}, once")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache()) as scratch:
        place, ready = Path(scratch), Path(scratch) / "ready"
        binaries = build(place)
        ready.mkdir()
        for binary in binaries:
            binary.rename(ready / binary.name)
        try:
            ready.rename(found)
        except OSError:  # another run was faster
            if not found.is_dir():
                raise
    say(f"{name}: built in {time.monotonic() - began:.0f} s")
    return found


def _collector(place: Path, wanted: str, pins: Pins) -> Sequence[Path]:
    (place / "manifest.yaml").write_text(wanted)
    _go(place, "run", f"{_BUILDER}@{pins.collector}", "--config=manifest.yaml", "--skip-compilation")
    _go(place, "build", "-o", "otelcol", ".")  # not the builder's flags: what the programs share is compiled once
    return [place / "otelcol"]


def _prometheus(place: Path, version: str) -> Sequence[Path]:
    _go(_source(place, _PROMETHEUS, version), "build", "-o", f"{place}/", "./cmd/prometheus", "./cmd/promtool")
    return [place / "prometheus", place / "promtool"]


def _victorialogs(place: Path, version: str) -> Sequence[Path]:
    _go(_source(place, _LOGS, version), "build", "-o", f"{place}/", "./app/victoria-logs")
    return [place / "victoria-logs"]


def _source(place: Path, module: str, version: str) -> Path:
    """Copy a module's source out of Go's cache, which is read-only: a main package builds in its own module."""
    source = json.loads(_go(place, "mod", "download", "-json", f"{module}@{version}"))["Dir"]
    copy = place / "source"
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    for directory in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    return copy


def _jaeger(place: Path, version: str) -> Sequence[Path]:
    # `go install package@version` refuses a module with replace directives; as a tool of a scratch module it builds.
    _go(place, "mod", "init", "scratch")
    _go(place, "get", "-tool", f"{_JAEGER}@{version}")
    _go(place, "build", "-o", f"{place}/jaeger", _JAEGER)
    return [place / "jaeger"]


def _go(place: Path, *arguments: str) -> str:
    """Its standard output. Raises CannotBuild with the last lines."""
    # GOWORK: Prometheus' own workspace names modules that are not in the downloaded zip.
    environ = os.environ | {"GOWORK": "off"}
    try:
        done = subprocess.run(
            ["go", *arguments], cwd=place, env=environ, capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"go {' '.join(arguments)}: not done in {_PATIENCE} s") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CannotBuild(f"go {' '.join(arguments)} failed:\n{last}")
    return done.stdout
