"""Sentences for `worker doctor` about what telemetry says and keeps in this environment."""

from __future__ import annotations

from typing import Literal

from framework.telemetry import ProcessIdentity
from framework.telemetry.conventions import EXCEPTION_SIGNAL, STABILITY, VERSION, emits_both, exception_signal
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.resource import of_series, resource_of

Way = Literal["ring", "sdk"]

_KEPT = "a kill loses no attempt: spans and counts of the killed one come under the resource of its process"
_LOST = {
    "ring": f"{_KEPT}; what a handler made with OpenTelemetry just before SIGKILL, and log records, are lost",
    "sdk": "what a killed process had not sent is lost, counts as well; the killed attempt itself has its span",
    "": "nothing is made, so nothing can be lost",
}


def facts_of(identity: ProcessIdentity, path: Way | Literal[""], scraped: str) -> dict[str, str]:
    """Return by topic what is emitted, as whom, who can fetch it, and what a kill loses.

    Args:
        path: the way in which the framework's own telemetry leaves.
        scraped: WORKER_METRICS.
    """
    found = {"conventions": _conventions(), "resource": _resource(identity)}
    if scraped:
        served = "/metrics for a Prometheus server, from the exporter process, with honor_labels: true"
        found["scrape"] = f"{scraped}: {served}" if path == "ring" else "WORKER_METRICS is ignored: no exporter process"
    return found | {"kill": _LOST[path]}


def _conventions() -> str:
    names = f"messaging.system.name{f', and messaging.system by {STABILITY}' if emits_both() else ''}"
    where = {
        "events": f"exceptions are events of their spans ({EXCEPTION_SIGNAL}=logs, with logs sent: log records)",
        "logs": "exceptions are log records messaging.process.exception",
        "logs/dup": "exceptions are events of their spans, and log records messaging.process.exception",
    }[exception_signal()]
    return f"semantic conventions {VERSION} ({names}); {where}"


def _resource(identity: ProcessIdentity) -> str:
    if exporters.is_disabled():
        return "none: OTEL_SDK_DISABLED=true"
    told = ("service.name", "service.namespace", "service.version", "deployment.environment.name")
    known = of_series(resource_of(identity).attributes)
    given = ", ".join(f"{key}={known[key]}" for key in told if key in known)
    return f"{given}; of each process service.instance.id (of its slot), process.pid, process.creation.time"
