"""`App.running`: the workers beside a program, with its settings, and when they cannot be started for a while."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.command import TIMEOUT, Cli, wait_for

BESIDE = """
from framework import Context, Queue, WorkerApp


class Beside(WorkerApp):
    numbers = Queue[int]("numbers")

    @numbers.handler
    def number(self, number: int, ctx: Context) -> None:
        print(f"number {number}, {ctx.max_attempts} attempts", flush=True)
"""
SETTINGS = """
import os
from beside import Beside
from framework import Settings

settings = Settings(
    engine_url=f"spool:{os.getcwd()}/other", drain="none", health="",
    queues={"numbers": {"timeout": "none", "retry": {"max_retries": 6}}},
)
os.environ |= {
    "worker_queues__numbers__retry__max_retries": "2",
    "WORKER_QUEUES__NUMBERS__WORKERS": "0",
    "WORKER_HEALTH": "nowhere",
    "WORKER_BROKER_URL": "redis://nowhere",
}
with Beside.connect(settings), Beside.running(settings):
    Beside.numbers.enqueue(1)
    input()
"""
EMPTY_HANDED = """
import logging, os, resource, signal
import psutil
from beside import Beside

logging.basicConfig()
with Beside.running():
    (supervisor,) = psutil.Process().children()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no more can be opened, so no process started
    os.kill(supervisor.pid, signal.SIGKILL)
    input()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    Beside.numbers.enqueue(2)
    input()
"""


@contextmanager
def program(cli: Cli, text: str) -> Iterator[subprocess.Popen[str]]:
    cli.write("beside.py", BESIDE)
    cli.write("main.py", text)
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cli.home, env=cli.environ,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # the workers leave when it is gone
        process.communicate(timeout=TIMEOUT)


def test_workers_beside_have_the_settings_that_they_are_given(cli: Cli) -> None:
    cli.write(".env", "WORKER_DRAIN=never\n")
    with program(cli, SETTINGS) as process:
        wait_for(process, "number 1, 7 attempts")
        rest, _ = process.communicate("\n", timeout=TIMEOUT)
    assert process.returncode == 0, rest
    assert not cli.spool.exists()


def test_workers_beside_are_started_once_the_machine_can_again(cli: Cli) -> None:
    with program(cli, EMPTY_HANDED) as process:
        wait_for(process, "beside:Beside cannot start: [Errno 24] Too many open files: '/dev/null': again in 2 s")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for(process, "number 2")
        rest, _ = process.communicate("\n", timeout=TIMEOUT)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
