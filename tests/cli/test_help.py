"""Help, version, and command lines that are wrong: found without the service and without OpenTelemetry."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.command import WORKER, Cli

COMMANDS = {
    ("run",): ("MODULE", "--queue", "--burst", "--reload", "--solo", "Exit code: 0 drained"),
    ("new",): ("Write the repository of a new service",),
    ("check",): ("MODULE", "WORKER_MODULE"),
    ("enqueue",): ("MODULE QUEUE JSON|-", "--delay", "--run-at", "--id"),
    ("queues",): ("--json", "oldest_age"),
    ("ps",): ("[MODULE]", "deadline", "processes"),
    ("jobs",): ("list", "show", "retry", "discard", "edit"),
    ("jobs", "list"): ("--state", "--field", "--older", "--after", "--limit", "--url"),
    ("jobs", "edit"): ("[MODULE] ID JSON|-", "--keep"),
    ("dead",): ("list", "show", "groups", "replay", "discard"),
    ("dead", "groups"): ("error_type", "count"),
    ("dead", "list"): ("--queue", "--limit", "error_type"),
    ("dead", "show"): ("[MODULE] ID", "failures"),
    ("dead", "replay"): ("--all", "[ID]...", "--rate"),
    ("dead", "discard"): ("Delete dead letters for ever", "--yes"),
    ("bad",): ("list", "show", "restore", "discard"),
    ("bad", "list"): ("--queue", "--limit", "flaw"),
    ("bad", "show"): ("[MODULE] FILE", "start"),
    ("bad", "restore"): ("--all", "[FILE]..."),
    ("bad", "discard"): ("Delete bad files for ever", "--yes"),
    ("health",): ("[MODULE]", "WORKER_ENGINE_URL"),
    ("top",): ("[MODULE]", "--interval", "--read-only", "failures"),
    ("web",): ("--allow-actions", "--bind", "WORKER_WEB_TOKEN"),
    ("alerts",): ("MODULE", "--job", "--only", "rule_files"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli.ok(*command, "--help", env={"WORKER_MODULE": "no.such.module"})
    assert result.out.startswith(f"Usage: worker {' '.join(command)} ")
    assert not [wanted for wanted in COMMANDS[command] if wanted not in result.out]
    assert "\x1b" not in result.out


def test_the_command_lists_its_verbs(cli: Cli) -> None:
    result = cli.ok("--help")
    assert not [command[0] for command in COMMANDS if f"\n  {command[0]} " not in result.out]
    bare = cli.run()
    assert (bare.code, bare.out) == (2, "")
    assert bare.err == result.out


def test_version(cli: Cli) -> None:
    assert cli.ok("--version").out == "worker 0.1.0\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("rnu",), "'rnu'"),
        (("run", "relay", "--wait"), "--wait"),
        (("dead",), "choose one of list, show, groups, replay, discard (see worker dead --help)"),
        (("bad",), "choose one of list, show, restore, discard (see worker bad --help)"),
        (("run",), "expected MODULE, got no arguments; MODULE comes first, or set WORKER_MODULE"),
        (
            ("enqueue", "relay", "{}"),
            "expected MODULE QUEUE JSON, or - for lines of standard input, got 2",
        ),
        (
            ("enqueue", "a", "b", "c", "d"),
            "expected MODULE QUEUE JSON, or - for lines of standard input, got 4",
        ),
        (("jobs",), "choose one of list, show, retry, cancel, discard, edit (see worker jobs --help)"),
        (("dead", "replay"), "give the ids of dead letters, or --all"),
        (("jobs", "show"), "expected MODULE ID, got no arguments; MODULE comes first, or set WORKER_MODULE, or name"),
        (("enqueue", "relay", "q", "1", "--delay", "soon"), "'soon' is not a valid float"),
        (("dead", "list", "relay", "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli.run(*args)
    assert (result.code, result.out) == (2, "")
    assert message in result.error


def test_help_imports_neither_the_service_nor_opentelemetry(relay: Cli) -> None:
    code = """
import sys
from framework.cli import main
assert main(["run", "--help"]) == 0
heavy = {name.split(".")[0] for name in sys.modules} & {"opentelemetry", "structlog", "relay", "rich", "textual"}
sys.exit(", ".join(heavy) or 0)
"""
    env = relay.environ | {"WORKER_MODULE": "relay"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=relay.home, env=env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("args", [("queues", "relay"), ("--help",), ("queues", "relay", "--json")])
def test_a_reader_that_leaves_is_no_error(relay: Cli, args: tuple[str, ...]) -> None:
    """`worker ... | head`: what cannot be written any more is not complained of."""
    relay.ok("enqueue", "relay", "digests", "1")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [WORKER, *args], stdout=writer, stderr=subprocess.PIPE, cwd=relay.home, env=relay.environ, text=True
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141
