"""A live receiver that keeps only what the soak asks about, so that a million spans fit into memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.receiver import Receiver


class Arrivals(Receiver):
    """OTLP over http on 127.0.0.1.

    Attributes:
        ids: of all `process` spans, as numbers.
        repeated: arrivals of an id that was there before.
        outcomes: how many spans had each.
    """

    def __init__(self, port: int = 0) -> None:
        self.ids: set[int] = set()
        self.repeated = 0
        self.outcomes: Counter[str] = Counter()
        super().__init__(port)

    def add(self, request: Any) -> None:
        """Called for each request that is answered with 200."""
        if not isinstance(request, ExportTraceServiceRequest):
            super().add(request)
            return
        with self.changed:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._span(span)
            self.changed.notify_all()

    def _span(self, span: Any) -> None:
        if not span.name.startswith("process "):
            return
        number = int.from_bytes(span.span_id, "big")
        self.repeated += number in self.ids
        self.ids.add(number)
        for pair in span.attributes:
            if pair.key == "worker.job.outcome":
                self.outcomes[pair.value.string_value] += 1
