"""The SDK's providers, made when something first uses them: most handlers never do, and they cost each worker memory.

They are the SDK's own classes, because libraries check for those. Until the first use a provider has no attributes, so
the first one that is missed makes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property, partial
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler


class _Lazy:
    """A mixin before a provider's class. `arguments`: returns the arguments of its constructor, and must not raise."""

    def __init__(self, arguments: Callable[[Any], dict[str, Any]]) -> None:
        self._arguments = arguments
        self._made = False
        self._maker = 0
        self._making = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        """In a forked child, whose parent may have been making the provider in another thread: make it anew."""
        if not self._made:
            self._making, self._maker = threading.Lock(), 0

    def open(self) -> None:
        """Make the provider, once. Raises what making it raises."""
        with self._making:
            if not self._made:
                self._maker = threading.get_ident()
                super().__init__(**self._arguments(self), shutdown_on_exit=False)  # type: ignore[call-arg]
                self._made = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._maker == threading.get_ident():
            raise AttributeError(name)
        if not self._made:
            # In a thread of its own: a soft timeout may interrupt the handler at any moment, with the lock held.
            thread = threading.Thread(target=self.open, name="opentelemetry", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are available
                self.open()
            else:
                thread.join()
        with suppress(KeyError):
            return self.__dict__[name]
        raise AttributeError(name)


class LazyTracerProvider(_Lazy, TracerProvider):
    """A provider whose tracers make it when they start their first span."""

    def __init__(self, arguments: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__(arguments)
        self.sampler = sampler()

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        make = partial(super().get_tracer, *args, **kwargs)
        return make() if self._made else _LazyTracer(make)


def sampler() -> Sampler:
    """Return the sampler that the variables name. The supervisor calls this for its children."""
    return _sampler(os.environ.get("OTEL_TRACES_SAMPLER"), os.environ.get("OTEL_TRACES_SAMPLER_ARG"))


@cache
def _sampler(_name: str | None, _argument: str | None) -> Sampler:
    """The SDK has no public function for it."""
    return TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False).sampler


class LazyMeterProvider(_Lazy, MeterProvider):
    """A provider that is made when something asks it for a meter."""


class _LazyTracer(trace.Tracer):
    def __init__(self, make: Callable[[], trace.Tracer]) -> None:
        self._make = make

    @cached_property
    def _real(self) -> trace.Tracer:
        return self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._real.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._real.start_as_current_span(*args, **kwargs)
