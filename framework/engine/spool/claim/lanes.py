"""The runnable jobs of a queue with groups: a lane for each group, in order, and lanes take turns.

A job's name has a hash of its group, and such a job always has a file of its own, so names alone tell all: what waits
in ready/, and what is claimed in claimed/, also by dead owners until their rescue. Nothing else is counted or kept, so
a process that is killed leaves nothing to repair. Where groups have a limit, one process of the queue claims at a time
(`Limits.alone`): it lists what the others have claimed, and takes from lanes with room. For the strict order see
`order.py`.

Jobs without a group are one more lane, in the order of any queue. Lanes are this process's own: they are extended by
what the listings of buckets have more than at the last look, and made anew now and then, because names may come back.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from framework.engine.spool.claim import order
from framework.engine.spool.claim.life import Owner
from framework.engine.spool.claim.listing import FULL_LOOK, LEAST_AGE, Listing, Names, first_there
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.clock import HORIZON, Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names
from framework.model.extras import USUAL
from framework.model.limits import Groups

LOOK = 0.05  # seconds until the next claim, where jobs wait for others of their groups
NEVER = float("inf")
_ALONE = ""  # the lane of the jobs without a group


class Lanes(Listing):
    """A listing that hands out the jobs of groups in turns, if the queue's declaration has groups.

    Attributes:
        patience: seconds until a claim is worth it, where the last one met lanes without room; else infinite.
    """

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, setbacks: Setbacks) -> None:
        super().__init__(disk, queue, clock, setbacks=setbacks)
        self._queue = queue
        self._lanes: dict[str, deque[str]] = {}
        self._turn: deque[str] = deque()
        self._full: set[str] = set()  # out of turn until the next claim
        self._blocked: set[str] = set()  # out of turn until the next look, because their next job is not listed
        self._claimers = Names(disk, f"{queue.base}/claimed")
        self._freed: list[str] = []  # lanes whose job another thread has settled
        self._running: Counter[str] = Counter()
        self._seen: dict[str, list[str]] = {}  # the names of each bucket that are in the lanes, or were
        self._elsewhere: dict[str, str] = {}  # buckets that do not follow from the name
        self._waiting = 0
        self._last = _ALONE
        self._look_at = self._anew_at = 0.0
        self.patience = NEVER

    def __len__(self) -> int:
        """Return how many names are left, as far as this process knows."""
        return super().__len__() + self._waiting

    def path(self, entry: str) -> str:
        """Return the path of an entry, relative to the root."""
        bucket = self._elsewhere.get(entry)
        return super().path(entry) if bucket is None else f"{self._base}/{bucket}/{entry}"

    def begin(self, owner: Owner, *, stranded: bool) -> None:
        """Count what is claimed: a claim from groups with a limit begins, and no other is under way. Raises OSError.

        Args:
            stranded: the owner's directory may hold jobs of which it has no lease.
        """
        base, own = f"{self._queue.base}/claimed", [] if stranded else list(owner.tokens)
        self._running = Counter(names.group_of(entry) for entry in own if names.GROUP in entry)
        for wid in self._claimers():
            if not wid.endswith(".lock") and (stranded or wid != owner.wid):
                entries = self._disk.listdir(f"{base}/{wid}")
                self._running.update(names.group_of(entry) for entry in entries if names.GROUP in entry)
        self._turn.extendleft(self._full)
        self._full.clear()
        self.patience = NEVER

    def take(self) -> str | None:
        """Return the next entry of the lane whose turn it is, or None if no lane has one. Raises OSError."""
        groups = self._queue.options.groups
        if groups is None:
            return super().take()
        if time.monotonic() >= self._look_at:
            self._look()
        entry = self._next(groups)
        if entry is None:
            self._look()
            entry = self._next(groups)
        return entry

    def _next(self, groups: Groups) -> str | None:
        while self._freed:
            if (group := self._freed.pop()) in self._blocked:
                self._blocked.discard(group)
                self._turn.append(group)
        for _ in range(len(self._turn)):
            group = self._turn.popleft()
            try:
                entry = super().take() if group == _ALONE else self._first(group, groups)
            except OSError:
                self._turn.append(group)
                raise
            if entry is not None:
                self._turn.append(group)
                self._last = group
                return entry
        if self._full or self._blocked:
            self.patience = LOOK
        return None

    def _first(self, group: str, groups: Groups) -> str | None:
        """Take the next entry of a lane; None: it has none that may run, and is out of turn."""
        lane = self._lanes[group]
        if not lane:
            del self._lanes[group]
            return None
        if groups.limit is not None and self._running[group] >= groups.limit:
            self._full.add(group)
            return None
        if groups.strict and (stem := order.next_of(self._disk, self._queue, group)):
            if (first := next((entry for entry in lane if entry.startswith(f"{stem},")), None)) is None:
                self._blocked.add(group)
                return None
            lane.remove(first)
            lane.appendleft(first)
        self._running[group] += 1
        self._waiting -= 1
        return lane.popleft()

    def gone(self) -> None:
        """Note that another process has claimed the last entry: its lane has another turn."""
        if self._last != _ALONE and self._turn and self._turn[-1] == self._last:
            self._running[self._last] -= 1
            self._turn.rotate()

    def skip_gone(self) -> None:
        """Skip the entries of the last lane that other processes have claimed."""
        if self._last == _ALONE:
            super().skip_gone()
        elif lane := self._lanes.get(self._last):
            for _ in range(first_there(lambda at: self._disk.is_there(self.path(lane[at])), 0, len(lane))):
                lane.popleft()
                self._waiting -= 1

    def put_back(self, entry: str) -> None:
        """Put a released entry back: for one of a group, the next claim looks, because its name is new."""
        if names.GROUP in entry and self._queue.options.groups is not None:
            self._look_at = 0.0
        else:
            super().put_back(entry)

    def has_place(self, group: str) -> bool:
        """Note that a job of a group has ended; return whether others wait for that in this process. Thread-safe."""
        if group in self._blocked:
            self._freed.append(group)
        return group in self._full or group in self._blocked

    def _alone(self, entries: list[str]) -> list[str]:
        if self._queue.options.groups is None:
            return entries
        return [entry for entry in entries if names.GROUP not in entry]

    def _look(self) -> None:
        """Add to the lanes what has come to ready/ since the last look."""
        began, start = self._clock.text(), time.monotonic()
        buckets = self._buckets.all()
        if self._buckets.paused or start >= self._anew_at:
            self._lanes = {group: deque() for group in self._lanes}
            self._seen, self._elsewhere, self._waiting = {}, {}, 0
            self._anew_at = 0.0
        found: dict[str, list[str]] = {}
        for bucket in () if self._buckets.paused else buckets:
            self._add_new(bucket, began, found)
        for gone in self._seen.keys() - set(buckets):
            del self._seen[gone]
        for group, new in found.items():
            self._extend(group, sorted(new, key=names.order))
        self._turn.extend(self._blocked)
        self._blocked.clear()
        if _ALONE not in self._turn:
            self._turn.append(_ALONE)
        now = time.monotonic()
        if not self._anew_at:
            self._anew_at = now + max(FULL_LOOK, 50 * (now - start))
        self._look_at = now + max(LEAST_AGE, 50 * (now - start))

    def _add_new(self, bucket: str, began: str, found: dict[str, list[str]]) -> None:
        """Add the new names of a bucket to those found in each group; names stamped since the look began wait."""
        entries, seen = self._buckets.names(bucket), self._seen.get(bucket)
        if entries is seen or self._buckets.waits(bucket):
            return
        horizon, later = f"{int(began) + HORIZON:020d}", set[str]()
        for entry in entries if seen is None else set(entries).difference(seen):
            if names.GROUP not in entry or entry in self._foreign:
                continue
            if began <= entry[: len(began)] and entry[: len(began)] <= horizon:  # later: no clock has made its stamp
                later.add(entry)
                continue
            found.setdefault(names.group_of(entry), []).append(entry)
            priority = names.priority_of(entry)
            if bucket != (entry[: names.BUCKET_DIGITS] if priority == USUAL else names.bucket_of(priority)):
                self._elsewhere[entry] = bucket
        self._seen[bucket] = [entry for entry in entries if entry not in later] if later else entries

    def _extend(self, group: str, new: list[str]) -> None:
        lane = self._lanes.get(group)
        if lane is None:
            self._lanes[group] = deque(new)
            self._turn.append(group)
        elif not lane or names.order(lane[-1]) <= names.order(new[0]):
            lane.extend(new)
        else:
            self._lanes[group] = deque(sorted([*lane, *new], key=names.order))
        self._waiting += len(new)
