"""The whole relay on this machine: a receiver, a worker on the embedded spool or on PostgreSQL, and traffic.

python -m services.example_worker.demo --jobs 500
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from framework.model.errors import EnqueueError, WorkerError
from framework.service.settings import load_settings
from services.example_worker.answers import DEFAULT
from services.example_worker.children import Child, ChildFailed
from services.example_worker.database import server
from services.example_worker.queues import RelayQueues
from services.example_worker.screen import Screen, summary
from services.example_worker.tally import Tally
from services.example_worker.telemetry import exported
from services.example_worker.traffic import Traffic

SERVICE = "services.example_worker"
SPOOL = Path("var/spool")
START, DRAIN, STALLED = 20.0, 40.0, 60.0  # seconds to start, to stop, and without any progress
TICK = 0.1  # seconds between two looks at the counts
# A demo is short: what waits for seconds in production waits for tenths here, and so shows within one run.
HASTE = {
    "WORKER_QUEUES__DELIVERIES__RETRY__FIRST_DELAY": "0.2",
    "WORKER_QUEUES__DELIVERIES__RETRY__FACTOR": "2",
    "WORKER_QUEUES__DELIVERIES__RETRY__MAX_DELAY": "2",
    "RELAY_TIMEOUT": "1",
}


class Demo:
    """One run: processes, traffic and counts."""

    def __init__(
        self, *, jobs: int | None, rate: float, spool: Path, engine: str, seed: int, shares: str, console: Console
    ) -> None:
        self.jobs, self.seed, self.shares, self.console = jobs, seed, shares, console
        self.spool, self.engine = spool, engine
        run = secrets.token_hex(3)
        self.logs = spool.parent / "demo"
        self.tally = Tally(run)
        self.traffic = Traffic(run=run, seed=seed, rate=rate, enqueued=self.tally.opened)
        self.failure: Exception | None = None
        self._starting = {f"{name}/0" for name in (queue.name for queue in RelayQueues.worker_queues.values())}
        self._ready = threading.Event()
        self._sender = threading.Thread(target=self._send, name="traffic", daemon=True)

    def run(self) -> int:
        """Returns the exit code. Raises ChildFailed, WorkerError, KeyboardInterrupt; no process is left either way."""
        self.logs.mkdir(parents=True, exist_ok=True)
        secret, url = secrets.token_hex(16), f"spool:{self.spool}"
        with ExitStack() as cleanup:
            if self.engine == "postgres":
                url = f"{cleanup.enter_context(server(worker_command()))}?local_dir={self.logs}/postgres"
            environ = self._environ(url)
            receiver = self._receiver(environ | {"RECEIVER_SECRET": secret})
            cleanup.callback(receiver.stop, 5)
            url = receiver.first_line(START).rpartition(" ")[2]
            subscriber = {"RELAY_SUBSCRIBERS__DEMO__URL": url, "RELAY_SUBSCRIBERS__DEMO__SECRET": secret}
            worker = self._worker(HASTE | environ | subscriber)
            cleanup.callback(worker.stop, DRAIN)
            page = web_page(HASTE | environ, self.logs) if self.jobs is None else None
            if page is not None:
                cleanup.callback(page.stop, 5)
            self.console.print(
                f"receiver {url}, {self._place(environ)}, logs {self.logs}", highlight=False, soft_wrap=True
            )
            os.environ.update({name: environ[name] for name in ("WORKER_ENGINE_URL", *OTEL) if name in environ})
            self._await_workers(worker)
            if page is not None:
                self._say_page(page)
            cleanup.enter_context(exported("example-traffic"))
            cleanup.enter_context(RelayQueues.connect(load_settings()))
            cleanup.callback(self._halt)
            elapsed = self._watch(worker, receiver)
            code = worker.stop(DRAIN)
            received = stats(url)
        summary(self.console, self.tally, received, elapsed)
        if code:
            self.console.print(f"the worker ended with exit code {code}, not 0: see {worker.log}", style="red")
        return 1 if code or (self.jobs is not None and self.tally.unsettled()) else 0

    def _await_workers(self, worker: Child) -> None:
        """Traffic before they are ready would only show how long Python takes to start. In doubt it starts anyway."""
        for _ in range(round(START / TICK)):
            worker.check()
            if self._ready.wait(TICK):
                break

    def _say_page(self, page: Child) -> None:
        self.console.print(page.first_line(START).removeprefix("worker: "), highlight=False, soft_wrap=True)

    def keep(self) -> None:
        """Serve the web page of what the run has left behind, until Ctrl-C. Raises ChildFailed."""
        page = web_page(self._environ(f"spool:{self.spool}"), self.logs)
        try:
            self._say_page(page)
            self.console.print("Ctrl-C ends it", highlight=False)
            while True:
                page.check()
                time.sleep(TICK)
        except KeyboardInterrupt:
            return
        finally:
            page.stop(5)

    def _watch(self, worker: Child, receiver: Child) -> float:
        """Until every job is settled or, where there is no end, until Ctrl-C. Returns the seconds that it took."""
        self._sender.start()
        before, since = "", time.monotonic()
        started = since
        with Screen(self.console, self.tally, self.jobs) as screen:
            try:
                while self._sender.is_alive() or self.tally.unsettled():
                    worker.check()
                    receiver.check()
                    screen.update()
                    now = f"{self.tally.enqueued} {self.tally.counts}"
                    if now != before:
                        before, since = now, time.monotonic()
                    elif time.monotonic() - since > STALLED and self.jobs is not None:
                        raise worker.failure(
                            f"settled nothing for {STALLED:.0f} s; {self.tally.unsettled()} jobs are open"
                        )
                    time.sleep(TICK)
                screen.update(last=True)
            except KeyboardInterrupt:
                self._halt()
                if self.jobs is not None:
                    raise
                self.console.print("stopping: the worker finishes what it has begun", highlight=False)
        if self.failure:
            raise self.failure
        return time.monotonic() - started

    def _halt(self) -> None:
        """Ends the traffic: before its producer is closed, and before a worker that is to drain."""
        self.traffic.stop.set()
        if self._sender.ident is not None:
            self._sender.join(START)

    def _send(self) -> None:
        try:
            self.traffic.send(self.jobs)
        except Exception as error:
            self.failure = error

    def _receiver(self, environ: Mapping[str, str]) -> Child:
        module = f"{SERVICE}.receiver"
        command = [sys.executable, "-u", "-m", module, "--port", "0", "--shares", self.shares, "--seed", str(self.seed)]
        return Child("receiver", command, environ=environ, log=self.logs / "receiver.log")

    def _worker(self, environ: Mapping[str, str]) -> Child:
        return Child(
            "worker",
            [worker_command(), "run", SERVICE],
            environ=environ,
            log=self.logs / "worker.log",
            line=self._line,
        )

    def _line(self, text: str) -> None:
        if not self._ready.is_set():
            self._starting -= {slot for slot in self._starting if "process_ready" in text and f'"{slot}"' in text}
            if not self._starting:
                self._ready.set()
        self.tally.line(text)

    def _place(self, environ: Mapping[str, str]) -> str:
        if self.engine == "spool":
            return f"spool {self.spool}"
        return f"PostgreSQL at {environ['WORKER_ENGINE_URL'].partition('?')[0].rpartition('@')[2]}"

    def _environ(self, engine_url: str) -> dict[str, str]:
        environ = {
            **os.environ,
            "WORKER_ENGINE_URL": engine_url,
            "WORKER_LOG_FORMAT": "json",
            "WORKER_LOG_LEVEL": "info",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        if not any(name in environ for name in OTEL) and listening(4318):
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:4318"
        return environ


OTEL = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED")


def listening(port: int) -> bool:
    """Whether something accepts connections on this port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


def worker_command() -> str:
    """The `worker` script of this Python's environment, else of the path. Raises ChildFailed."""
    found = shutil.which("worker", path=str(Path(sys.executable).parent)) or shutil.which("worker")
    if found is None:
        raise ChildFailed("there is no `worker` command: install the project, `pip install -e '.[example]'`")
    return found


def web_page(environ: Mapping[str, str], logs: Path) -> Child:
    """Start the web page of the demo on a free port of this machine."""
    command = [worker_command(), "web", SERVICE, "--bind", "127.0.0.1:0", "--allow-actions", "--name", "demo"]
    return Child("web", command, environ=environ, log=logs / "web.log")


def stats(url: str) -> dict[str, Any]:
    """The receiver's counts."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback
    with opener.open(url.replace("/hooks", "/stats"), timeout=10) as answer:
        counts: dict[str, Any] = json.load(answer)
    return counts


def next_steps(spool: Path) -> str:
    """Commands to try after a run."""
    place = "" if spool == SPOOL else f"WORKER_ENGINE_URL=spool:{spool} "
    worker = f"{place}{os.path.relpath(worker_command())}"
    return (
        "Where to look next\n"
        f"  {worker} queues {SERVICE}\n"
        f"  {worker} dead list {SERVICE}\n"
        f"  {worker} web {SERVICE}     the same as a web page; also: make run KEEP=1\n"
        f"  make up     the same with traces, metrics and a dashboard, in Docker"
    )


@click.command()
@click.option("--jobs", type=click.IntRange(min=1), default=500, show_default=True, help="Deliveries to make.")
@click.option("--forever", is_flag=True, help="Go on until Ctrl-C instead.")
@click.option("--keep", is_flag=True, help="Serve the web page afterwards, until Ctrl-C.")
@click.option("--rate", default=100.0, show_default=True, help="Deliveries a second; 0: as fast as possible.")
@click.option("--spool", type=click.Path(path_type=Path), default=SPOOL, show_default=True)
@click.option("--engine", type=click.Choice(["spool", "postgres"]), default="spool", show_default=True)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--shares", default=DEFAULT, show_default=True, help="What the receiver answers how often.")
def main(jobs: int, forever: bool, keep: bool, rate: float, spool: Path, engine: str, seed: int, shares: str) -> None:
    """Runs receiver, worker and traffic on this machine, and sums up."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # `timeout`, a closed terminal: the same as Ctrl-C
        signal.signal(number, signal.default_int_handler)
    console = Console()
    demo = Demo(jobs=None if forever else jobs, rate=rate, spool=spool, engine=engine, seed=seed, shares=shares,
                console=console)  # fmt: skip
    try:
        code = demo.run()
        if keep and engine == "spool":  # the server of the demo has ended
            demo.keep()
    except (ChildFailed, WorkerError, EnqueueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if engine == "spool":
        console.print(next_steps(spool), highlight=False, soft_wrap=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
