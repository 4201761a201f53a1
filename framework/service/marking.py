"""The decorators that mark a method as the handler of a queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, overload

from framework.model.errors import DeclarationError, caller_location
from framework.model.handling import Context
from framework.model.retry import Seconds, seconds
from framework.service.batching import Batching, Item

P = TypeVar("P")
W = TypeVar("W")
R = TypeVar("R", bound=Awaitable[None] | None)


class Marking(Generic[P]):
    """The part of a queue with which a service declares its handler."""

    name: str

    @overload
    def handler(self, fn: Callable[[W, P, Context], R], /) -> Callable[[W, P, Context], R]: ...
    @overload
    def handler(self, fn: Callable[[W, P], R], /) -> Callable[[W, P], R]: ...
    def handler(self, fn: Callable[..., Any] | None = None, /) -> Callable[..., Any]:
        """Mark a method as this queue's handler and return it unchanged."""
        if fn is None:
            raise DeclarationError(f"{caller_location()}: write @….handler without parentheses: queue {self.name!r}")
        self._mark(fn, None)
        return fn

    def batch_handler(
        self, misplaced: None = None, /, *, size: int = 100, wait: Seconds = 0.2
    ) -> Callable[[Callable[[W, Sequence[Item[P]]], R]], Callable[[W, Sequence[Item[P]]], R]]:
        """Mark a method as the handler of batches of this queue's jobs.

        Args:
            size: jobs that a batch has at most; a process runs at least so many at once.
            wait: seconds for which the first job of a batch waits for others, at most 60.

        Raises DeclarationError: a value is out of its range.
        """
        what = f"{caller_location()}: batch handler of queue {self.name!r}"
        if misplaced is not None:
            raise DeclarationError(f"{what}: write @….batch_handler(size=100) above the method, with parentheses")
        try:
            batching = Batching(size, seconds(wait))
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{what}: {error}") from None

        def mark(fn: Callable[[W, Sequence[Item[P]]], R]) -> Callable[[W, Sequence[Item[P]]], R]:
            self._mark(fn, batching)
            return fn

        return mark

    def _mark(self, fn: Any, batching: Batching | None) -> None:
        try:
            fn.__dict__.setdefault("__worker_queues__", []).append(self)
            fn.__dict__.setdefault("__worker_batches__", {})[id(self)] = batching
        except AttributeError:  # a class, a property, a builtin
            what = f"{caller_location()}: @….handler of queue {self.name!r} stands above"
            raise DeclarationError(f"{what} {type(fn).__name__}: a handler is a plain method") from None
