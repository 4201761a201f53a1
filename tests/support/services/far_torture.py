"""The service of `torture.py`, where `slow:DIR` is an engine."""

from __future__ import annotations

from framework.engine.port import ENGINES
from tests.support.services.torture import Torture

__all__ = ["Torture"]

ENGINES["slow"] = "tests.support.services.far_spool"
