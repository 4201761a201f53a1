"""What the tests of the command line stand on: running it, with pipes or on a terminal, and jobs that died."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from framework.engine.port import Engine, open_engine
from framework.model.job import Failure, Job
from framework.model.options import QueueOptions
from tests.support.settling import bury
from tests.support.settling import rest as handled
from tests.support.warm import WORKER, run

TIMEOUT = 60  # seconds in which any command must have ended; far above what one takes
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEBACK = (
    'Traceback (most recent call last):\n  File "relay.py", line 9, in deliver\nOSError: refused \x1b]0;owned\x07'
)

RELAY = """
from pydantic import BaseModel
from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp


class Delivery(BaseModel):
    to: str
    weight: float | None = None


class Relay(WorkerApp):
    dead_letters = Queue[DeadLetter]("dead-letters")
    deliveries = Queue[Delivery](
        "deliveries", concurrency=5, max_length=300, max_payload_bytes=2000, retry=RetryPolicy(max_retries=0),
        dead_letter=dead_letters,
    )
    daily_digests = Queue[int]("digests", max_length=3, retry=RetryPolicy(max_retries=0))

    @deliveries.handler
    async def deliver(self, delivery: Delivery, ctx: Context) -> None:
        print(f"delivered to {delivery.to}\\n", end="", flush=True)  # one write: the log of others comes between two

    @daily_digests.handler
    def digest(self, number: int) -> None:
        raise OSError(f"no digest {number}")
"""
OPTIONS = (
    QueueOptions("dead-letters", is_dead_letter=True),
    QueueOptions("deliveries", dead_letter="dead-letters"),
    QueueOptions("digests"),
)


@dataclass(frozen=True)
class Result:
    """What a command did; the streams as text."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """Plain output as cells, without the titles."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]

    @property
    def error(self) -> str:
        """The error, which must be the one line on standard error but for warnings."""
        lines = [line for line in self.err.splitlines() if not line.startswith("worker: warning: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("worker: error: "), self.err
        return lines[0].removeprefix("worker: error: ")


class Cli:
    """`worker` in one directory. Nothing of the surrounding environment decides what it does."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.spool = home / "spool"
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "OTEL_", "COLUMNS", "NO_COLOR"))},
            "WORKER_ENGINE_URL": f"spool:{self.spool}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file within a second must not be mistaken
            "TERM": "xterm",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
        return path

    def run(self, *args: str, stdin: str | bytes = b"", env: Mapping[str, str | None] | None = None) -> Result:
        """Through pipes, until it ends."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = run(*args, data=data, cwd=self.home, env=self._env(env), timeout=TIMEOUT)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, stdin: str | bytes = b"", env: Mapping[str, str | None] | None = None) -> Result:
        """The same, and it must succeed."""
        result = self.run(*args, stdin=stdin, env=env)
        assert result.code == 0, result
        return result

    def terminal(
        self,
        *args: str,
        typed: str = "",
        when: str = "",
        before: Callable[[], object] = lambda: None,
        stdin: Path | None = None,
        columns: int = 200,
    ) -> Result:
        """On a terminal of its own, standard error included; `stdin` replaces the keyboard.

        What is typed is typed `when` that is shown, after `before` was called.
        """
        main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        keyboard = other if stdin is None else os.open(stdin, os.O_RDONLY)
        process = subprocess.Popen(
            [WORKER, *args],
            stdin=keyboard,
            stdout=other,
            stderr=other,
            cwd=self.home,
            env=self._env({}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        os.close(other)
        if stdin is not None:
            os.close(keyboard)
        try:
            shown = _read_until(main, when) if typed else b""
            before()
            if typed:
                _until_asleep(process.pid)
            os.write(main, typed.encode())
            shown += _read_until(main)
            return Result(process.wait(TIMEOUT), shown.decode(), "")
        finally:
            process.kill()
            process.wait()
            os.close(main)

    @contextmanager
    def running(self, *args: str, env: Mapping[str, str | None] | None = None) -> Iterator[subprocess.Popen[str]]:
        """While it runs; its log is standard output."""
        process = subprocess.Popen(
            [WORKER, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.home,
            env=self._env(env),
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()  # its children leave when it is gone
            process.communicate()

    def queues(self) -> dict[str, dict[str, Any]]:
        """What `worker queues --json` says, by name."""
        return {found["queue"]: found for found in self.ok("queues", "relay", "--json").json}

    def store(self, queue: str, payload: object, *ids: str, headers: Mapping[str, str] | None = None) -> None:
        """Jobs as enqueues with an id leave them, without the cost of a command."""
        data, now, rest = json.dumps(payload).encode(), time.time(), dict(headers or {})
        with self.broker() as broker:
            broker.enqueue([Job(one, os.urandom(16), queue, data, rest, now, chosen_id=True) for one in ids])

    def kill_jobs(self, queue: str, *, rest: bool = False, count: int = 100) -> list[str]:
        """Makes dead letters of what is ready on a queue, as a worker does; their ids. `rest`: handled, too."""
        killed = []
        with self.broker() as broker:
            for lease in broker.claim([queue], limit=count, wait=0):
                now = time.time()
                bury(broker, lease, failure=_failure(queue, lease.attempt, lease.delivery, now))
                killed.append(lease.job.id)
            if rest:
                for lease in broker.claim(["dead-letters"], limit=count, wait=0):
                    handled(broker, lease)
        return killed

    @contextmanager
    def broker(self) -> Iterator[Engine]:
        broker = open_engine(f"spool:{self.spool}", incarnation=f"test{uuid.uuid4().hex[:8]}")
        broker.open(OPTIONS)
        try:
            yield broker
        finally:
            broker.close()

    def _env(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        return {k: v for k, v in {**self.environ, **(changes or {})}.items() if v is not None}


def _failure(queue: str, attempt: int, delivery: int, now: float) -> Failure:
    return Failure(
        attempt,
        "error",
        "refused \x1b[31mred\nagain",
        TRACEBACK,
        TRACE_ID,
        error_type="OSError",
        span_id="cd" * 8,
        queue=queue,
        delivery=delivery,
        started_at=now - 1.5,
        ended_at=now,
    )


def _read_until(descriptor: int, text: str = "") -> bytes:
    """Until the text was read, or all."""
    found = b""
    while not text or text.encode() not in found:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError as error:  # Linux says so when the last of the other side is closed
            if error.errno != errno.EIO:
                raise
            return found
        if not chunk:
            return found
        found += chunk
    return found


def _until_asleep(pid: int) -> None:
    """Until it waits for the keyboard: a Ctrl-C just before is noted by Python only after the next line."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """The first line of its output that holds a text. Lines before it are gone."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"ended without {text!r}: {''.join(seen)}")
