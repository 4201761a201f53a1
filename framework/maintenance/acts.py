"""The acts of people on the store, which maintenance reads from `framework.process.journal` and emits once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from framework.model.events import Event, OperatorActed, SupervisorNote
from framework.process import journal


class ActsTold:
    """The reader of the journal in an engine's local directory."""

    def __init__(self, directory: Path, emit: Callable[[Event], None]) -> None:
        self._directory = directory
        self._emit = emit
        self._failing = False

    def tell(self) -> None:
        """Emit an event for each act that the journal has. A journal that cannot be read is reported once."""
        try:
            records = journal.take(self._directory)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                where = self._directory / journal.NAME
                self._emit(SupervisorNote(f"{where} cannot be read: {error.strerror or error}", "warning"))
            return
        for record in records:
            self._emit(_event(record))


def _event(record: dict[str, Any]) -> OperatorActed:
    known = {one.name: record.get(one.name, "") for one in fields(OperatorActed)}
    texts = {name: str(known[name])[:200] for name in ("verb", "queue", "actor", "job_id")}
    count, at = (value if isinstance(value, int | float) else 0 for value in (known["count"], known["at"]))
    return OperatorActed(**texts, count=int(count), at=float(at))
