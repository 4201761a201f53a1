"""The fan-ins of a store in memory. All that happens to them happens under the store's lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.engine.fan_in import refuse_too_large
from framework.model.extras import Extras
from framework.model.fan_in import GIVEN_UP, FanIn, How, count, member_of, released
from framework.model.job import Job

if TYPE_CHECKING:
    from framework.engine.memory.store import MemoryStore


@dataclass(slots=True)
class Gathered:
    """A fan-in: its follow-up, its number of members, whether it is sealed, when it last grew, and the ends so far."""

    follow_up: Job
    members: int = 0
    sealed: bool = False
    touched: float = 0.0
    ends: dict[int, How] = field(default_factory=dict)


class Fans:
    """The fan-ins of all queues of a store, by name. Callers hold the store's lock."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.known: dict[str, Gathered] = {}

    def end(self, extras: Extras, how: How, now: float) -> None:
        """Note how the job with these extras has ended, if it is a member whose end is not known yet."""
        member = member_of(extras)
        if member is None or (found := self.known.get(member[0])) is None:
            return
        if member[1] < found.members:
            found.ends.setdefault(member[1], how)
        self.fire(member[0], now)

    def fire(self, name: str, now: float) -> None:
        """Store the follow-up if all members have ended."""
        found = self.known[name]
        if found.sealed and len(found.ends) == found.members:
            del self.known[name]
            self._store.add(released(found.follow_up, count(found.ends.values()), now), now=now)

    def give_up(self, now: float) -> None:
        """Delete what no producer has sealed for long."""
        for name, found in list(self.known.items()):
            if not found.sealed and now >= found.touched + GIVEN_UP:
                del self.known[name]


class MemoryFanIns:
    """The `FanIns` of `framework.engine.fan_in`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def begin(self, queue: str, follow_up: Job) -> None:
        """Keep the follow-up."""
        with self._store.lock:
            self._store.shelf(queue)
            most = self._store.shelf(follow_up.queue).options.max_payload_bytes
            refuse_too_large(follow_up, most)
            self._store.fans.known.setdefault(follow_up.id, Gathered(follow_up, touched=self._clock()))

    def grow(self, queue: str, name: str, members: int) -> bool:
        """Raise the number of members."""
        with self._store.lock:
            found = self._store.fans.known.get(name)
            if found is not None and not found.sealed:
                found.members, found.touched = max(found.members, members), self._clock()
            return found is not None

    def seal(self, queue: str, name: str, members: int) -> bool:
        """Set the number of members."""
        with self._store.lock:
            found = self._store.fans.known.get(name)
            if found is not None:
                found.members, found.sealed = members, True
                self._store.fans.fire(name, self._clock())
                self._store.notify()
            return found is not None

    def drop(self, queue: str, name: str) -> None:
        """Forget the follow-up."""
        with self._store.lock:
            found = self._store.fans.known.get(name)
            if found is not None and not found.sealed:
                del self._store.fans.known[name]

    def look(self, queue: str, name: str) -> FanIn | None:
        """Return the counts of now."""
        with self._store.lock:
            found = self._store.fans.known.get(name)
            return None if found is None else FanIn(found.members, found.sealed, count(found.ends.values()))
