"""Of an address scheme, host and port are shown, and nothing else, also inside what libraries say."""

from __future__ import annotations

import pytest

from framework.engine.port import shown
from framework.model.text.redaction import address, hider, redact


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://me:hush@host:4318/p/hush?token=hush#hush", "http://host:4318"),
        ("https://host", "https://host"),
        ("me:hush@host:4317", "host:4317"),
        ("host:4317/hush", "host:4317"),
        ("//me:hush@host/hush", "host"),
        ("http://[::1]:4318/hush", "http://[::1]:4318"),
        ("http://me:12/34@host/", "http://…"),
        ("http://me:hu#sh@host/", "http://…"),
        ("http://me:hu?sh@host/", "http://…"),
        ("http://host:hush", "http://…"),
        ("http://host hush", "http://…"),
        ("http://@", "http://…"),
        ("http://me:p@ss@host:1", "http://host:1"),
        ("postgres://me:hush@db/name?password=hush", "postgres://db"),
        ("hush://hush://hush@host", "hush://…"),
        ("", "…"),
    ],
)
def test_an_address(url, seen):
    assert address(url) == seen


def test_an_engine_is_shown_where_its_address_is_a_directory():
    assert shown("spool:/var/spool?durability=process") == "spool:/var/spool?durability=process"
    assert shown("postgres://me:hush@db:5432/name") == "postgres://db:5432"
    assert shown("spool:/x?durability=process&password=hush&flag") == "spool:/x?durability=process&password=…&flag"
    assert shown("me:hush@db") == "db"
    assert shown("/var/spool") == "/var/spool"


SECRET = "s3cr3tW0rd"
ENVIRON = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}%2F@host:4318/p/{SECRET}path?token={SECRET}&x=other-secret#frag",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"authorization=Bearer%20{SECRET},x-api-key={SECRET}-two",
    "https_proxy": f"http://user:{SECRET}@proxy:3128",
    "WORKER_ENGINE_URL": f"postgres://user:{SECRET}@db/name",
}


@pytest.mark.parametrize(
    "text",
    [
        f"HTTPConnectionPool(host='host'): Max retries exceeded with url: /p/{SECRET}path/v1/traces?token={SECRET}",
        f"http://host:4318 \"POST /p/{SECRET}path?token={SECRET} HTTP/1.1\" 401 0",
        f"DNS resolution failed for user:{SECRET}%2F@host:4318",
        f"No connection adapters were found for 'http://user:{SECRET}@host/v1/traces'",
        f"Invalid header value: 'Bearer {SECRET}', {SECRET}-two",
        f"Cannot connect to proxy http://user:{SECRET}@proxy:3128, (Caused by X)",
        "Basic dXNlcjpzM2NyM3RXMHJkLw==",
        "x=other-secret&more",
    ],
)  # fmt: skip
def test_messages_of_libraries(monkeypatch, text):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    for found in (redact(text), hider(ENVIRON)(text)):
        assert SECRET not in found
        assert "other-secret" not in found
        assert "dXNlcjpzM2NyM3RXMHJkLw==" not in found


@pytest.mark.parametrize("value", [f"user:{SECRET}@host:9/{SECRET}", f"host:9/{SECRET}?t={SECRET}", f"{SECRET}@host"])
def test_an_address_without_a_scheme(value: str) -> None:
    """Regression: requests quotes what it cannot send to, and doctor and log showed the password."""
    said = f"InvalidSchema: No connection adapters were found for '{value}/v1/traces'"
    assert SECRET not in hider({"OTEL_EXPORTER_OTLP_ENDPOINT": value})(said)


def test_where_nothing_is_secret_a_text_stays_as_it_is():
    text = "File opentelemetry/exporter/otlp/proto.py, line 1: spool and worker"
    plain = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318/v1/traces", "WORKER_ENGINE_URL": "spool:/x"}
    assert hider(plain)(text) == text
    assert hider({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h/otlp"})(text) == text
