"""Operations on jobs with unique keys, for the enumerators, as `cases`. All jobs but `other` have one key."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from framework.engine.spool.claim import listing
from framework.model.errors import EngineError, LeaseLost
from tests.support.settling import ack, bury, rest, retry

from .odd_cases import ack_while_the_entry_is_locked, maintain
from .stage import Case, Stage
from .world import body, cut_at, failure, files, job, one

KEY = "user 7"


def enqueue(stage: Stage, how: str = "keep", **options: Any) -> None:
    """Enqueue n. What a look waits for does not happen here: nothing moves meanwhile."""
    with patch.object(listing, "RACY", 0.001):
        stage.broker.enqueue([replace(job("n", key=KEY, **options), on_conflict=how)])


def change(stage: Stage, how: str, **options: Any) -> None:
    enqueue(stage, how, payload=body("a"), **options)


def _held(stage: Stage, **options: Any) -> None:
    stage.store("a", key=KEY, **options)


def _claimed(stage: Stage, **options: Any) -> None:
    _held(stage, **options)
    stage.store("other")
    stage.held = one(stage.broker)


def _letter(stage: Stage) -> None:
    _claimed(stage)
    bury(stage.broker, stage.held, failure=failure(stage.held))
    rest(stage.broker, one(stage.broker, "letters"))
    (stage.held,) = stage.broker.browse("letters", "dead")


def _letter_of_a_taken_key(stage: Stage) -> None:
    _letter(stage)
    stage.store("b", key=KEY)


def _letter_with_an_entry(stage: Stage) -> None:
    """The one that dead-lettered it was killed before the entry was removed."""
    _claimed(stage)
    (entry,) = files(stage.root, "jobs/ids/*/*.key")
    os.link(entry, stage.root / "kept")
    bury(stage.broker, stage.held, failure=failure(stage.held))
    (stage.root / "kept").rename(entry)


def _finished(stage: Stage) -> None:
    """The one that acknowledged it was killed before the entry was removed."""
    _claimed(stage)
    (entry,) = files(stage.root, "jobs/ids/*/*.key")
    os.link(entry, stage.root / "kept")
    ack(stage.broker, [stage.held])
    (stage.root / "kept").rename(entry)
    stage.stored.remove("a")


def _dead_writer(stage: Stage, before: str) -> None:
    stage.store("other")
    cut_at(stage.root, before, lambda mine: mine.enqueue([job("n", key=KEY)]), *stage.queues)


def _dead_writer_of_a_held_key(stage: Stage) -> None:
    _dead_writer(stage, "link")
    _held(stage)


def _dead_writer_of_a_free_key(stage: Stage) -> None:
    cut_at(stage.root, "link", lambda mine: mine.enqueue([job("n", key=KEY)]), *stage.queues)
    _finished(stage)


def _restored(stage: Stage) -> None:
    """By copies: job and entry are two files."""
    _held(stage)
    (path,) = files(stage.root, "jobs/ready/*/*")
    shutil.copy(path, stage.root / "copy")
    (stage.root / "copy").rename(path)
    stage.broker._spool.parts("jobs").maintain._relink.done = False


def _bad(stage: Stage) -> None:
    _held(stage)
    (path,) = files(stage.root, "jobs/ready/*/*")
    path.rename(stage.root / "jobs" / "bad" / path.name)
    stage.stored.clear()
    (stage.held,) = stage.broker.browse("jobs", "bad")


def _half_changed(stage: Stage) -> None:
    """The one that changed it was killed: the new file and the old one are in tmp."""
    _held(stage)
    other = replace(job("n", key=KEY, payload=body("a")), on_conflict="replace")
    cut_at(stage.root, "link", lambda mine: mine.enqueue([other]), *stage.queues)


def _taken_while_it_ran(stage: Stage) -> None:
    _claimed(stage, until="started")
    stage.store("b", key=KEY, until="started")


def _replay(stage: Stage) -> None:
    if not stage.broker.replay(stage.held):
        raise LeaseLost([])


def _retry(stage: Stage) -> None:
    retry(stage.broker, stage.held, delay=3600, failure=failure(stage.held))


def _restore(stage: Stage) -> None:
    if why := stage.broker.restore(stage.held):
        raise EngineError(why)


KEY_CASES = (
    Case("enqueue a key", lambda s: s.store("other"), enqueue, enqueues=("n",)),
    Case("enqueue a key for a time", lambda s: s.store("other"), lambda s: enqueue(s, until="60"), enqueues=("n",)),
    Case("enqueue a delayed key", lambda s: s.store("other"), lambda s: enqueue(s, delay=3600), enqueues=("n",)),
    Case("enqueue a held key", _held, enqueue),
    Case("enqueue a key that is held while it runs", _claimed, enqueue),
    Case("enqueue a key that is held for a time", lambda s: _held(s, until="60"), enqueue),
    Case("enqueue a started key", lambda s: _claimed(s, until="started"), enqueue, enqueues=("n",)),
    Case("enqueue a finished key", _finished, enqueue, enqueues=("n",)),
    Case("enqueue the key of a dead letter", _letter_with_an_entry, enqueue, enqueues=("n",)),
    Case("enqueue the key of a dead writer", lambda s: _dead_writer(s, "rename"), enqueue, ("n",), left=("n",)),
    Case("enqueue the key of a restored job", _restored, enqueue),
    Case("replace a job", _held, lambda s: change(s, "replace")),
    Case("replace a delayed job", lambda s: _held(s, delay=3600), lambda s: change(s, "replace")),
    Case("postpone a job", _held, lambda s: change(s, "postpone", delay=3600)),
    Case("replace a half changed job", _half_changed, lambda s: change(s, "replace")),
    Case("recover a half changed job", _half_changed, maintain),
    Case("ack a key", _claimed, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("ack a key that another has", _taken_while_it_ran, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("ack while the key is locked", _claimed, ack_while_the_entry_is_locked, deletes=("a",)),
    Case("bury a key", _claimed, lambda s: bury(s.broker, s.held, failure=failure(s.held))),
    Case("retry a key", _claimed, _retry),
    Case("replay a key", _letter, _replay),
    Case("replay a key that another has", _letter_of_a_taken_key, _replay),
    Case("discard a key", _letter, lambda s: s.__setattr__("held", s.broker.discard(s.held)), deletes=("a",)),
    Case("recover a key", lambda s: _dead_writer(s, "link"), maintain, enqueues=("n",)),
    Case("recover a held key", _dead_writer_of_a_held_key, maintain),
    Case("recover a free key", _dead_writer_of_a_free_key, maintain, enqueues=("n",)),
    Case("restore links of keys", _restored, maintain),
    Case("sweep a key", _finished, maintain),
    Case("restore a bad file with a key", _bad, _restore, enqueues=("a",), bad=1),
)  # fmt: skip
