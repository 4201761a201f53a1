"""The settlement of claims: a job succeeds, is retried, becomes a dead letter, is archived, released, or expires.

Each is one rename or unlink out of claimed/. An operation that fails leaves the lease as it was: the file has not
moved, so it can be repeated. Only dead-lettering calls fsync: a power cut may undo any other settlement, and the job
runs again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.claim import cancelling, order
from framework.engine.spool.claim.life import Owner, Token
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.fan_ins.ends import Member, member
from framework.engine.spool.format import history
from framework.engine.spool.format.names import MAX_TIME, Name, micros
from framework.engine.spool.segments import copies
from framework.model.errors import LeaseLost
from framework.model.fan_in import ENDS, How
from framework.model.job import Failure, Job, Lease
from framework.model.outcome import CANCELLED, Kind, Outcome, Settlement

if TYPE_CHECKING:
    from framework.engine.spool.store import Spool

SUCCEEDED, DISCARDED, RELEASED, ARCHIVED, DEAD_LETTERED = (
    Kind.SUCCEEDED, Kind.DISCARDED, Kind.RELEASED, Kind.ARCHIVED, Kind.DEAD_LETTERED,
)  # fmt: skip
_PUT_BACK = (Kind.RETRIED, Kind.DEAD_LETTERED, Kind.RELEASED)
Dying = Mapping[Token, tuple[Failure, str | None]]  # by claim: why, and the dead-letter queue; None: its queue's dead/


class Settle:
    """The settlement of leases of one spool. Thread-safe as long as no two calls have the same lease."""

    def __init__(self, spool: Spool, disk: Disk, clock: Clock) -> None:
        self._spool = spool
        self._disk = disk
        self._clock = clock

    def __call__(self, done: Sequence[Settlement]) -> None:
        """Settle each lease by the kind of its outcome. Raises LeaseLost, EngineUnavailable, once all were tried."""
        settled, lost = list[Token](), list[Lease]()
        failed: list[tuple[Lease, OSError]] = []
        dying: dict[Token, tuple[Failure, str | None]] = {}
        dead_owners: dict[str, Owner] = {}
        done, together, members = self._prepared(done, failed)
        for one in done:
            lease, outcome = one.lease, one.outcome
            token: Token = lease.token
            if token.owner.dead_owner:
                dead_owners[token.owner.base] = token.owner
            if token in together or token.already_settled:
                settled.append(token)
            elif token.settled:
                lost.append(lease)
            elif outcome.kind is DEAD_LETTERED:
                assert outcome.failure is not None
                dying[token] = outcome.failure, None if lease.is_dead_letter else token.owner.queue.options.dead_letter
            else:
                try:
                    if self._one(token, lease.job, outcome):
                        settled.append(token)
                    else:
                        lost.append(lease)
                except OSError as error:
                    failed.append((lease, error))
        if dying:
            moved, errors = self._dead_letter(dying)
            settled += moved
            lease_of, left = {one.lease.token: one.lease for one in done}, dict(errors)
            failed += [(lease_of[token], error) for token, error in errors]
            lost += [lease_of[token] for token in dying if token not in moved and token not in left]
        self._tidy(dead_owners.values())
        if members:
            self._spool.ends.fire(members)
        self._tell(settled, lost, failed)

    def _prepared(
        self, done: Sequence[Settlement], failed: list[tuple[Lease, OSError]]
    ) -> tuple[Sequence[Settlement], set[Token], Sequence[Member]]:
        """Return the settlements to carry out, those that were carried out together, and the members that end."""
        if any(one.lease.job.extras.fan_in is not None for one in done):
            done, members = self._end_members(self._unless_cancelled(done, failed), failed)
            return done, self._together(done) if len(done) > 1 else set(), members
        together = self._together(done) if len(done) > 1 else set()
        if len(together) < len(done) and (len(done) > 1 or done[0].outcome.kind is not SUCCEEDED):
            done = self._unless_cancelled(done, failed)
        return done, together, ()

    def _tidy(self, dead_owners: Iterable[Owner]) -> None:
        """Remove what dead owners have left once their last lease is settled, and give back shares of limits."""
        for owner in dead_owners:
            with contextlib.suppress(OSError):  # then the next rescue() does it
                self._spool.parts(owner.queue.name).rescue.finish(owner)
        for limits in self._spool.limited:
            with contextlib.suppress(OSError):  # then the next claim does it
                limits.fit()

    def _unless_cancelled(
        self, done: Sequence[Settlement], failed: list[tuple[Lease, OSError]]
    ) -> Sequence[Settlement]:
        """Return the settlements, with CANCELLED for those that would put back a job that was cancelled meanwhile.

        Where that cannot be found out, the leases are left out, and added to `failed`.
        """
        others = [one for one in done if one.outcome.kind is not SUCCEEDED]
        back = [one.lease for one in others if one.outcome.kind in _PUT_BACK and not one.lease.token.settled]
        marked, unknown = set[Token](), set[Token]()
        for queue in {lease.queue for lease in back}:
            leases = [lease for lease in back if lease.queue == queue]
            try:
                marked.update(lease.token for lease in self._spool.parts(queue).marks.of(leases))
            except OSError as error:
                failed += [(lease, error) for lease in leases]
                unknown.update(lease.token for lease in leases)
        if not (marked or unknown):
            return done
        known = (one for one in done if one.lease.token not in unknown)
        return [Settlement(one.lease, CANCELLED) if one.lease.token in marked else one for one in known]

    def _end_members(
        self, done: Sequence[Settlement], failed: list[tuple[Lease, OSError]]
    ) -> tuple[Sequence[Settlement], Sequence[Member]]:
        """Note how members of fan-ins end, before they are settled; return the settlements to carry out, and these.

        Where that fails, the lease is left out, and added to `failed`.
        """
        ends: dict[Member, How] = {}
        leases: dict[Member, Lease] = {}
        for one in done:
            found = member(one.lease.job.queue, one.lease.job.extras)
            how = ENDS.get(one.outcome.kind)
            if found is not None and how is not None and not one.lease.token.settled:
                ends[found], leases[found] = how, one.lease
        wrong = dict(self._spool.ends.note(ends))
        failed += [(leases[one], error) for one, error in wrong.items()]
        left_out = {leases[one].token for one in wrong}
        return [one for one in done if one.lease.token not in left_out], [one for one in ends if one not in wrong]

    def _tell(self, settled: Sequence[Token], lost: Sequence[Lease], failed: Sequence[tuple[Lease, OSError]]) -> None:
        """Raise an error that names the leases that could not be settled, if there are any."""
        for token in settled:
            token.already_settled = bool(failed)
        if failed:
            for lease, _ in failed:
                self._spool.parts(lease.queue).claim.look_again()
            unavailable = self._spool.unavailable("settling", failed[0][1])
            unavailable.unsettled = (*(lease for lease, _ in failed), *lost)
            raise unavailable from failed[0][1]
        if lost:
            raise LeaseLost(lost)

    @staticmethod
    def _together(done: Sequence[Settlement]) -> set[Token]:
        """Settle successes that share a segment together. Return those settled; the others are settled one by one."""
        groups: dict[Any, list[Token]] = {}
        for one in done:
            token: Token = one.lease.token
            if one.outcome.kind is SUCCEEDED and token.segment is not None and not (token.copied or token.settled):
                groups.setdefault(token.segment, []).append(token)
        for segment, inside in groups.items():
            segment.store.finish_all(segment.entry, inside)
        return {token for inside in groups.values() for token in inside if token.settled}

    def _one(self, token: Token, job: Job, outcome: Outcome) -> bool:
        """Settle one lease; False: its claim was lost. Raises OSError."""
        kind, delay = outcome.kind, outcome.delay
        if kind is SUCCEEDED or kind is DISCARDED:
            return self._delete(token, job)
        if kind is RELEASED:
            return self.release(token, delay)
        self._leave_segment(token)
        queue = token.owner.queue
        if kind is Kind.CANCELLED:
            found = cancelling.set_aside(self._disk, queue, token.path, token.name, job, token.inode)
            with contextlib.suppress(OSError):  # maintenance finds the mark
                cancelling.sync(self._disk, queue, token.path)
                cancelling.unmark(self._disk, queue, token.name.stem)
            return self._end(token, found)
        if kind is ARCHIVED:  # a handled dead letter is archived
            return self._move(token, queue, token.name, queue.path("dead", token.entry))
        assert outcome.failure is not None
        if not self._record(token, outcome.failure, "retried"):
            return self._end(token, False)
        order.waits_again(self._disk, queue, token.name)
        now = self._clock.micros()
        name = token.name.retried(now + micros(delay))
        return self._move(token, queue, name, queue.waiting(name, now))

    def _delete(self, token: Token, job: Job) -> bool:
        if self._in_segment(token):
            return self._end(token, token.segment.store.settle(token, free=False))
        self._leave_segment(token)
        if token.name.delivery > 1:  # else it has never waited again
            order.ends(self._disk, token.owner.queue, token.name)
        if not (token.name.chosen or token.name.key):  # it has no entry, and its home may not even be there
            return self._end(token, self._disk.unlink(token.path))
        home = self._spool.queue(job.queue)
        found = keys.leave(self._disk, home, token.name, job.id, token.inode, lambda: self._disk.unlink(token.path))
        return self._end(token, found)

    def release(self, token: Token, delay: float, *, unseen: bool = False) -> bool:
        """Move the job back to its bucket or segment with its attempt unchanged; with a delay, move it to delayed/.

        Args:
            unseen: it was not claimed in its turn, so no other job of its group need wait for it.
        """
        queue, name, now = token.owner.queue, token.name, self._clock.micros()
        if delay <= 0 and self._in_segment(token):
            entry = token.segment.entry
            done: bool = token.segment.store.settle(token, free=True)
            if done:
                self._spool.parts(queue.name).listing.put_back(entry)
                self._spool.ring(queue.name)
            return self._end(token, done)
        self._leave_segment(token)
        if not unseen:
            order.waits_again(self._disk, queue, name)
        if delay > 0:
            name = name._replace(not_before=min(MAX_TIME, now + micros(delay)))
            return self._move(token, queue, name, queue.waiting(name, now))
        done = self._move(token, queue, name, queue.ready(name))
        if done:
            self._spool.parts(queue.name).listing.put_back(str(name))
        return done

    def _in_segment(self, token: Token) -> bool:
        """Return whether the job is to be settled in its segment; a copy is removed first. Raises OSError."""
        return token.segment is not None and (not token.copied or copies.forget(self._disk, token))

    def _leave_segment(self, token: Token) -> None:
        """Copy a job out of its segment into a file of its own. Raises OSError."""
        if token.segment is not None:
            for _, error in copies.leave(self._disk, [token]):
                raise error

    def expire(self, expired: Sequence[Token]) -> list[tuple[Token, OSError]]:
        """Dead-letter jobs past their ttl.

        Return those that failed: their files stay in the own directory without a lease.
        """
        members = {one: t for t in expired if (one := member(t.owner.queue.name, t.extras)) is not None}
        wrong = [(members[one], error) for one, error in self._spool.ends.note(dict.fromkeys(members, "dead"))]
        moved, failed = self._dead_letter({
            token: (self._expiry(token), token.owner.queue.options.dead_letter)
            for token in expired if token not in dict(wrong)
        })  # fmt: skip
        failed += wrong
        self._spool.ends.fire(members)
        for token in moved:
            self._spool.expired[token.owner.queue.name] += 1
        for token, _ in failed:
            token.drop()
        return failed

    def _expiry(self, token: Token) -> Failure:
        now = self._clock.wall()
        return Failure(
            attempt=token.name.attempt,
            reason="expired",
            message=f"its time to live ended {now - (token.name.expires or 0) / 1e6:.3f} s before it was claimed",
            error_type="expired",
            queue=token.owner.queue.name,
            started_at=now,
            ended_at=now,
        )

    def _dead_letter(self, dying: Dying) -> tuple[set[Token], list[tuple[Token, OSError]]]:
        """Move jobs to the dead-letter queue, or to the own dead/ where there is none.

        The record of each is durable before it moves; many jobs share their flushes. Return the jobs that moved, and
        those that failed and stay as they were; the claims of all others were lost.
        """
        failed = copies.leave(self._disk, list(dying))
        stay = {token for token, _ in failed}
        together = len(dying) - len(stay) > 1 and HAS_SYNCFS

        def record(token: Token) -> bool:
            return self._record(token, dying[token][0], "dead_lettered", sync=not together) or self._end(token, False)

        recorded = [token for token in dying if token not in stay and copies.tried(token, record, failed)]
        if together and recorded and self._disk.power:
            try:
                self._disk.calls.syncfs(self._disk.fd)
            except OSError as error:
                failed += [(token, error) for token in recorded]
                recorded = []
        moved: dict[Token, str] = {}
        for token in recorded:
            if where := copies.tried(token, lambda token: self._to_dead_letters(token, dying[token][1]), failed):
                moved[token] = where
        for directory in set(moved.values()):
            self._sync_after(directory)
        return set(moved), failed

    def _sync_after(self, directory: str) -> None:
        try:
            self._disk.sync_dir(directory)
        except OSError:
            # The job has moved, and its record is durable: a power cut may bring the claim back, but not lose the job.
            self._spool.counts["unsynced"] += 1

    def _to_dead_letters(self, token: Token, target: str | None) -> str:
        """Move a job whose record is durable. Return the directory that it is in now, or "" if the claim was lost."""
        queue = token.owner.queue
        # A new stamp: dead letters are in the order in which they were dead-lettered.
        name = token.name.restamped(self._clock.stamp())
        name = name._replace(attempt=0, not_before=self._clock.micros(), expires=None)
        if target is None:
            path = queue.path("dead", name)
        else:
            queue = self._spool.queue(target)
            path = queue.ready(name)
        # A dead letter holds no key. The entry of one that dies again is not looked for: it is in its home queue.
        entry = keys.entry(token.owner.queue, name.key) if name.key else ""
        order.ends(self._disk, token.owner.queue, token.name)
        moved = ids.leave(self._disk, entry, token.inode, lambda: self._move(token, queue, name, path))
        return os.path.dirname(path) if moved else ""

    def _record(self, token: Token, failure: Failure, outcome: str, *, sync: bool = False) -> bool:
        """Store a failure in the job's history before its outcome is carried out, so that a rescuer finds it.

        It takes a free slot or the oldest one, and is stored once for a delivery, so that a repetition is safe. Return
        False if the claim was lost.
        """
        try:
            with self._disk.opened(token.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                delivery = token.name.delivery
                kept = history.records(self._disk.calls.pread(fd, history.SLOTS * history.SLOT, token.slots_at))
                if not any(r.delivery == delivery for r in kept):
                    sequence = kept[-1].sequence + 1 if kept else 0
                    slot = history.encode_record(sequence, delivery, failure, outcome)
                    self._disk.calls.pwrite(fd, slot, token.slots_at + history.offset(sequence))
                if sync:
                    self._disk.sync(fd)
        except FileNotFoundError:
            return False
        return True

    def _move(self, token: Token, queue: QueueDir, name: Name, target: str) -> bool:
        found = self._disk.move(token.path, target)
        if found and target == queue.ready(name):
            self._spool.ring(queue.name)
        return self._end(token, found)

    def _end(self, token: Token, found: bool) -> bool:
        token.done()
        if token.name.other and (group := token.name.group):
            part = self._spool.parts(token.owner.queue.name)
            if part.listing.has_place(group):
                part.notifier.ring()
        if not found:
            self._spool.counts["lost"] += 1
        return found
