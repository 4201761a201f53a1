"""The trace context in the environment of the programs that handlers start, as the W3C names it for carriers.

A program that reads TRACEPARENT (most SDKs and command-line tools do) then shows in the trace of its job.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, Final

from opentelemetry import propagate, trace

NAMES: Final = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")
_ENV: Final = 10  # the place of `env` among the arguments of Popen


def carry_context() -> None:
    """Let `subprocess`, and asyncio's subprocesses, hand the current context to the programs that this process starts.

    Only the environment of the new program is changed, and only where a span is current. `multiprocessing`, os.system
    and os.posix_spawn start programs by themselves: they are left alone.
    """
    start = subprocess.Popen.__init__
    if getattr(start, "carries_context", False):
        return

    @wraps(start)
    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) <= _ENV:
            with suppress(Exception):  # a propagator of the host's failed: the program starts without
                kwargs["env"] = environment(kwargs.get("env"))
        start(self, *args, **kwargs)

    started.carries_context = True  # type: ignore[attr-defined]
    subprocess.Popen.__init__ = started  # type: ignore[method-assign]


def environment(given: Mapping[Any, Any] | None) -> Mapping[Any, Any] | None:
    """Return the environment for a program: as given, with the current context; None: as this process has it.

    What a caller has put there itself stays; what this process has inherited does not.
    """
    if not trace.get_current_span().get_span_context().is_valid:
        return given
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    carried = {key.upper().replace("-", "_"): value for key, value in carrier.items()}
    inherited = os.environ
    base = inherited if given is None else given
    own = {key for key in (*NAMES, *carried) if key in base and base[key] != inherited.get(key)}
    kept = {key: value for key, value in base.items() if key in own or key not in NAMES}
    return {**kept, **{key: value for key, value in carried.items() if key not in own}}
