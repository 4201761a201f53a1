"""The bus that hands each event to its subscribers."""

from __future__ import annotations

from collections.abc import Callable

from framework.model.events import Event

Subscriber = Callable[[Event], None]


class Bus:
    """A list of subscribers that get each event in order. An error in a subscriber never reaches the emitter."""

    __slots__ = ("_subscribers", "errors")

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)
        self.errors = 0

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:  # counted: telemetry must never stop a job
                self.errors += 1
