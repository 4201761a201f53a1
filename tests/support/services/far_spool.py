"""The scheme `slow:`: a spool as if it were far away, 20 ms a verb. `framework.engine.port` finds it where a service
imports `tests.support.services.far_torture`."""

from __future__ import annotations

from typing import Any

from framework.engine.spool import engine as spool
from tests.contract.slow import SlowBroker


def connect(url: str, **options: Any) -> SlowBroker:
    """The spool in `slow:DIR`."""
    return SlowBroker(spool.connect("spool:" + url.removeprefix("slow:"), **options))
