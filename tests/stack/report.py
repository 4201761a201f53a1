"""What was checked, whether it held, and what was seen."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass
class Report:
    """Checks in the order in which they were made; each is printed when it is made."""

    failed: int = 0
    held: int = 0
    _began: float = field(default_factory=time.monotonic)

    def section(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def say(self, text: str) -> None:
        print(f"  {time.monotonic() - self._began:5.0f} s  {text}", flush=True)

    def check(self, holds: object, what: str, seen: object = "") -> bool:
        """Notes a check; `seen` is shown either way."""
        self.failed += not holds
        self.held += bool(holds)
        print(f"  {'ok    ' if holds else 'FAILED'}  {what}" + (f": {seen}" if seen != "" else ""), flush=True)
        return bool(holds)

    def none(self, wrong: Collection[object], what: str, seen: object = "") -> bool:
        """A check that holds when nothing is wrong; shows the first three that are."""
        shown = f"{len(wrong)} wrong, such as {list(wrong)[:3]}" if wrong else seen
        return self.check(not wrong, what, shown)

    def equal(self, found: object, expected: object, what: str) -> bool:
        """A check that two counts are the same."""
        return self.check(found == expected, what, found if found == expected else f"{found}, expected {expected}")

    def kill_reason(self) -> int:
        """Prints the sum; the exit code."""
        print(f"\n{self.held} checks held, {self.failed} failed, in {time.monotonic() - self._began:.0f} s", flush=True)
        return 1 if self.failed else 0
