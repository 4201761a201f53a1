"""Which service is meant, and what `.env` says of it."""

from __future__ import annotations

import pytest

from tests.support.command import RELAY, Cli


def test_check_shows_the_queues_as_they_would_run(relay: Cli) -> None:
    result = relay.ok("check", "relay", env={"WORKER_QUEUES__DELIVERIES__WORKERS": "7"})
    titles = result.out.splitlines()[0].split("\t")
    assert titles == ["queue", "payload", "handler", "at", "workers", "concurrency", "timeout", "retry", "dead letter"]
    assert result.rows == [
        ["dead-letters", "DeadLetter", "none", "-", "-", "-", "30s", "10x 1s to 1h", "-"],
        ["deliveries", "Delivery", "deliver async", "relay.py:18", "7", "5", "30s", "never", "dead-letters"],
        ["digests", "int", "digest sync", "relay.py:22", "1", "1", "30s", "never", "-"],
    ]
    assert result.err == ""  # a dead-letter queue needs no handler
    assert not relay.spool.exists()


POOLED = """
from framework import Pool, Queue, WorkerApp
class Relay(WorkerApp):
    light = Pool("light", workers=0)
    mails = Queue[int]("mails", pool=light)
    texts = Queue[int]("texts", pool=light)
    calls = Queue[int]("calls")
    @mails.handler
    def mail(self, number: int) -> None: ...
    @texts.handler
    def text(self, number: int) -> None: ...
    @calls.handler
    def call(self, number: int) -> None: ...
"""


def test_check_warns_of_queues_and_pools_without_workers(cli: Cli) -> None:
    cli.write("relay.py", POOLED)
    result = cli.ok("check", "relay", env={"WORKER_QUEUES__CALLS__WORKERS": "0"})
    wait = "has workers=0: its jobs wait for another service"
    assert result.err.splitlines() == [
        f"worker: warning: relay.py:3: pool 'light' {wait}",
        f"worker: warning: relay.py:6: queue 'calls' {wait}",
    ]


def test_check_shows_limits_after_settings(cli: Cli) -> None:
    cli.write("relay.py", POOLED)
    assert "limits" not in cli.ok("check", "relay").out
    limited = {"WORKER_QUEUES__CALLS__MAX_RUNNING": "3", "WORKER_QUEUES__CALLS__RATE": "20/s"}
    assert "max 3, 20/s" in cli.ok("check", "relay", env=limited).out


def test_a_pool_is_no_queue(cli: Cli) -> None:
    cli.write("relay.py", POOLED)
    result = cli.run("run", "relay", "--queue", "light")
    assert (result.code, result.error) == (2, "'light' is a pool, not a queue: name its queues (mails, texts)")


def test_check_refuses_a_payload_that_cannot_be_stored(cli: Cli) -> None:
    source = (
        "from framework import Queue, WorkerApp\nclass Odd: ...\nclass Relay(WorkerApp):\n    odd = Queue[Odd]('odd')\n"
    )
    cli.write("relay.py", source)
    result = cli.run("check", "relay")
    assert result.code == 2
    assert result.error.startswith("relay.py:4: queue 'odd' carries <class 'relay.Odd'>, which pydantic cannot")


@pytest.mark.parametrize("args", [("run",), ("check",), ("queues",), ("enqueue", "digests", "1"), ("dead", "list")])
def test_an_unknown_module(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli.run(*args, env={"WORKER_MODULE": "services.nowhere"})
    assert result.code == 2
    assert result.error == f"no module services (searched from {cli.home})"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1/0", "relay cannot be imported: ZeroDivisionError: division by zero ("),
        ("raise ValueError('two\\nlines \\x1b[31m')", "relay cannot be imported: ValueError: two lines \\x1b[31m ("),
        ("import sys; sys.exit(7)", "relay cannot be imported: it calls sys.exit(7)"),
        ("import no_such_package", "relay imports no_such_package, which is not installed"),
        ("def (", "relay cannot be imported: SyntaxError"),
        ("", "relay has no WorkerApp"),
        (
            "from framework import WorkerApp\nclass A(WorkerApp): ...\nclass B(WorkerApp): ...",
            "choose one of relay:A, relay:B",
        ),
    ],
)
def test_a_module_that_is_no_service(cli: Cli, source: str, message: str) -> None:
    cli.write("relay.py", source)
    result = cli.run("check", "relay")
    assert (result.code, result.out) == (2, "")
    assert message in result.error


def test_one_app_of_two(cli: Cli) -> None:
    cli.write("relay.py", RELAY + "\n\nclass Other(WorkerApp):\n    pings = Queue[int]('pings')\n")
    assert [row[0] for row in cli.ok("check", "relay:Other").rows] == ["pings"]
    assert "relay:Nobody is no WorkerApp; relay has Relay, Other" in cli.run("check", "relay:Nobody").error


def test_the_module_may_come_from_the_environment(relay: Cli) -> None:
    env = {"WORKER_MODULE": "relay"}
    job = relay.ok("enqueue", "digests", "1", env=env).out.strip()
    assert relay.ok("queues", env=env).rows[2][:2] == ["digests", "1"]
    relay.kill_jobs("digests")
    assert relay.ok("dead", "list", env=env).rows[0][0] == job
    assert "refused" in relay.ok("dead", "show", job, env=env).out
    assert relay.ok("dead", "replay", job, env=env).out == "replayed 1 dead letter\n"
    relay.kill_jobs("digests")
    assert relay.ok("dead", "discard", "--yes", job, env=env).out == "deleted 1 dead letter\n"


def test_a_module_that_is_named_wins_over_the_environment(relay: Cli) -> None:
    env = {"WORKER_MODULE": "other"}
    job = relay.ok("enqueue", "relay", "digests", "1", env=env).out.strip()
    relay.kill_jobs("digests")
    assert relay.ok("dead", "replay", "relay", job, env=env).out == "replayed 1 dead letter\n"


def test_dotenv_counts_for_everything(relay: Cli) -> None:
    relay.write(".env", f"WORKER_MODULE=relay\nWORKER_ENGINE_URL=spool:{relay.home}/elsewhere\nWORKER_TYPO=1\n")
    env = {"WORKER_ENGINE_URL": None}
    relay.ok("enqueue", "digests", "1", env=env)
    assert (relay.home / "elsewhere" / "digests").is_dir()
    assert "WORKER_TYPO is set" in relay.ok("check", env=env).err


def test_the_environment_wins_over_dotenv(relay: Cli) -> None:
    relay.write(".env", "WORKER_ENGINE_URL=redis://wrong\n")
    relay.ok("enqueue", "relay", "digests", "1")
    assert relay.spool.is_dir()


def test_a_dotenv_that_is_not_text(relay: Cli) -> None:
    (relay.home / ".env").write_bytes(b"A=\xff\xfe\n")
    result = relay.run("check", "relay")
    assert result.code == 2
    assert result.error.startswith(f".env in {relay.home} cannot be read: ")


def test_a_bug_shows_its_traceback(relay: Cli) -> None:
    """What is not an error on purpose must not be hidden."""
    relay.write(
        "relay.py",
        """
        from framework import Queue, WorkerApp

        class Relay(WorkerApp):
            digests = Queue[int]("digests")
            @classmethod
            def connect(cls, settings=None):
                raise KeyError("a bug")
        """,
    )
    result = relay.run("enqueue", "relay", "digests", "1")
    assert result.code == 1
    assert "Traceback" in result.err


def test_a_constructor_that_fails_is_one_line_of_check_and_run(relay: Cli) -> None:
    constructor = "    def __init__(self) -> None:\n        self.dsn = os.environ['DB_DSN']\n"
    relay.write("broken.py", f"import os\nfrom relay import *\nclass Broken(Relay):\n{constructor}")
    for command in ("check", "run"):
        result = relay.run(command, "broken")
        assert result.code == 1
        assert "Broken() fails: KeyError: 'DB_DSN' (" in result.error
        assert result.error.endswith("broken.py:5)")
