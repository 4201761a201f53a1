"""The version of the instrumentation scope."""

from __future__ import annotations

import importlib.metadata
from functools import cache

from framework.telemetry.names import DISTRIBUTION


@cache
def version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return ""
