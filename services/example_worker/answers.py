"""What the receiver answers: in stated shares, drawn so that a delivery's fate depends on nothing but its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

KINDS: Mapping[str, int] = {"ok": 200, "hang": 0, "redirect": 302}
DEFAULT = "ok=90,503=5,429=3,404=1,hang=1"


@dataclass(frozen=True, slots=True)
class Shares:
    """Statuses and their weights; 0 stands for no answer at all."""

    statuses: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Shares:
        """`ok=90,503=5,hang=1`: a name or a status and its weight. Raises ValueError saying what is wrong."""
        statuses, weights = [], []
        for part in text.split(","):
            name, equals, weight = part.strip().partition("=")
            try:
                status = KINDS[name] if name in KINDS else int(name)
                share = float(weight)
            except ValueError:
                raise ValueError(f"share {part!r}: write it as ok=90, hang=1 or a status such as 503=5") from None
            if not equals or (status and not 200 <= status <= 599) or not 0 <= share < float("inf"):
                raise ValueError(f"share {part!r}: a status is 200 to 599, a weight 0 or more")
            statuses.append(status)
            weights.append(share)
        if not sum(weights):
            raise ValueError(f"shares {text!r}: at least one must be above 0")
        return cls(tuple(statuses), tuple(weights))

    def draw(self, seed: int, delivery: str, time: int) -> int:
        """The status for a delivery's `time`-th request, from 1: the same whatever came in between."""
        return Random(f"{seed}:{delivery}:{time}").choices(self.statuses, self.weights)[0]
