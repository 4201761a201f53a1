"""What a suite tried and what it found."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field


@dataclass
class Report:
    """The result of one suite.

    Attributes:
        suite: its name in the registry.
        seed: given again, the same choices are made (the scheduler of the machine makes others).
        tried: counts and measures, in the order in which they are to be printed.
        violations: broken promises, one line each; none = passed.
        skipped: why it did not run; empty = it ran.
    """

    suite: str
    seed: int = 0
    tried: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """passed, FAILED or skipped."""
        return "skipped" if self.skipped else "FAILED" if self.violations else "passed"

    def expect(self, holds: object, broken: str) -> None:
        """Notes a broken promise unless it holds."""
        if not holds:
            self.violations.append(broken)

    def text(self, *, most: int = 30) -> str:
        """For a terminal: everything that was tried, and the first `most` violations."""
        lines = [f"{self.suite}: {self.verdict}  seed {self.seed}" + (f"  ({self.skipped})" if self.skipped else "")]
        lines += [f"  {name:<48} {value}" for name, value in self.tried.items()]
        lines += [f"  VIOLATION {line}" for line in self.violations[:most]]
        if len(self.violations) > most:
            lines.append(f"  ... and {len(self.violations) - most} more")
        return "\n".join(lines)


def print_and_exit(report: Report) -> None:
    """The end of a suite's `main`: exit code 1 on a violation."""
    print(report.text(), flush=True)
    raise SystemExit(1 if report.violations else 0)


def number(name: str, default: float) -> float:
    """A number from the environment, for budgets. ValueError names the variable."""
    text = os.environ.get(name, "")
    try:
        return float(text) if text else default
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number") from None


def seed() -> int:
    """SEED from the environment, else a new one."""
    return int(number("SEED", 0)) or random.SystemRandom().randrange(1, 2**31)
