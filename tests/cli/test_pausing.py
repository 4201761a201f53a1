"""`worker pause` and `worker resume`, and how the other commands show a paused queue."""

from __future__ import annotations

import pytest

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
        (("relay",), "expected MODULE QUEUE, got 1 argument"),
        ((), "expected MODULE QUEUE, got no argument"),
    ],
)
def test_what_is_wrong_is_one_line(relay: Cli, given: tuple[str, ...], error: str) -> None:
    for command in ("pause", "resume"):
        result = relay.run(command, *given)
        assert (result.code, result.out) == (2, "")
        assert error in result.error
