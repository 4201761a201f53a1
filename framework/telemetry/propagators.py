"""OTEL_PROPAGATORS is read when `opentelemetry.propagate` is first imported, which fails at a name that is not
installed: that must cost neither a service its start nor a producer its job."""

from __future__ import annotations

import importlib
import logging
import os

_VARIABLE = "OTEL_PROPAGATORS"
_complaint = ""


def settle() -> str:
    """Imports it; with the default where the variable cannot be followed, here and in what this process starts.

    Returns:
        A line that says so; empty: there is nothing to say. The same again at each call.
    """
    global _complaint
    try:
        importlib.import_module("opentelemetry.propagate")
    except Exception as error:
        value = os.environ.pop(_VARIABLE, None)
        if value is None:
            raise
        logging.getLogger("opentelemetry.propagate").debug("%s=%s", _VARIABLE, value, exc_info=error)
        importlib.import_module("opentelemetry.propagate")
        _complaint = f"{_VARIABLE}={value!r} cannot be followed ({error}): tracecontext and baggage are used"
    return _complaint
