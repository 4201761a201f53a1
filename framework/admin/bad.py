"""Stored files that cannot be read, of all queues of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import WorkerError


def files(store: Store, queue: str = "", after: str = "") -> Iterator[tuple[str, JobView]]:
    """Yield the bad files, each with the position behind it. Raises UsageError: no such queue, or no such position.

    Failed reads are noted in the store.

    Args:
        queue: only of this queue.
    """
    begin, _, cursor = after.partition(":")
    names = [store.name(queue)] if queue else store.names()
    if after:
        names = names[names.index(store.name(begin)) :]
    for name in names:
        for view in store.each(store.engine.browse(name, "bad", after=cursor)):
            yield f"{name}:{view.cursor}", view
        cursor = ""


def find(store: Store, names: Sequence[str], queue: str = "") -> list[JobView]:
    """Return the bad files with these names. Raises WorkerError: one is missing; UsageError: no such queue."""
    queues = [store.name(queue)] if queue else store.names()
    found = {}
    for name in dict.fromkeys(names):
        for one in queues:
            view = store.read(lambda one=one, name=name: store.engine.find(one, name, "bad"), None)  # type: ignore[misc]
            if view is not None:
                found[name] = view
                break
        else:
            raise WorkerError(f"there is no bad file {name[:100]!r}: see `worker bad list`")
    return list(found.values())
