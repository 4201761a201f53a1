"""What `worker doctor` says of each variable: in force, or ignored and why; never a secret."""

from __future__ import annotations

import os

import pytest
import requests

from framework.doctor.answers import Heard, interpret
from framework.doctor.variables import Variable, shown, variables

OTLP = "OTEL_EXPORTER_OTLP_"


def found(monkeypatch: pytest.MonkeyPatch, **given: str) -> dict[str, Variable]:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return {variable.name: variable for variable in variables(os.environ)}


@pytest.mark.parametrize(
    ("given", "name", "why"),
    [
        ({"OTEL_SDK_DISABLED": "true", "OTEL_SERVICE_NAME": "x"}, "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED=true"),
        ({"OTEL_SDK_DISABLED": "true", "WORKER_TRACE_LINKAGE": "link"}, "WORKER_TRACE_LINKAGE", "no spans"),
        ({"OTEL_SERVICE_NAME": ""}, "OTEL_SERVICE_NAME", "empty"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER", "that signal is off"),
        ({"OTEL_TRACES_EXPORTER": "otlp,zipkin"}, "OTEL_TRACES_EXPORTER", "zipkin is not known here; use"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, f"{OTLP}PROTOCOL", "http/protobuf is used now"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_BSP_SCHEDULE_DELAY": "1"}, "OTEL_BSP_SCHEDULE_DELAY", "signal is off"),
        (
            {"OTEL_METRICS_EXPORTER": "console", f"{OTLP}METRICS_TIMEOUT": "1"},
            f"{OTLP}METRICS_TIMEOUT",
            "not sent by OTLP",
        ),
        (
            {
                f"{OTLP}ENDPOINT": "http://a",
                f"{OTLP}TRACES_ENDPOINT": "http://b",
                f"{OTLP}METRICS_ENDPOINT": "http://c",
            },
            f"{OTLP}ENDPOINT",
            "take its place",
        ),
        ({f"{OTLP}CERTIFICATE": "/ca.pem"}, f"{OTLP}CERTIFICATE", "nothing is encrypted"),
        (
            {f"{OTLP}PROTOCOL": "grpc", f"{OTLP}INSECURE": "true", f"{OTLP}ENDPOINT": "https://a:4317"},
            f"{OTLP}INSECURE",
            "https://",
        ),
        ({"OTEL_SERVICENAME": "x"}, "OTEL_SERVICENAME", "did you mean OTEL_SERVICE_NAME?"),
    ],
)
def test_what_is_ignored_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], name: str, why: str
) -> None:
    assert why in found(monkeypatch, **given)[name].ignored


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({f"{OTLP}ENDPOINT": "http://a", f"{OTLP}TRACES_ENDPOINT": "http://b"}, f"{OTLP}ENDPOINT"),
        ({f"{OTLP}CERTIFICATE": "/ca.pem", f"{OTLP}ENDPOINT": "https://a"}, f"{OTLP}CERTIFICATE"),
        ({f"{OTLP}PROTOCOL": "grpc", f"{OTLP}INSECURE": "true", f"{OTLP}ENDPOINT": "a:4317"}, f"{OTLP}INSECURE"),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
            "OTEL_TRACES_SAMPLER_ARG",
        ),
        ({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_BLRP_SCHEDULE_DELAY": "9"}, "OTEL_BLRP_SCHEDULE_DELAY"),
        ({"OTEL_SDK_DISABLED": "false"}, "OTEL_SDK_DISABLED"),
        ({"OTEL_SDK_DISABLED": "true", "WORKER_LOG_LEVEL": "error"}, "WORKER_LOG_LEVEL"),
    ],
)
def test_what_counts_is_in_force(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], name: str) -> None:
    assert found(monkeypatch, **given)[name].ignored == ""


def test_variables_that_this_product_does_not_read_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "http://a",
        "OTEL_PYTHON_HTTPX_EXCLUDED_URLS": "a",
        "OTEL_LOG_LEVEL": "x",
    }
    assert found(monkeypatch, OTEL_SERVICE_NAME="shop", **others).keys() & {*others, "OTEL_SERVICE_NAME"} == {
        "OTEL_SERVICE_NAME"
    }


def test_the_reason_of_a_value_that_cannot_be_used_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "-1")
    settled = {"OTEL_SPAN_LINK_COUNT_LIMIT": "is ignored: it must be 0 to 9"}
    assert variables(os.environ, settled=settled)[-1].ignored == "it must be 0 to 9"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    [limit] = [one for one in variables(os.environ, settled=settled) if one.name in settled]
    assert limit.ignored == "OTEL_SDK_DISABLED=true turns everything off"


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        (f"{OTLP}HEADERS", "api-key=hush,x = hush ,hush", "api-key=…,x=…,…"),
        (f"{OTLP}ENDPOINT", "https://me:hush@host:4318/v1?key=hush", "https://host:4318"),
        (f"{OTLP}ENDPOINT", "me:hush@host:4317", "host:4317"),
        (f"{OTLP}ENDPOINT", "host:4317", "host:4317"),
        ("OTEL_SERVICE_NAME", "shop", "shop"),
        ("OTEL_EXPORTER_OTLP_HEADRES", "api-key=hush", "…"),
    ],
)
def test_secrets_are_hidden(name: str, value: str, seen: str) -> None:
    assert shown(name, value) == seen


@pytest.mark.parametrize(
    ("code", "reason", "state", "hint"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; Connection refused (111)",
            "unreachable",
            "start a collector",
        ),
        ("UNAVAILABLE", "DNS resolution failed for nowhere:4317", "unreachable", "start a collector"),
        ("UNAVAILABLE", "the queue is full", "refused", "tries again"),
        ("UNAVAILABLE", "Ssl handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER", "tls", "http://"),
        ("UNAVAILABLE", "Trying to connect an http1.x server", "refused", "http/protobuf"),
        ("UNAVAILABLE", "Failed parsing HTTP/2 (Expected SETTINGS frame as the first)", "refused", "http/protobuf"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "timeout", "collector"),
        ("INTERNAL", "it broke", "refused", ""),
    ],
)
def test_codes_of_grpc(code: str, reason: str, state: str, hint: str) -> None:
    heard = Heard(status=code, reason=reason, seconds=1.0)
    heard.done.set()
    answer = interpret(heard, "traces", grpc=True, url="http://host:4317", limit=10)
    assert answer.state == state
    assert hint in answer.hint


def test_an_endpoint_without_a_scheme_is_told_how_to_write_it() -> None:
    heard = Heard(error=requests.exceptions.InvalidSchema("No connection adapters were found"))
    heard.done.set()
    answer = interpret(heard, "traces", grpc=False, url="127.0.0.1:4318", limit=10)
    assert (answer.state, answer.hint) == (
        "broken",
        "the endpoint needs a scheme: write http://127.0.0.1:4318",
    )


def test_an_answer_that_cannot_be_read_is_no_yes() -> None:
    heard = Heard(status=200, reason="OK", content=b"\xff\xff\xff", content_type="application/x-protobuf")
    heard.done.set()
    assert interpret(heard, "metrics", grpc=False, url="http://host", limit=10).state == "refused"
