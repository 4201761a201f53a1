"""`worker pause` and `worker resume`, and how the other commands show a paused queue."""

from __future__ import annotations

import pytest

from framework.process import journal
from tests.support.command import Cli


def test_a_queue_is_paused_and_resumed_once_and_shown(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "digests", "1")
    assert relay.ok("pause", "relay", "daily_digests", env={"WORKER_ACTOR": "ada"}).out == "paused digests\n"
    again = relay.ok("pause", "relay", "digests", env={"WORKER_ACTOR": "bob"})
    assert again.out == "digests is paused\n"
    assert "digests was paused by ada at 20" in again.err
    assert {name for name, found in relay.queues().items() if found["paused"]} == {"digests"}
    assert "digests (paused)" in relay.ok("queues", "relay").out
    relay.ok("enqueue", "relay", "digests", "2")
    assert relay.queues()["digests"]["ready"] == 2
    assert relay.ok("resume", "relay", "digests").out == "resumed digests\n"
    assert relay.ok("resume", "relay", "digests").out == "digests is not paused\n"
    assert not any(found["paused"] for found in relay.queues().values())
    assert "paused" not in relay.ok("queues", "relay").out


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("relay", "digest"), "has no queue 'digest'; did you mean 'digests'?"),
        (("digest",), "there is no queue 'digest' in the store: it has none"),
        ((), "expected MODULE QUEUE, got no argument"),
    ],
)
def test_what_is_wrong_is_one_line(relay: Cli, given: tuple[str, ...], error: str) -> None:
    for command in ("pause", "resume"):
        result = relay.run(command, *given)
        assert (result.code, result.out) == (2, "")
        assert error in result.error


def test_a_store_is_enough_and_a_paused_queue_without_jobs_is_shown(relay: Cli) -> None:
    relay.store("digests", 1, "one")
    url, without = f"spool:{relay.spool}", {"WORKER_ENGINE_URL": None}
    missing = relay.run("pause", "relay", "digests", "--url", f"spool:{relay.home}/nowhere")
    assert (missing.code, missing.out, missing.error) == (1, "", "digests is not paused: there is no store")
    assert relay.ok("pause", "digests", "--url", url, env=without).out == "paused digests\n"
    relay.ok("jobs", "discard", "one", "--yes", "--url", url, env=without)
    assert [row[0] for row in relay.ok("queues", "--url", url, env=without).rows] == ["digests (paused)"]
    assert relay.ok("resume", "digests", "--url", url, env=without).out == "resumed digests\n"
    assert relay.ok("queues", "--url", url, env=without).rows == []


def test_a_pause_that_maintenance_never_sees_leaves_a_trace_in_the_journal(relay: Cli) -> None:
    relay.store("digests", 1, "one")
    for verb in ("pause", "pause", "resume", "resume"):
        relay.ok(verb, "relay", "digests", env={"WORKER_ACTOR": "ada"})
    acts = [(one["verb"], one["queue"], one["count"], one["actor"]) for one in journal.take(relay.spool)]
    assert acts == [("pause", "digests", 0, "ada"), ("resume", "digests", 0, "ada")]
