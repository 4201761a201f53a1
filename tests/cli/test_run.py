"""`worker run`, and what the other commands see of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framework.process.scoreboard import READY, Scoreboard
from tests.support.command import RELAY, TIMEOUT, Cli, wait_for


def ready(process: object, count: int) -> None:
    """Until so many processes said that they are, maintenance among them."""
    for _ in range(count):
        wait_for(process, '"process_ready"')  # type: ignore[arg-type]


def test_jobs_run_and_a_signal_drains(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "deliveries", '{"to": "me"}')
    with relay.running("run", "relay") as process:
        wait_for(process, "delivered to me")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "stopped, exit code 0" in rest
    assert relay.queues()["deliveries"]["ready"] == 0


def test_only_the_queues_that_are_named(relay: Cli) -> None:
    with relay.running("run", "relay", "--queue", "daily_digests") as process:
        line = wait_for(process, "1 workers on")
        assert json.loads(line)["event"].startswith("Relay: 1 workers on spool:")
        ready(process, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0


def test_a_job_that_failed_is_shown_with_its_traceback_and_trace(relay: Cli) -> None:
    job = relay.ok("enqueue", "relay", "digests", "7").out.strip()
    with relay.running("run", "relay") as process:
        line = json.loads(wait_for(process, '"dead_lettered"'))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    shown = relay.ok("dead", "show", "relay", job).out
    assert "OSError: no digest 7" in shown
    assert 'raise OSError(f"no digest {number}")' in shown
    assert f"  trace       {line['trace_id']}" in shown
    assert len(line["trace_id"]) == 32


def test_nothing_to_run(cli: Cli) -> None:
    cli.write("relay.py", "from framework import Queue, WorkerApp\nclass Relay(WorkerApp):\n    q = Queue[int]('q')\n")
    result = cli.run("run", "relay")
    assert result.code == 2
    assert "Relay has nothing to run: no queue with a handler" in result.error


def test_a_queue_without_handler(relay: Cli) -> None:
    result = relay.run("run", "relay", "--queue", "dead-letters")
    assert result.code == 2
    assert "has no handler for queue 'dead-letters'" in result.error


# --- health ---------------------------------------------------------------------------------------------------------


def test_health_follows_the_life_of_a_service(relay: Cli) -> None:
    before = relay.run("health")
    assert (before.code, before.out) == (1, "")
    assert before.error == f"no supervisor lives on {relay.spool}"
    assert not relay.spool.exists()
    with relay.running("run", "relay") as process:
        ready(process, 3)
        during = relay.ok("health")
        assert (during.out, during.err) == ("", "")
        relay.ok("health", "relay")
        relay.ok("health", "anything:Relay")
        other = relay.run("health", "anything:Other")
        assert (other.code, other.error) == (1, f"no supervisor of Other lives on {relay.spool}")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    after = relay.run("health")
    assert (after.code, after.error) == (1, f"no supervisor lives on {relay.spool}")


def test_health_of_a_spool_that_may_not_be_read(tmp_path: Path) -> None:
    """A probe that runs as another user: a child that gives up being root, where we are root."""
    run = tmp_path / "spool" / "run"
    run.mkdir(parents=True)
    run.parent.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from framework.cli.health import diagnose;"
        "os.getuid() or os.setuid(65534); print(diagnose(Path(sys.argv[1])))"
    )
    found = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=False)
    run.parent.chmod(0o700)
    assert found.stderr == ""
    assert found.stdout.startswith(f"{run}: permission denied for uid ")
    assert "run the probe as the user of the workers" in found.stdout


def test_health_of_a_service_that_was_killed(relay: Cli) -> None:
    with relay.running("run", "relay") as process:
        ready(process, 3)
        process.kill()
        process.wait(TIMEOUT)
        result = relay.run("health")
        assert (result.code, result.error) == (1, f"no supervisor lives on {relay.spool}")


def test_health_while_no_worker_gets_ready(cli: Cli) -> None:
    lifespan = "    @contextmanager\n    def lifespan(self, slot):\n        sleep(600)\n        yield\n\n"
    hangs = RELAY.replace("    @deliveries.handler", lifespan + "    @deliveries.handler")
    cli.write("relay.py", "from contextlib import contextmanager\nfrom time import sleep\n" + hangs)
    with cli.running("run", "relay", env={"WORKER_DRAIN": "1"}) as process:
        ready(process, 1)  # maintenance
        result = cli.run("health")
        assert result.code == 1
        assert result.error == f"Relay, supervisor {process.pid}: none of 2 workers is ready"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)


@pytest.fixture
def board(cli: Cli) -> Scoreboard:
    """Of a supervisor that lives: this process."""
    run = cli.spool / "run"
    run.mkdir(parents=True)
    return Scoreboard.create(run / "0.board", [("maintenance", 0), ("digests/0", 1)], app="Relay")


def test_health_wants_a_loop_that_turns_or_a_job_that_runs(cli: Cli, board: Scoreboard) -> None:
    from framework.cli.health import diagnose

    minute = 60 * 10**9
    board.set_state(0, READY, 0)
    board.publish()
    assert diagnose(cli.spool / "run", now=0).endswith("none of 1 workers is ready")  # maintenance does not count
    board.set_state(1, READY, 0)
    board.publish()
    assert diagnose(cli.spool / "run", now=minute - 1) == ""
    board.publish()
    assert diagnose(cli.spool / "run", now=2 * minute).endswith("no worker's loop has turned for 120 s")
    board.row_writer(1, 0).start("job", 1, 0, 0, 0)
    board.publish()
    assert diagnose(cli.spool / "run", now=2 * minute) == ""
    board.publish()
    assert diagnose(cli.spool / "run", "Other", now=0) == f"no supervisor of Other lives on {cli.spool}"


def test_health_beside_files_that_are_no_boards(cli: Cli, board: Scoreboard) -> None:
    board.set_state(1, READY, time.monotonic_ns())
    board.publish()
    (cli.spool / "run" / "00.board").write_bytes(b"torn")
    (cli.spool / "run" / "1.board").symlink_to("/etc/passwd")
    cli.ok("health")
    board.set_state(1, 0, 0)
    board.publish()
    result = cli.run("health")
    assert result.code == 1
    assert "00.board cannot be read" in result.error


def test_health_looks_again_where_all_may_have_stood_still(
    cli: Cli, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that comes right after the standstill must not have the service restarted."""
    from framework.cli.health import STUCK, diagnose

    def turns(_: float) -> None:
        board.tick(1, time.monotonic_ns())
        board.publish()

    board.set_state(1, READY, time.monotonic_ns() - int(STUCK * 2e9))
    board.publish()
    monkeypatch.setattr("time.sleep", turns)
    assert diagnose(cli.spool / "run") == ""
