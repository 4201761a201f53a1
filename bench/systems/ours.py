"""Continuum on the spool, with the defaults of a new service; three ways of telemetry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bench.spans import Receiver
from bench.spawn import Process, script
from bench.systems.base import System, Workers

SERVICE = "bench.children.ours"
OFF, SAMPLED_OUT, TRACED = "ours", "ours, sampled out", "ours, traced"


class Ours(System):
    """Telemetry off."""

    name = OFF
    configuration = (
        "spool, WORKER_DURABILITY=power (the default), pydantic payload, sync handler, one job after the other in "
        "each process, max_length set, OTEL_SDK_DISABLED=true"
    )
    power = True
    producing = SERVICE
    has_coroutines = True
    distributions = ("continuum-worker", "opentelemetry-sdk", "pydantic")
    trace = ""

    def environ(self) -> Mapping[str, str]:
        return {
            "WORKER_ENGINE_URL": f"spool:{self.spool}",
            "WORKER_LOG_LEVEL": "warning",
            "BENCH_TRACE": self.trace,
            **self.telemetry(),
        }

    @property
    def spool(self) -> str:
        """The directory."""
        return str(self.place / "spool")

    def telemetry(self) -> Mapping[str, str]:
        """OTEL_*."""
        return {"OTEL_SDK_DISABLED": "true"}

    def start_workers(self, count: int) -> Workers:
        return Workers([self.tree(count)])

    def tree(self, count: int, **environ: str) -> Process:
        """A supervisor with so many workers."""
        return self.process(
            "workers", script("worker", "run", SERVICE), environ={"WORKER_QUEUES__JOBS__WORKERS": str(count), **environ}
        )


class WithReceiver(Ours):
    """With a live receiver; metrics go there too."""

    receiver: ClassVar[Receiver]

    def telemetry(self) -> Mapping[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint}


class SampledOut(WithReceiver):
    name = SAMPLED_OUT
    configuration = "the same with OpenTelemetry on and its defaults; the jobs' trace context says: not sampled"
    trace = "unsampled"


class Traced(WithReceiver):
    name = TRACED
    configuration = "the same with OpenTelemetry on and its defaults; each job's trace context says: sampled"
    trace = "sampled"
