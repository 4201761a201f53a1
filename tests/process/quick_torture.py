"""The service of `torture.py`, where a machine that is silent on PostgreSQL counts as dead after 3 s instead of 15."""

from __future__ import annotations

from framework.engine.postgres import upkeep
from tests.support.services.torture import Torture

__all__ = ["PATIENCE", "Torture"]

PATIENCE = upkeep.PATIENCE = 3.0
upkeep.BEAT = 0.5
