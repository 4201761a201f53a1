"""Stored payloads and the models of a new version: which of the jobs that lie in the store now could it not read?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from framework.admin.store import Declared, Store
from framework.engine.declarations import Declaration, Declarations
from framework.engine.port import JobView, QueueStats, State
from framework.model.extras import Extras
from framework.model.job import Job
from framework.service.codec import UndecodablePayload
from framework.service.codec.complaints import explain_other
from framework.service.codec.upgrades import Reader, reader_of
from framework.service.options import name_of

STATES: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
MOST_CAUSES = 3  # of a group, by their number


@dataclass
class Group:
    """The jobs of one home queue that one version of a model has made.

    Attributes:
        fingerprint, version: of the model and the service that enqueued them; empty: unknown.
        own: the fingerprint is that of the new model.
        upgraded: an upgrade function is for them.
        jobs: how many there are. tried: how many payloads were tried, the oldest ones of each state.
        unreadable: how many of those the new model cannot read. causes: why not, without values, and how often.
    """

    queue: str
    fingerprint: str
    version: str
    own: bool
    upgraded: bool
    jobs: int = 0
    tried: int = 0
    unreadable: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    def add(self, cause: str) -> None:
        """Note the result of a try; empty: the payload can be read."""
        self.tried += 1
        if cause:
            self.unreadable += 1
            self.causes[cause] += 1


@dataclass(frozen=True, slots=True)
class Missing:
    """A queue with jobs that the new version does not declare.

    Attributes:
        declared_by: the services that declared it last. dropped: this service is one of them.
    """

    queue: str
    stats: QueueStats
    declared_by: tuple[str, ...]
    dropped: bool


def groups(store: Store, samples: int) -> list[Group]:
    """Return the jobs of the service's queues by queue, fingerprint and version, with the payloads tried.

    Args:
        samples: how many payloads of a group to try; all are counted.
    """
    declared = store.declared
    assert declared is not None
    readers = _readers(declared)
    found: dict[tuple[str, str, str], Group] = {}
    for view in _jobs(store):
        reader = readers.get(view.job.queue)
        if reader is None:  # a dead letter of another service
            continue
        extras = view.job.extras
        key = view.job.queue, extras.fingerprint or "", extras.version or ""
        if (group := found.get(key)) is None:
            group = found[key] = _group(key, reader, extras)
        group.jobs += 1
        if group.tried < samples:
            group.add(cause_of(reader, view.job))
    order = list(declared.options)
    return sorted(found.values(), key=lambda one: (order.index(one.queue), one.version, one.fingerprint))


def missing(store: Store) -> list[Missing]:
    """Return the queues with jobs that the service does not declare, also those that a running service declares."""
    declared, engine = store.declared, store.engine
    assert declared is not None
    own = name_of(declared.app)
    known: Sequence[Declaration] = ()
    if isinstance(engine, Declarations):
        known = store.read(engine.declarations, known)
    found = []
    for name in store.undeclared():
        by = tuple(one.service for one in known if name in one.queues)
        stats = store.stats(name)
        if stats.jobs:
            found.append(Missing(name, stats, by, own in by))
    return found


def cause_of(reader: Reader, job: Job) -> str:
    """Return why a payload cannot be read: declared fields and pydantic's error types; empty: it can be read."""
    try:
        reader(job)
    except UndecodablePayload as error:
        return str(error)
    except Exception as error:
        return explain_other(error)
    return ""


def _readers(declared: Declared) -> dict[str, Reader]:
    return {
        name: reader_of(declared.queues[name], replace(options, full_errors=False))
        for name, options in declared.options.items()
        if not options.is_dead_letter
    }


def _jobs(store: Store) -> Iterator[JobView]:
    """Yield all jobs of the service's queues that this version of the framework can read."""
    for name in store.own:
        for state in STATES:
            views = store.each(store.engine.browse(name, state))
            yield from (view for view in views if not view.newer)


def _group(key: tuple[str, str, str], reader: Reader, extras: Extras) -> Group:
    return Group(*key, own=reader.is_own_model(extras), upgraded=reader.upgrade_of(extras) is not None)
