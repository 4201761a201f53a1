"""Questions to Prometheus."""

from __future__ import annotations

import urllib.error
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.programs import get

Labels = Mapping[str, str]


class Prometheus:
    """Its HTTP API.

    Args:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1"

    def names(self) -> set[str]:
        return set(self._get("label/__name__/values"))

    def series(self, selector: str, start: float, end: float) -> Sequence[Labels]:
        found: Sequence[Labels] = self._get("series", **{"match[]": selector, "start": start, "end": end})
        return found

    def totals(self, query: str, *by: str, at: float) -> Mapping[Any, float]:
        """Values of an instant query, by the values of these labels; by one alone where there is one."""
        found = {}
        for row in self._get("query", query=query, time=at)["result"]:
            key = tuple(row["metric"].get(label, "") for label in by)
            found[key[0] if len(by) == 1 else key] = float(row["value"][1])
        return found

    def total(self, query: str, at: float) -> float:
        """The sum over an instant query's values."""
        return sum(float(row["value"][1]) for row in self._get("query", query=query, time=at)["result"])

    def points(self, query: str, start: float, end: float, step: float = 15) -> int:
        """How many values a range query gives that are numbers. ValueError with Prometheus' words where it refuses."""
        try:
            rows = self._get("query_range", query=query, start=start, end=end, step=step)["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(error.msg) from None
        return sum(value != "NaN" for row in rows for _, value in row["values"])

    def exemplars(self, query: str, start: float, end: float) -> Sequence[tuple[str, str]]:
        """(trace id, span id) of all exemplars."""
        found = self._get("query_exemplars", query=query, start=start, end=end)
        labels = [exemplar["labels"] for row in found for exemplar in row["exemplars"]]
        return [(label["trace_id"], label["span_id"]) for label in labels]

    def rules(self) -> Sequence[Mapping[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def label_values(self, selector: str, label: str, start: float, end: float) -> Sequence[str]:
        parameters = {"match[]": selector, "start": start, "end": end}
        found: Sequence[str] = self._get(f"label/{label}/values", **parameters)
        return found

    def _get(self, path: str, **parameters: Any) -> Any:
        return get(f"{self._url}/{path}", **parameters)["data"]
