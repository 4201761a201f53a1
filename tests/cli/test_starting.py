"""What a service is started with while it is written: `worker new`, `run --burst`, `--solo`, `--reload`, `-m`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import TIMEOUT, WORKER, Cli, wait_for

BOTH = """
import os
from framework import Context, Queue, RetryLater, WorkerApp
from contextlib import asynccontextmanager, contextmanager


class Both(WorkerApp):
    numbers = Queue[int]("numbers", timeout=5)
    words = Queue[str]("words", concurrency=5, timeout=5)

    @contextmanager
    def lifespan(self, slot):
        self.pid = os.getpid()
        yield

    @asynccontextmanager
    async def alifespan(self, slot):
        self.greeting = "hello"
        yield
        print("alifespan left", flush=True)

    @numbers.handler
    def number(self, number: int, ctx: Context) -> None:
        if number == 3 and ctx.attempt == 1:
            raise RetryLater("in an hour", delay=3600)
        assert os.getpid() == self.pid
        print(f"{os.getpid()} number {number}", flush=True)
        if number == 1:
            Both.words.enqueue("made")

    @words.handler
    async def word(self, word: str) -> None:
        if word == "stop":
            breakpoint()
        print(f"{os.getpid()} {self.greeting} {word}", flush=True)
"""


@pytest.fixture
def both(cli: Cli) -> Cli:
    cli.write("both.py", BOTH)
    return cli


@pytest.mark.parametrize("solo", [False, True])
def test_a_burst_runs_what_waits_and_leaves_what_is_delayed(both: Cli, solo: bool) -> None:
    both.ok("enqueue", "both", "numbers", "-", stdin="1\n2\n3\n")
    done = both.ok("run", "both", "--burst", *["--solo"] * solo)
    ran = [line.partition(" ") for line in done.out.splitlines() if line[0].isdigit()]
    assert sorted(what for _, _, what in ran) == ["hello made", "number 1", "number 2"]
    assert len({pid for pid, _, _ in ran}) == (1 if solo else 2)
    assert "\nalifespan left\n" in done.out
    assert "the burst is over; 1 delayed jobs stay for later" in done.out
    counts = {row[0]: row[1:] for row in both.ok("queues", "both").rows}
    assert counts["numbers"] == ["0", "-", "0", "1", "0", "0"]
    assert counts["words"][:3] == ["0", "-", "0"]


def test_a_breakpoint_in_an_async_handler_stops_at_a_prompt(both: Cli) -> None:
    both.ok("enqueue", "both", "words", '"stop"')
    shown = both.terminal("run", "both", "--burst", "--solo", typed="p word * 2\nc\n", when="(Pdb)")
    assert shown.code == 0, shown
    assert "'stopstop'" in shown.out
    assert "hello stop" in shown.out


def test_a_solo_that_is_killed_leaves_its_job_to_the_next_one(both: Cli) -> None:
    both.write(
        "both.py", BOTH.replace("        assert", "        ctx.attempt > 1 or os.kill(os.getpid(), 9)\n        assert")
    )
    both.ok("enqueue", "both", "numbers", "1")
    env = {"WORKER_QUEUES__NUMBERS__RETRY__FIRST_DELAY": "0"}
    assert both.run("run", "both", "--solo", env=env).code == -signal.SIGKILL
    done = both.ok("run", "both", "--burst", "--solo", env=env)
    assert "attempt_lost" in done.out or "worker_lost" in done.out
    assert " number 1\n" in done.out


def test_a_signal_ends_a_solo(both: Cli) -> None:
    with both.running("run", "both", "--solo") as process:
        wait_for(process, "solo: one process")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, "stopped, exit code 0" in rest) == (0, True)


@pytest.mark.parametrize(
    "waits", ["await asyncio.sleep(60)", "time.sleep(60)", "await asyncio.gather(asyncio.sleep(60))"]
)
def test_a_second_signal_gives_the_job_of_a_solo_back(both: Cli, waits: str) -> None:
    both.write(
        "both.py", "import asyncio, time\n" + BOTH.replace("breakpoint()", f"print('waits', flush=True); {waits}")
    )
    both.ok("enqueue", "both", "words", '"stop"')
    with both.running("run", "both", "--solo") as process:
        wait_for(process, "waits")
        process.send_signal(signal.SIGINT)
        wait_for(process, "leaving after the running job")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, "Traceback" in rest) == (0, False), rest
    lines = [json.loads(line) for line in rest.splitlines() if line.startswith("{")]
    assert [line["process"] for line in lines if line.get("outcome") == "released"] == ["solo"], rest
    (job,) = both.ok("jobs", "list", "both", "--json").json
    assert (job["state"], job["attempts"]) == ("ready", 0), job


def test_reload_starts_the_tree_again_when_a_file_changes(both: Cli) -> None:
    with both.running("run", "both", "--reload") as process:
        wait_for(process, "Both: 2 workers on")
        wait_for(process, '"process_ready"')
        both.write("both.py", BOTH + "\nraise OSError('half written')\n")
        wait_for(process, "both.py changed: starting again")
        wait_for(process, "half written")
        both.write("both.py", BOTH.replace('"hello"', '"hi"'))
        wait_for(process, "both.py changed: starting again")
        both.ok("enqueue", "both", "words", '"there"')
        wait_for(process, "hi there")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "stopped, exit code 0" in rest


def test_the_tree_of_a_killed_reload_ends(both: Cli) -> None:
    with both.running("run", "both", "--reload") as process:
        wait_for(process, "Both: 2 workers on")
        process.kill()
        rest, _ = process.communicate(timeout=TIMEOUT)  # the pipe closes when the last process of the tree has ended
    assert "stopped, exit code 0" in rest
    assert both.run("health").code == 1


@pytest.mark.parametrize("solo", [False, True])
def test_a_burst_ends_while_a_queue_is_paused_and_names_it(both: Cli, solo: bool) -> None:
    both.ok("enqueue", "both", "numbers", "2")
    both.ok("enqueue", "both", "words", "-", stdin='"a"\n"b"\n')
    both.ok("pause", "both", "words")
    done = both.ok("run", "both", "--burst", *["--solo"] * solo)
    assert " number 2" in done.out
    assert "the burst is over; paused queues keep their jobs: words (2 ready)" in done.out
    assert both.ok("queues", "both").rows[1][:2] == ["words (paused)", "2"]
    refused = both.run("run", "both", "--burst", "--paused")
    assert refused.code == 2
    assert "--burst ends once nothing may run, and --paused lets nothing run" in refused.error


def test_reload_with_solo_is_refused(both: Cli) -> None:
    refused = both.run("run", "both", "--reload", "--solo")
    assert (refused.code, refused.error) == (
        2,
        "--reload goes with a tree that stays, not with --solo: use one of the two",
    )


def test_the_package_is_the_command(both: Cli) -> None:
    done = subprocess.run([sys.executable, "-m", "framework", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == both.ok("--version").out


def test_a_package_of_the_same_name_is_one_line(both: Cli) -> None:
    both.write("framework/__init__.py", "")
    both.write("framework/helpers.py", "")
    both.ok("check", "both")  # it does not need that package
    for line in ("import framework.helpers", "from framework import helpers"):
        both.write("both.py", f"{line}\n{BOTH}")
        refused = both.run("run", "both")
        assert refused.code == 2
        assert refused.error == (
            f"both imports from framework, which is this library here: {both.home / 'framework'} has the same name and "
            "cannot be imported beside it: rename it"
        )
    env = both.environ | {"PYTHONPATH": str(both.home)}
    hidden = subprocess.run([WORKER, "run", "both"], env=env, cwd=both.home, capture_output=True, text=True)
    assert (hidden.returncode, hidden.stdout, hidden.stderr.count("\n")) == (2, "", 1)
    assert hidden.stderr.startswith(f"worker: error: {both.home / 'framework'} hides this library")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", "'json' would hide the package json"),
        ("framework", "'framework' would hide the package framework"),
        ("class", "'class' is no name for a service"),
        ("../up", "'../up' is no name for a service"),
        ("there", "there exists already"),
    ],
)
def test_a_name_that_no_service_can_have(cli: Cli, name: str, message: str) -> None:
    cli.write("there/file", "")
    refused = cli.run("new", name)
    assert refused.code == 2
    assert refused.error.startswith(message)
    assert [path.name for path in Path(cli.home).rglob("*")] == ["there", "file"]
