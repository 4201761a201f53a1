"""What actors have said, and whether a spool that was found after a power cut agrees with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from framework.engine.port import JobView
from framework.engine.spool.engine import SpoolEngine
from framework.model.job import Job

from .traffic import QUEUES, body, is_torn, key_of, last_words

MOST_RECORDS = 11  # a history keeps the first and ten more


def id_of(key: str) -> str:
    """The job id in a key."""
    return key.partition("#")[0]


@dataclass
class ActorLedger:
    """All ledgers together.

    Attributes:
        begun: keys whose enqueue began. refused: keys that were *not queued*.
        promised: for each id, when the enqueue began that returned last: a job of that id exists from then on.
        deleting: for each id, when a deletion ended last, or its process. deleted: keys.
        buried: keys whose bury returned.
    """

    begun: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    promised: dict[str, int] = field(default_factory=dict)
    deleting: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    buried: set[str] = field(default_factory=set)
    _read: Counter[Path] = field(default_factory=Counter)
    _under_way: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))

    def read(self, ledgers: Path) -> None:
        """All that was added since the last time."""
        for path in ledgers.iterdir():
            with path.open("rb") as file:
                file.seek(self._read[path])
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            for line in whole.decode().splitlines():
                self._note(path, *line.split(" "))

    def _note(self, path: Path, sign: str, key: str, when: str) -> None:
        if sign == "!":
            self.begun.add(key)
        elif sign == "+":
            self.promised[id_of(key)] = max(int(when), self.promised.get(id_of(key), 0))
        elif sign == "~":
            self.refused.add(key)
        elif sign == "-":
            self._under_way[path].add(id_of(key))
            self.deleted.add(key)
        elif sign in "=x":
            over = self._under_way.pop(path, set()) if sign == "x" else {id_of(key)}
            self._under_way[path] -= over
            for job_id in over:
                self.deleting[job_id] = max(int(when), self.deleting.get(job_id, 0))
        elif sign == "B":
            self.buried.add(key)

    def must(self) -> dict[str, int]:
        """Ids that were promised and that nobody has deleted since, as far as was read; and when it was last deleted.

        An id that is there at two looks was there all the time between only if the second is the same.
        A deletion that began before the promise may end after it: until then the id is a duplicate, and rightly so.
        """
        open_ = set().union(*self._under_way.values())
        found = ((job_id, began, self.deleting.get(job_id, 0)) for job_id, began in self.promised.items())
        return {job_id: over for job_id, began, over in found if over < began and job_id not in open_}

    def said(self) -> Said:
        """As far as was read."""
        return Said(frozenset(self.refused), frozenset(self.buried - self.deleted))

    def forget_done(self) -> None:
        """Ids that are deleted need not be kept: the ledger of ten thousand cuts stays small."""
        for job_id in [i for i in self.promised if not i.startswith("chosen") and i in self.deleting]:
            del self.promised[job_id]
        self.buried -= self.deleted


@dataclass
class Finding:
    """What was found in a spool.

    Attributes:
        broken: promises that were not kept, one line each.
        jobs, letters: how many.
        again: jobs that were there twice, or again beside the successor of their id: they run again.
    """

    broken: list[str] = field(default_factory=list)
    jobs: int = 0
    letters: int = 0
    again: int = 0


@dataclass(frozen=True)
class Said:
    """What had been said before the power was cut; what is read later may have been said after the cut.

    Attributes:
        refused: keys that were *not queued*. buried: keys whose bury had returned.
    """

    refused: frozenset[str]
    buried: frozenset[str]


def examine(broker: SpoolEngine, must: set[str], ledger: ActorLedger, said: Said) -> Finding:
    """Compares a recovered spool with what the actors wrote down."""
    finding = Finding()
    views = [
        view
        for queue in QUEUES
        for state in ("ready", "delayed", "in_flight", "dead")
        for view in broker.browse(queue.name, state)  # type: ignore[arg-type]
    ]
    finding.jobs = len(views)
    keys = [key_of(view.job.payload) for view in views]
    present = {view.job.id for view in views}
    finding.broken += [f"{job_id} was acknowledged and is gone" for job_id in sorted(must - present)]
    finding.broken += [f"{key} was not queued and is there" for key in keys if key in said.refused]
    finding.broken += [f"{key} was never enqueued" for key in keys if key not in ledger.begun]
    finding.broken += [f"{view.job.id} is torn" for view in views if is_torn(view.job.payload)]
    for view in views:
        _check_letter(view, said.buried, finding)
    finding.again += len(keys) - len(set(keys))
    _check_ids(views, ledger, finding)
    bad = sum(broker.stats(queue.name).bad for queue in QUEUES)
    if bad:
        finding.broken.append(f"{bad} files in bad/")
    return finding


def _check_letter(view: JobView, buried: frozenset[str], finding: Finding) -> None:
    key = key_of(view.job.payload)
    start = last_words(key)
    words = [failure.message.startswith(start) for failure in view.job.history]
    if view.queue == "letters" or view.state == "dead":
        finding.letters += 1
        # Behind its last words may stand that a worker died which had claimed it: the cut came between claim and end.
        later = [failure.message for failure in view.job.history if not failure.message.startswith(start)]
        if not any(words) or not (words[-1] or later[-1] == "its worker died"):
            finding.broken.append(f"letter {key} has lost its last record: {later}")
    if key in buried and not any(words) and len(view.job.history) < MOST_RECORDS:
        finding.broken.append(f"{key} was buried, and no record says so")


def _check_ids(views: list[JobView], ledger: ActorLedger, finding: Finding) -> None:
    """A second job of an id may only be one whose deletion had begun: an ack is not synced."""
    by_id: dict[str, set[str]] = defaultdict(set)
    for view in views:
        if view.job.chosen_id:
            by_id[view.job.id].add(key_of(view.job.payload))
    for job_id, keys in by_id.items():
        if len(keys) > 1:
            finding.again += len(keys) - 1
            if len(keys - ledger.deleted) > 1:
                finding.broken.append(f"{job_id} is there as {', '.join(sorted(keys))}")


def try_ids(broker: SpoolEngine, finding: Finding, make: list[Job]) -> None:
    """Enqueues chosen ids again: whoever is there stays alone, whoever is not comes."""

    def census() -> Counter[str]:
        states = ("ready", "delayed", "in_flight", "dead")
        views = (v for q in QUEUES for s in states for v in broker.browse(q.name, s))  # type: ignore[arg-type]
        return Counter(view.job.id for view in views if view.job.chosen_id)

    before = census()
    broker.enqueue(make)
    after = census()
    for job in make:
        if after[job.id] != max(1, before[job.id]):
            finding.broken.append(f"{job.id}: {before[job.id]} before it was enqueued again, {after[job.id]} after")


def claim_all(broker: SpoolEngine, finding: Finding) -> None:
    """Nothing torn is ever handed out."""
    for queue in QUEUES:
        for lease in broker.claim([queue.name], limit=10_000, wait=0):
            if lease.job.payload != body(key_of(lease.job.payload)):
                finding.broken.append(f"{lease.job.id} was handed out torn")
