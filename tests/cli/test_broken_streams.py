"""The exit code of a command is its own, whatever becomes of what it prints."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.command import TIMEOUT, WORKER, Cli

VERBS = [
    ("queues relay --json", 0),
    ("dead list relay", 0),
    ("jobs list relay --json", 0),
    ("ps", 1),
    ("enqueue relay digests -", 0),
    ("health", 1),
    ("--help", 0),
    ("", 2),
    ("queues nowhere", 2),
]


def run(cli: Cli, verb: str, redirections: str) -> subprocess.CompletedProcess[str]:
    """Under a shell, with bash's `exec` for what sh cannot name."""
    command = f"exec {WORKER} {verb} {redirections}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=cli.home, env=cli.environ, timeout=TIMEOUT
    )


@pytest.mark.parametrize(("verb", "code"), VERBS)
def test_closed_streams_change_no_exit_code(relay: Cli, verb: str, code: int) -> None:
    for redirections in (">&-", "<&- >&- 2>&-"):
        done = run(relay, verb, redirections)
        assert (redirections, done.returncode) == (redirections, code), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "code"), VERBS)
def test_a_standard_error_that_cannot_be_written_changes_no_exit_code(relay: Cli, verb: str, code: int) -> None:
    assert run(relay, verb, "2>/dev/full").returncode == code


@pytest.mark.parametrize(("verb", "code"), [("queues relay --json", 1), ("--help", 1), ("health", 1)])
def test_a_full_device_is_one_line(relay: Cli, verb: str, code: int) -> None:
    done = run(relay, verb, ">/dev/full")
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if not line.startswith("worker: warning:")]
    assert len(lines) == 1
    if verb != "health":
        assert lines == ["worker: error: standard output cannot be written: No space left on device"]


@pytest.mark.parametrize("verb", ["queues relay --json", "--help"])
def test_a_reader_that_leaves_is_said_as_a_shell_says_it(relay: Cli, verb: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [WORKER, *verb.split()], stdout=writer, stderr=writer, cwd=relay.home, env=relay.environ, timeout=TIMEOUT
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
