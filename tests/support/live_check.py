"""Lets a tree of `tests/support/services/everything.py` do all that it can, so that every name of ours is emitted."""

from __future__ import annotations

from contextlib import closing

from framework.runner.connecting import open_producer
from framework.service.settings import Settings
from tests.support.receiver import Receiver
from tests.support.services.everything import ACTS, Act, Everything, Newer, Other
from tests.support.tree import Tree

MODULE = "tests.support.services.everything:Everything"


def do_everything(tree: Tree, receiver: Receiver, **environ: str) -> None:
    """Start the tree, whose telemetry goes to the receiver, and wait until the attempts that come of it are there."""
    tree.app = Everything
    tree.environ |= {"OTEL_SDK_DISABLED": "false", "WORKER_JOB_COSTS": "true", "WORKER_ACTOR": "ada"}
    tree.start(module=MODULE, WORKER_VERSION="1", **environ)
    for act in ACTS:
        tree.enqueue(Everything.plain, Act(act=act))
    for number in range(10):
        tree.enqueue(Everything.weak, number)
    for number in range(3):
        tree.enqueue(Everything.many, number)
    _cancel(tree)
    _ahead(tree)
    plain = {("plain", outcome) for outcomes in ACTS.values() for outcome in outcomes}
    others = {("many", "succeeded"), ("long", "cancelled"), ("ticks", "succeeded"), ("weak", "retried")}
    wanted = plain | others | {("dead", "archived")}
    receiver.wait_for(lambda: _outcomes(receiver) >= wanted)
    receiver.wait_for(lambda: receiver.value("worker.queue.held", messaging__destination__name="weak") == 1)


def _cancel(tree: Tree) -> None:
    job_id = tree.enqueue(Everything.long, "cancelled")
    tree.wait_ledger("began cancelled")
    tree.run_worker("jobs", "cancel", MODULE, job_id, "--yes")


def _ahead(tree: Tree) -> None:
    """Enqueue as a newer version of the service does, which is not running."""
    newer = Settings(engine_url=tree.url, durability="process", version="2")
    with closing(open_producer(newer)) as producer:
        with Newer.plain.connected(producer):
            Newer.plain.enqueue(Other(serial="no. 1"))
        with Newer.later.connected(producer):
            Newer.later.enqueue(1)


def _outcomes(receiver: Receiver) -> set[tuple[str, str]]:
    attempts = [span.attributes for span in receiver.spans() if span.kind == "consumer"]
    return {(found["messaging.destination.name"], found["worker.job.outcome"]) for found in attempts}
