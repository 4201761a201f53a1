"""Operations on jobs of groups in strict order, for the enumerators, as `cases`."""

from __future__ import annotations

from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import LeaseLost
from tests.support.settling import ack, bury, retry

from .odd_cases import maintain, reopen, rescue
from .stage import Case, Stage
from .world import LETTERS, OVER, STRICT, claim, dead_owner, failure, job, one

GROUP = "acme"
QUEUES = (STRICT, LETTERS)


def stored(stage: Stage) -> None:
    stage.store("other")
    stage.store("a", "b", group=GROUP)


def claimed(stage: Stage) -> None:
    stage.store("a", "b", group=GROUP)
    stage.held = one(stage.broker)


def _claimed_without_the_directory(stage: Stage) -> None:
    claimed(stage)
    (stage.root / "jobs" / "groups").rmdir()


def waiting(stage: Stage) -> None:
    """The first of the group waits for its retry."""
    claimed(stage)
    retry(stage.broker, stage.held, delay=3600, failure=failure(stage.held))
    (stage.held,) = stage.broker.browse("jobs", "delayed")


def again(stage: Stage) -> None:
    """The first of the group runs for the second time."""
    claimed(stage)
    retry(stage.broker, stage.held, delay=0, failure=failure(stage.held))
    stage.held = one(stage.broker)


def _marked(stage: Stage) -> None:
    """A mark is left whose job is gone."""
    claimed(stage)
    directory = stage.root / "jobs" / "groups"
    (mark,) = {entry.name.partition(",g")[2][:16] for entry in (stage.root / "jobs").glob("claimed/*/*")}
    (directory / mark).symlink_to("00000000000000000001.00000000.1.000000000000")


def _marked_and_stored(stage: Stage) -> None:
    _marked(stage)
    ack(stage.broker, [stage.held])
    stage.stored.remove("a")


def _beside_others(stage: Stage) -> None:
    """A dead owner has a job of the group."""

    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a", group=GROUP), job("b", group=GROUP), job("other")])
        claim(mine, limit=1)

    dead_owner(stage.root, live, *QUEUES)
    stage.stored += ["a", "b", "other"]


def _gone(stage: Stage) -> None:
    """Another process has claimed what this one has listed."""
    stage.store("e", group="umbrella")
    stage.store("a", "b", "c", "d", group=GROUP)
    one(stage.broker)

    def live(other: SpoolEngine) -> None:
        for _ in "abc":
            ack(other, claim(other))

    dead_owner(stage.root, live, *QUEUES)
    stage.stored = ["e", "d"]


def _retry(stage: Stage) -> None:
    retry(stage.broker, stage.held, delay=3600, failure=failure(stage.held))


def _discard(stage: Stage) -> None:
    if not stage.broker.discard(stage.held):
        raise LeaseLost([])


def _cancel(stage: Stage) -> None:
    if stage.broker.cancel(stage.held) != "cancelled":
        raise LeaseLost([])


def _claim(stage: Stage) -> None:
    stage.held = claim(stage.broker)


GROUP_CASES = tuple(
    Case(f"group: {name}", prepare, act, queues=QUEUES, **more)  # type: ignore[arg-type]
    for name, prepare, act, more in (
        (
            "enqueue",
            lambda s: s.store("other"),
            lambda s: s.broker.enqueue([job("n", group=GROUP)]),
            {"enqueues": ("n",)},
        ),
        ("claim", stored, _claim, {}),
        ("claim beside a dead owner", _beside_others, _claim, {}),
        ("claim what is gone", _gone, _claim, {}),
        ("claim behind a mark", _marked, _claim, {}),
        ("ack", claimed, lambda s: ack(s.broker, [s.held]), {"deletes": ("a",)}),
        ("ack a second attempt", again, lambda s: ack(s.broker, [s.held]), {"deletes": ("a",)}),
        ("retry", claimed, _retry, {}),
        ("retry without the directory", _claimed_without_the_directory, _retry, {}),
        ("retry over a mark", _marked, _retry, {}),
        ("retry again", again, _retry, {}),
        ("release", claimed, lambda s: s.broker.release([s.held]), {}),
        ("release later", again, lambda s: s.broker.release([s.held], delay=3600), {}),
        ("bury", again, lambda s: bury(s.broker, s.held, failure=failure(s.held)), {}),
        ("rescue", _beside_others, rescue, {}),
        ("cancel", waiting, _cancel, {"deletes": ("a",), "cancels": True}),
        ("discard", waiting, _discard, {"deletes": ("a",)}),
        ("sweep", _marked_and_stored, maintain, {}),
        ("expire", lambda s: s.store("a", "b", group=GROUP, ttl=OVER), maintain, {}),
        ("open", _claimed_without_the_directory, reopen, {}),
    )
)
