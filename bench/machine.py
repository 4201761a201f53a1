"""What the figures belong to: machine, file system, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def describe(place: str) -> dict[str, Any]:
    """The machine; `key` is equal where figures may be compared.

    Args:
        place: the file system's description.
    """
    facts: dict[str, Any] = {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int((_first("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "file_system": place,
    }
    same = [facts[name] for name in ("cpu", "cores", "memory_gb", "file_system")]
    return facts | {"key": hashlib.sha256(repr(same).encode()).hexdigest()[:12]}


def commit() -> str:
    """What was measured, as git names it; empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except OSError:
        return ""


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in sorted(set(distributions)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _first(path: str, name: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""
