"""Workers that are fresh interpreters: the same module, declarations and code as their supervisor has."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.command import TIMEOUT, Cli, wait_for

ENV = {"OTEL_SDK_DISABLED": "true", "WORKER_START_METHOD": "spawn"}
LIB = """
from framework import Queue, WorkerApp

class App(WorkerApp):
    q = Queue[int]("q")
    flag = "not configured"

    @q.handler
    def h(self, n: int) -> None:
        print(f"flag {self.flag}", flush=True)
"""
APPS = """
from framework import Queue, WorkerApp

class Base(WorkerApp):
    q = Queue[int]("base")
    @q.handler
    def h(self, n: int) -> None: ...

class Outer:
    class Inner(WorkerApp):
        q = Queue[int]("inner")
        @q.handler
        def h(self, n: int) -> None: ...

def make(name):
    class Made(WorkerApp):
        q = Queue[int](name)
        @q.handler
        def h(self, n: int) -> None: ...
    return Made

Nested, Factory = Outer.Inner, make("made")
Wrapped = type("Other", (Base,), {"__module__": "nowhere"})
"""


def until(process: Any, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first line of the log that is wanted."""
    while True:
        line = wait_for(process, "{")
        if line.startswith("{") and wanted(event := json.loads(line)):
            return event


def ready(slot: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "process_ready" and event["slot"] == slot


def stop(process: Any) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    return int(process.returncode)


def test_workers_import_the_module_of_the_command_line_from_where_it_was_found(cli: Cli) -> None:
    """Its import starts a thread, so `auto` spawns; it changes what it imports, and the working directory. A file there
    that is called as the framework is nobody's business."""
    cli.write("lib.py", LIB)
    cli.write("framework.py", "raise SystemError('shadowed')")
    (cli.home / "elsewhere").mkdir()
    cli.write(
        "svc.py",
        """
        import os, threading, time
        from lib import App
        App.flag = f"configured, asserts {__debug__}"
        os.chdir("elsewhere")
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        """,
    )
    env = {"OTEL_SDK_DISABLED": "true", "PYTHONOPTIMIZE": "1"}
    assert cli.run("enqueue", "svc", "q", "1", env=env).code == 0
    with cli.running("run", "svc", env=env) as process:
        wait_for(process, "workers start as fresh interpreters")
        assert wait_for(process, "flag ") == "flag configured, asserts False\n"
        assert stop(process) == 0


@pytest.mark.parametrize(("app", "slot"), [("Nested", "inner/0"), ("Factory", "made/0"), ("Wrapped", "base/0")])
def test_what_runs_forked_also_runs_spawned(cli: Cli, app: str, slot: str) -> None:
    cli.write("apps.py", APPS)
    with cli.running("run", f"apps:{app}", env=ENV) as process:
        until(process, ready(slot))
        assert stop(process) == 0


def test_workers_of_one_tree_never_run_two_versions_of_the_code(cli: Cli) -> None:
    cli.write("lib.py", LIB)
    service = cli.write("svc.py", "from lib import App\nprint('imported', 1, flush=True)\n")
    before = service.read_bytes()
    with cli.running("run", "svc", env=ENV) as process:
        worker = until(process, ready("q/0"))["pid"]
        service.write_text("from lib import App\nprint('imported', 2, flush=True)\n")
        process.send_signal(signal.SIGHUP)
        refused = until(process, lambda event: event["event"].startswith("SIGHUP"))["event"]
        assert refused.startswith(f"SIGHUP is refused: {service} has changed since the service was started")
        os.kill(worker, signal.SIGKILL)
        # Maintenance may still be starting when the file changes; then it refuses, too.
        said = until(process, lambda event: event["event"].startswith("q/0 cannot start"))["event"]
        assert said.startswith(f"q/0 cannot start: {service} has changed since the service was started")
        assert until(process, lambda event: event["event"] == "process_exited")["reason"] == "failed_to_start"
        service.write_bytes(before)
        until(process, ready("q/0"))
        process.send_signal(signal.SIGHUP)
        until(process, lambda event: "renewing the processes" in event["event"])
        assert stop(process) == 0


RANDOM = """
import uuid
from framework import Queue, WorkerApp

class A(WorkerApp):
    q = Queue[int](f"q{uuid.uuid4().hex[:8]}")
    @q.handler
    def h(self, n: int) -> None: ...
"""
ONCE = """
import os, sys
from lib import App
if "TAKEN" in os.environ:
    {end}
os.environ["TAKEN"] = "1"
"""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (RANDOM, "it must declare the same at every import"),
        (ONCE.format(end="raise OSError('address in use')"), "svc cannot be imported: OSError: address in use ("),
        (ONCE.format(end="sys.exit('no licence')"), "svc cannot be imported: SystemExit: no licence"),
    ],
)
def test_what_cannot_run_spawned_is_refused_in_one_line(cli: Cli, source: str, says: str) -> None:
    cli.write("lib.py", LIB)
    cli.write("svc.py", source)
    with cli.running("run", "svc", env=ENV) as process:
        said = until(process, lambda event: "/0 cannot start" in event["event"])
        assert says in said["event"]
        assert "Traceback" not in said["event"]
        assert until(process, lambda event: event["event"] == "process_exited")["reason"] == "failed_to_start"
        assert stop(process) == 0
