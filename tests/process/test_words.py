"""What a running service tells of payloads that do not fit, discarded jobs, and successors that were not stored."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from framework import Context, Discard, Queue, WorkerApp
from tests.support.tree import Tree

SECRET = "s3cr3t4111"


class Words(WorkerApp):
    fits = Queue[dict[str, int]]("fits")

    @fits.handler
    def run(self, payload: dict[str, int], ctx: Context) -> None:
        if "again" in payload:
            found = Words.fits.enqueue({"again": 1}, job_id=ctx.job_id, delay=60)
            assert found.duplicate
        if "old" in payload:
            raise Discard("its subscriber is gone")


class Other(WorkerApp):
    """Another version of the service, with another idea of the payload."""

    fits = Queue[Any]("fits")


def test_what_the_log_and_the_dead_letters_say(tree: Tree) -> None:
    tree.enqueue(Words.fits, {"again": 1}, job_id="nightly")
    tree.enqueue(Words.fits, {"old": 1}, job_id="gone")
    tree.enqueue(Other.fits, {SECRET: SECRET}, job_id="bad")
    tree.start(module="tests.process.test_words:Words", ready=False)
    bad = tree.wait_event("job_finished", job_id="bad")
    assert (bad["outcome"], bad["reason"], bad["message"]) == ("dead_lettered", "invalid_payload", "*: int_parsing")
    discarded = tree.wait_event("job_finished", job_id="gone")
    assert (discarded["outcome"], discarded["message"]) == ("discarded", "its subscriber is gone")
    tree.wait_event("job_finished", job_id="nightly")
    assert tree.stop() == 0
    (told,) = [event for event in tree.events() if "under its own id" in event["event"]]
    assert (told["level"], told["job_id"], told["queue"]) == ("warning", "nightly", "fits")
    with closing(tree.broker()) as broker:
        broker.open([Words.fits.options])
        (letter,) = broker.browse("fits", "dead")
    assert letter.job.history[-1].message == "*: int_parsing"
    assert SECRET not in json.dumps(tree.events())
