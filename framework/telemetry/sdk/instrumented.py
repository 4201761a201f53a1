"""Support for providers that other code made: opentelemetry-instrument, or the service when it is imported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from urllib.parse import quote

from opentelemetry import metrics, trace

from framework.telemetry import ProcessIdentity
from framework.telemetry.sdk.exporters import is_disabled


def has_provider() -> bool:
    """Return whether a provider of traces or metrics was set in this process."""
    sdk = sys.modules.get("opentelemetry.sdk.metrics")  # code that has made a provider has imported it
    measured = sdk is not None and isinstance(metrics.get_meter_provider(), sdk.MeterProvider)
    return measured or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def environment_of(identity: ProcessIdentity) -> Mapping[str, str]:
    """Return the variables that give a provider in a new interpreter the resource of its process.

    That provider is made there before ours. The SDK alone would make each process of a slot another instance of
    `unknown_service`. Empty where this process, which starts the new one, has no such provider.
    """
    if is_disabled() or not has_provider():
        return {}
    from framework.telemetry.sdk.resource import resource_of

    wanted = resource_of(identity).attributes
    added = [f"{key}={quote(str(wanted[key]), safe='')}" for key in ("service.name", "service.instance.id")]
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"OTEL_RESOURCE_ATTRIBUTES": ",".join([given, *added] if given else added)}


def quiet_log_handlers() -> None:
    """Remove OpenTelemetry's own handler from the root logger: our log lines already contain what it would send."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler).__module__.startswith("opentelemetry."):
            root.removeHandler(handler)
