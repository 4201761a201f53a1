"""`worker enqueue`: one job from the command line, and what is refused."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.command import WORKER, Cli


def test_a_job_is_stored_and_its_id_printed(relay: Cli) -> None:
    result = relay.ok("enqueue", "relay", "deliveries", '{"to": "café"}')
    (job,) = result.out.splitlines()
    assert len(job) == 32
    assert relay.queues()["deliveries"]["ready"] == 1
    assert relay.kill_jobs("deliveries") == [job]
    assert relay.ok("dead", "show", "relay", job, "--json").json["payload"] == {"to": "café", "weight": None}


def test_the_queue_may_be_named_by_its_attribute(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "daily_digests", "1")
    assert relay.queues()["digests"]["ready"] == 1


def test_delay_and_run_at(relay: Cli) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    relay.ok("enqueue", "relay", "digests", "1", "--delay", "3600")
    relay.ok("enqueue", "relay", "digests", "2", "--run-at", later.replace("+00:00", "Z"))
    assert relay.queues()["digests"] | {"delayed": 2, "ready": 0} == relay.queues()["digests"]


def test_an_id_of_ones_own_is_stored_once(relay: Cli) -> None:
    for duplicate in (False, True):
        result = relay.ok("enqueue", "relay", "digests", "1", "--id", "today/1")
        assert result.out == "today/1\n"
        told = "a job of id 'today/1' exists on digests already: nothing was queued" in result.err
        assert told == duplicate
    assert relay.queues()["digests"]["ready"] == 1


def test_options_of_one_job_and_of_many(relay: Cli) -> None:
    given = ("--priority", "0", "--timeout", "2.5", "--max-retries", "1", "--ttl", "600", "--header", "tenant=acme=1")
    relay.ok("enqueue", "relay", "digests", "1", *given)
    relay.ok("enqueue", "relay", "digests", "-", *given, stdin="2\n3\n")
    for job in relay.kill_jobs("digests"):
        extras = relay.ok("dead", "show", "relay", job, "--json").json["extras"]
        assert (extras["priority"], extras["timeout"], extras["retry"]["max_retries"]) == (0, 2.5, 1)


@pytest.mark.parametrize(
    ("given", "code", "error"),
    [
        (("--priority", "10"), 2, "Invalid value for '--priority': 10 is not in the range 0<=x<=9"),
        (("--max-retries", "-1"), 2, "--max-retries: max_retries=-1: must be 0 or more"),
        (("--header", "tenant"), 2, "--header 'tenant': write NAME=TEXT"),
        (("--header", "baggage=x"), 2, "headers: 'baggage' is set by the framework: choose another name"),
        (("--timeout", "-1"), 2, "timeout=-1.0: must be more than 0 and at most 1e+09 s"),
    ],
)
def test_a_wrong_option_is_refused(relay: Cli, given: tuple[str, ...], code: int, error: str) -> None:
    result = relay.run("enqueue", "relay", "digests", "1", *given)
    assert (result.code, result.out) == (code, "")
    assert error in result.err
    lines = relay.run("enqueue", "relay", "digests", "-", *given, stdin="1\n")
    assert (lines.code, error in lines.err) == (code, True)
    assert relay.queues()["digests"]["ready"] == 0


def test_a_negative_number_after_two_dashes(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "digests", "--", "-5")
    (job,) = relay.kill_jobs("digests")
    assert relay.ok("dead", "show", "relay", job, "--json").json["payload"] == -5


def test_pydantics_own_words_by_a_setting(relay: Cli) -> None:
    full = {"WORKER_PAYLOAD_ERRORS": "full"}
    result = relay.run("enqueue", "relay", "deliveries", '{"to": {"a": 1}}', env=full)
    assert result.error == "queue 'deliveries': payload does not fit: to: Input should be a valid string"
    result = relay.run("enqueue", "relay", "deliveries", "-", stdin='{"to": "a", "to": "b"}\n', env=full)
    assert "duplicate key 'to'" in result.error


NESTED = '{"to": ' + "[" * 1000 + "]" * 1000 + "}"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ('{"to": "a", "weight": NaN}', "NaN is not JSON"),
        ('{"to": "a", "weight": -Infinity}', "-Infinity is not JSON"),
        ('{"to": "a", "weight": 1e999}', "a number is too large"),
        ('{"to": "a", "to": "b"}', "payload is not strict JSON: duplicate key"),
        (NESTED, "nested deeper than 100"),
        ('{"to": "\\ud83d"}', "a lone surrogate"),
        ('{"to": }', "payload is not JSON: Expecting value at character 8"),
        ("", "payload is not JSON: Expecting value at character 1"),
        ('{"to": "', "payload is not JSON: Unterminated string starting at character 8"),
        (f'{{"weight": -{"9" * 5000}}}', "payload is not strict JSON: a number has 5,000 digits, which is too many"),
        ('{"to": "a"} {"to": "b"}', "payload is not JSON: Extra data at character 13"),
        ('{"weight": 1}', "payload does not fit: to: missing (WORKER_PAYLOAD_ERRORS=full says more, "),
        ('{"to": {"a": "secret-1"}}', "payload does not fit: to: string_type ("),
        ('"secret-1"', "payload does not fit: payload: model_type ("),
        (json.dumps({"to": "x" * 3000}), "payload has 3,023 bytes, max_payload_bytes is 2,000"),
    ],
)
def test_a_bad_payload_is_refused(relay: Cli, payload: str, message: str) -> None:
    result = relay.run("enqueue", "relay", "deliveries", payload)
    assert (result.code, result.out) == (1, "")
    assert result.error.startswith("queue 'deliveries': ")
    assert message in result.error
    assert "secret-1" not in result.err
    assert relay.queues()["deliveries"]["ready"] == 0


def test_bytes_that_are_no_text(relay: Cli) -> None:
    done = subprocess.run(
        [WORKER.encode(), b"enqueue", b"relay", b"deliveries", b'{"to": "\xff"}'],
        capture_output=True,
        cwd=relay.home,
        env=relay.environ,
        text=True,
    )
    assert done.returncode == 1
    assert "lone surrogate" in done.stderr


def test_a_full_queue(relay: Cli) -> None:
    for number in range(3):
        relay.store("digests", number, str(number))
    result = relay.run("enqueue", "relay", "digests", "4")
    assert (result.code, result.out) == (1, "")
    assert "queue 'digests' holds 3 jobs" in result.error
    assert relay.queues()["digests"]["ready"] == 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("delivery", "'delivery'; did you mean 'deliveries'?"),
        ("q" * 300, repr("q" * 100 + "…")),
        ("../../etc", "'../../etc'"),
        ("a\x1b[31m\nb", r"'a\x1b[31m\nb'"),
        ("", "''"),
    ],
)
def test_an_unknown_queue(relay: Cli, name: str, shown: str) -> None:
    refused(relay, shown, "enqueue", "relay", name, "1")


@pytest.mark.parametrize("args", [("run", "relay", "--queue"), ("dead", "list", "relay", "--queue")])
def test_an_unknown_queue_elsewhere(relay: Cli, args: tuple[str, ...]) -> None:
    refused(relay, "'../../etc'", *args, "../../etc")


def refused(relay: Cli, shown: str, *args: str) -> None:
    result = relay.run(*args)
    assert result.code == 2
    assert result.error.startswith(f"Relay has no queue {shown}")
    assert result.error.endswith("(it has dead-letters, deliveries, digests)")
    assert not relay.spool.exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--delay", "-1"), 2, "delay=-1: write 0 or more seconds"),
        (("--delay", "nan"), 2, "delay=nan"),
        (("--delay", "1", "--run-at", "2030-01-01T00:00:00Z"), 2, "--delay and --run-at exclude each other"),
        (("--run-at", "2030-01-01T00:00:00"), 2, "has no time zone: write 2030-01-01T00:00:00Z"),
        (("--run-at", "tomorrow"), 2, "--run-at 'tomorrow' is no moment"),
        (("--id", "x" * 256), 2, "1 to 255 printable characters"),
        (("--id", "a\nb"), 2, "1 to 255 printable characters"),
    ],
)
def test_wrong_options(relay: Cli, options: tuple[str, ...], code: int, message: str) -> None:
    result = relay.run("enqueue", "relay", "digests", "1", *options)
    assert (result.code, result.out) == (code, "")
    assert message in result.error


def test_dead_letters_are_not_enqueued(relay: Cli) -> None:
    result = relay.run("enqueue", "relay", "dead-letters", "{}")
    assert result.code == 2
    assert "takes dead letters, which are not enqueued: see `worker dead --help`" in result.error


def test_a_payload_is_read_by_the_rules_for_json(cli: Cli) -> None:
    """A strict model takes a date from JSON, though not from a Python string; a decimal keeps its digits."""
    cli.write(
        "relay.py",
        """
        from datetime import date
        from decimal import Decimal
        from pydantic import BaseModel, ConfigDict
        from framework import Queue, WorkerApp

        class Bill(BaseModel):
            model_config = ConfigDict(strict=True)
            due: date
            sum: Decimal

        class Relay(WorkerApp):
            digests = Queue[Bill]("digests")
        """,
    )
    cli.ok("enqueue", "relay", "digests", '{"due": "2030-02-01", "sum": "0.12345678901234567890"}')
    (job,) = cli.kill_jobs("digests")
    payload = cli.ok("dead", "show", "relay", job, "--json").json["payload"]
    assert payload == {"due": "2030-02-01", "sum": "0.12345678901234567890"}


def test_a_validator_that_calls_exit_decides_no_exit_code(cli: Cli) -> None:
    cli.write(
        "relay.py",
        """
        import sys
        from typing import Annotated
        from pydantic import AfterValidator
        from framework import Queue, WorkerApp

        class Relay(WorkerApp):
            digests = Queue[Annotated[int, AfterValidator(lambda number: sys.exit("secret-1"))]]("digests")
        """,
    )
    result = cli.run("enqueue", "relay", "digests", "1")
    assert (result.code, result.error) == (1, "queue 'digests': payload does not fit: SystemExit in a validator")
