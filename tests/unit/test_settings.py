"""Settings from the environment: each override, and each mistake as one line that names the variable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from framework import Queue, RetryPolicy, Settings, WorkerApp
from framework.model.errors import SettingsError
from framework.model.options import QueueOptions
from framework.service.options import resolve
from framework.service.settings import check_names, load_dotenv, load_settings, unknown_variables


class Relay(WorkerApp):
    deliveries = Queue[int]("deliveries", timeout=10, retry=RetryPolicy(max_retries=3, give_up_on=(KeyError,)))
    Big_Reports = Queue[int]("big-reports")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("WORKER_")]:
        monkeypatch.delenv(name)


def options(monkeypatch: pytest.MonkeyPatch, **variables: str) -> QueueOptions:
    for name, value in variables.items():
        monkeypatch.setenv(f"WORKER_QUEUES__DELIVERIES__{name}", value)
    return resolve(Relay.deliveries, load_settings())


def read() -> None:
    settings = load_settings()
    check_names(settings, Relay.worker_queues, Relay.worker_pools)
    for queue in Relay.worker_queues.values():
        resolve(queue, settings)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.engine_url, settings.drain_seconds) == ("spool:./var/spool", 25.0)
    assert (settings.restart_budget, settings.restart_window) == (10, 60.0)
    assert resolve(Relay.deliveries, settings).attribute == "deliveries"
    assert resolve(Relay.deliveries, settings).timeout == 10.0


@pytest.mark.parametrize(
    ("variable", "value", "option", "expected"),
    [
        ("WORKERS", "0", "workers", 0),
        ("CONCURRENCY", "20", "concurrency", 20),
        ("TIMEOUT", "2.5", "timeout", 2.5),
        ("TIMEOUT", "none", "timeout", None),
        ("KILL_AFTER", "1", "kill_after", 1.0),
        ("TTL", "3600", "ttl", 3600.0),
        ("TTL", "none", "ttl", None),
        ("MAX_LENGTH", "5", "max_length", 5),
        ("MAX_LENGTH", "none", "max_length", None),
        ("MAX_PAYLOAD_BYTES", "10", "max_payload_bytes", 10),
        ("MAX_JOBS_PER_PROCESS", "7", "max_jobs_per_process", 7),
        ("MAX_JOBS_PER_PROCESS", "none", "max_jobs_per_process", None),
        ("MAX_MEMORY", "512MiB", "max_memory", 512 * 2**20),
        ("MAX_MEMORY", "1000000", "max_memory", 1_000_000),
    ],
)
def test_each_override(variable: str, value: str, option: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(options(monkeypatch, **{variable: value}), option) == expected


@pytest.mark.parametrize(
    ("variable", "value", "option", "expected"),
    [
        ("MAX_RETRIES", "0", "max_retries", 0),
        ("FIRST_DELAY", "0.5", "first_delay", 0.5),
        ("FACTOR", "2", "factor", 2.0),
        ("MAX_DELAY", "9", "max_delay", 9.0),
        ("JITTER", "false", "jitter", False),
    ],
)
def test_each_retry_override(
    variable: str, value: str, option: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry = options(monkeypatch, **{f"RETRY__{variable}": value}).retry
    assert getattr(retry, option) == expected
    assert retry.give_up_on == (KeyError,)
    assert option == "max_retries" or retry.max_retries == 3


def test_the_key_is_the_attribute_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES__BIG_REPORTS__WORKERS", "6")
    settings = load_settings()
    check_names(settings, Relay.worker_queues, Relay.worker_pools)
    assert resolve(Relay.Big_Reports, settings).workers == 6
    assert resolve(Relay.deliveries, settings).workers == 1


def test_plain_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_ENGINE_URL", "spool:/data")
    monkeypatch.setenv("WORKER_DRAIN", "none")
    monkeypatch.setenv("WORKER_START_METHOD", "spawn")
    settings = load_settings()
    assert (settings.engine_url, settings.drain_seconds, settings.start_method) == ("spool:/data", None, "spawn")
    assert Settings(engine_url="memory:").engine_url == "memory:"


def test_unknown_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, WORKER_QUEUES__DELIVERES__WORKERS="2")
    assert text == "WORKER_QUEUES__DELIVERES__WORKERS: no queue 'deliveres'; did you mean DELIVERIES?"


def test_unknown_queue_with_a_retry_option_and_without_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, WORKER_QUEUES__ZZZ__RETRY__FACTOR="2") == "WORKER_QUEUES__ZZZ__RETRY: no queue 'zzz'"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("QUEUES__DELIVERIES__WORKRES", "2", "no option 'workres'; did you mean workers?"),
        ("QUEUES__DELIVERIES__RETRY__FIRST_DEALY", "2", "no option 'first_dealy'; did you mean first_delay?"),
        ("QUEUES__DELIVERIES__WORKERS", "two", "'two': input should be a valid integer"),
        ("QUEUES__DELIVERIES__WORKERS", "2.5", "'2.5': input should be a valid integer"),
        ("QUEUES__DELIVERIES__WORKERS", "-1", "must be 0 or more"),
        ("QUEUES__DELIVERIES__CONCURRENCY", "0", "must be 1 or more"),
        ("QUEUES__DELIVERIES__WORKERS", "99999999999", "must be at most 1000"),
        ("QUEUES__DELIVERIES__CONCURRENCY", "999999999", "must be at most 10000"),
        ("QUEUES__DELIVERIES__TIMEOUT", "0", "must be more than 0 seconds"),
        ("QUEUES__DELIVERIES__TIMEOUT", "nan", "must be more than 0 seconds"),
        ("QUEUES__DELIVERIES__KILL_AFTER", "inf", "must be more than 0 seconds"),
        ("QUEUES__DELIVERIES__MAX_LENGTH", "0", "must be 1 or more"),
        ("QUEUES__DELIVERIES__MAX_MEMORY", "lots", "write it as 512MiB"),
        ("QUEUES__DELIVERIES__RETRY__MAX_RETRIES", "-1", "must be 0 or more"),
        ("QUEUES__DELIVERIES__RETRY__MAX_DELAY", "-1", "must be 0 or more seconds"),
        ("QUEUES__DELIVERIES__RETRY__FACTOR", "0.5", "must be 1 or more"),
        ("QUEUES__DELIVERIES__RETRY__JITTER", "perhaps", "input should be a valid boolean"),
        ("DRAIN", "-1", "input should be greater than or equal to 0"),
        ("DRAIN", "inf", "input should be a finite number"),
        ("DRAIN", "1e308", "input should be less than or equal to 1000000000"),
        ("RESTART_WINDOW", "1e308", "input should be less than or equal to 1000000000"),
        ("READY_WITHIN", "inf", "input should be a finite number"),
        ("TELEMETRY_FLUSH", "inf", "input should be a finite number"),
        ("TRACE_PARENT_WITHIN", "nan", "input should be a finite number"),
        ("HEALTH", "127.0.0.1:\u00b2", "write it as host:port"),
        ("HEALTH", "a\udced:80", "write it as host:port"),
        ("DRAIN", "soon", "input should be a valid number"),
        ("RESTART_BUDGET", "0", "input should be greater than or equal to 1"),
        ("START_METHOD", "threads", "'threads': input should be 'auto', 'fork' or 'spawn'"),
        ("NETWORK_FILE_SYSTEM", "7", "input should be a valid boolean"),
        ("QUEUES", "abc", "write it as JSON"),
        ("POOLS", "light=5", "write it as JSON"),
        ("QUEUES__DELIVERIES", "abc", "set one variable for each option, WORKER_QUEUES__DELIVERIES__<OPTION>"),
        ("QUEUES__DELIVERIES__RETRY", "3", "WORKER_QUEUES__DELIVERIES__RETRY__<OPTION>"),
    ],
)
def test_mistakes_name_the_variable(variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, **{f"WORKER_{variable}": value})
    assert text.startswith((f"WORKER_{variable}: ", f"WORKER_{variable}="))
    assert expected in text


def test_a_limit_that_is_neither_a_number_nor_none_is_one_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, WORKER_QUEUES__DELIVERIES__TIMEOUT="soon")
    assert text == "WORKER_QUEUES__DELIVERIES__TIMEOUT='soon': input should be a valid number, or 'none'"


def test_levels_and_formats_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("WORKER_LOG_FORMAT", "Json")
    settings = load_settings()
    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_two_mistakes_are_both_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, WORKER_DRAIN="soon", WORKER_LOG_LEVEL="loud")
    assert "WORKER_DRAIN='soon'" in text
    assert "WORKER_LOG_LEVEL='loud'" in text


def test_unknown_variables_warn_with_the_nearest_name() -> None:
    environment = {
        "WORKER_ENGINE_ULR": "x",
        "WORKER_MODULE": "services.x",
        "WORKER_QUEUES__A__WORKERS": "1",
        "WORKER_ZZZZZZZZZZ": "",
        "OTHER": "",
    }
    assert unknown_variables(environment) == [
        "WORKER_ENGINE_ULR is set, but nothing reads it; did you mean WORKER_ENGINE_URL?",
        "WORKER_ZZZZZZZZZZ is set, but nothing reads it",
    ]
    assert unknown_variables() == []


def test_dotenv_reaches_every_reader_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKER_DRAIN=3\nOTEL_SERVICE_NAME='a b'\nexport X=1\n# comment\nEMPTY\nSET=file\n")
    environment = {"SET": "environment"}
    load_dotenv(str(tmp_path / ".env"), environment)
    assert environment == {"WORKER_DRAIN": "3", "OTEL_SERVICE_NAME": "a b", "X": "1", "SET": "environment"}
    load_dotenv(str(tmp_path / "missing"), environment)
    assert len(environment) == 4


def test_settings_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_settings().drain = 3  # type: ignore[misc]


def test_the_old_name_of_the_engine_counts_and_one_line_says_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKER_ENGINE_URL", raising=False)
    monkeypatch.setenv("WORKER_BROKER_URL", "spool:/old")
    assert Settings().engine_url == load_settings().engine_url == "spool:/old"
    assert Settings(engine_url="spool:/given").engine_url == "spool:/given"
    assert unknown_variables() == ["WORKER_BROKER_URL is now WORKER_ENGINE_URL: rename it"]
    monkeypatch.setenv("WORKER_ENGINE_URL", "spool:/new")
    assert Settings().engine_url == "spool:/new"
    [said] = unknown_variables()
    assert said == "WORKER_BROKER_URL is now WORKER_ENGINE_URL, which is set and counts: remove the old one"
