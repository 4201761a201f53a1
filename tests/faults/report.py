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
        left_out: what it promises and could not run, each with what is missing.
        part: how much of a fixed number there was time for: runs together reach all.
    """

    suite: str
    seed: int = 0
    tried: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    part: str = ""

    @property
    def verdict(self) -> str:
        """passed, FAILED or INCOMPLETE: a suite that skipped what it promises has not passed."""
        return "FAILED" if self.violations else "INCOMPLETE" if self.left_out else "passed"

    def expect(self, holds: object, broken: str) -> None:
        """Notes a broken promise unless it holds."""
        if not holds:
            self.violations.append(broken)

    def text(self, *, most: int = 30) -> str:
        """For a terminal: everything that was tried, and the first `most` violations."""
        lines = [f"{self.suite}: {self.verdict}  seed {self.seed}"]
        lines += [f"  {name:<48} {value}" for name, value in self.tried.items()]
        lines += [f"  NOT RUN {part}" for part in self.left_out]
        lines += [f"  VIOLATION {line}" for line in self.violations[:most]]
        if len(self.violations) > most:
            lines.append(f"  ... and {len(self.violations) - most} more")
        return "\n".join(lines)


def print_and_exit(report: Report) -> None:
    """End a suite's `main` with its exit code: 1 on a violation, 3 where something could not run."""
    print(report.text(), flush=True)
    raise SystemExit(1 if report.violations else 3 if report.left_out else 0)


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
