"""Processes whose providers somebody else made: opentelemetry-instrument, or the service when it is imported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from urllib.parse import quote

from opentelemetry import metrics, trace

from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.sdk.exporters import is_disabled


def has_provider() -> bool:
    """Whether a provider of traces or metrics was set in this process."""
    sdk = sys.modules.get("opentelemetry.sdk.metrics")  # whoever has made one has imported it
    measured = sdk is not None and isinstance(metrics.get_meter_provider(), sdk.MeterProvider)
    return measured or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def environment_of(identity: ProcessIdentity) -> Mapping[str, str]:
    """What a fresh interpreter needs in its environment, so that a provider that is made there before us has the
    resource of the process: the SDK alone would call each life of a slot another instance of `unknown_service`.

    Empty where this process, which starts it, has no such provider.
    """
    if is_disabled() or not has_provider():
        return {}
    from framework.telemetry.sdk.resource import resource_of

    wanted = resource_of(identity).attributes
    added = [f"{key}={quote(str(wanted[key]), safe='')}" for key in ("service.name", "service.instance.id")]
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"OTEL_RESOURCE_ATTRIBUTES": ",".join([given, *added] if given else added)}


def quiet_log_handlers() -> None:
    """Takes OpenTelemetry's own handler away from the root logger: what it would send is sent as our lines are."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler).__module__.startswith("opentelemetry."):
            root.removeHandler(handler)
