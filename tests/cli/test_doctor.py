"""`worker doctor` against receivers that take, refuse, hang and are not there."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.support.command import Cli, Result
from tests.support.programs import free_port
from tests.support.receiver import GrpcReceiver, Receiver

ALL = {"OTEL_LOGS_EXPORTER": "otlp"}


def to(receiver: Receiver | GrpcReceiver, **more: str) -> dict[str, str | None]:
    return {**receiver.env(), **more}


def ways_of(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    return {(test["signal"], test["by"]): test for test in result.json["tests"]}


def variables_of(result: Result) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in result.json["variables"]}


def _bundle() -> str:
    """The authorities that everybody trusts; not ours."""
    import certifi

    return certifi.where()


@pytest.fixture(params=["http", "grpc"])
def any_receiver(request: pytest.FixtureRequest) -> Iterator[Receiver | GrpcReceiver]:
    with Receiver() if request.param == "http" else GrpcReceiver() as made:
        yield made


def test_everything_arrives_and_says_so(relay: Cli, any_receiver: Receiver | GrpcReceiver) -> None:
    result = relay.ok("doctor", "relay", "--json", env=to(any_receiver, **ALL))
    ways = [("traces", "ring"), ("traces", "sdk"), ("metrics", "ring"), ("metrics", "sdk"), ("logs", "sdk")]
    found = ways_of(result)
    assert list(found) == ways
    assert {test["state"] for test in found.values()} == {"arrived"}
    assert {test["answer"].split()[0] for test in found.values()} <= {"200", "OK"}
    assert all(0 < test["seconds"] < 10 for test in found.values())
    assert result.json["ok"] is True
    facts = result.json["facts"]
    assert facts["conventions"].startswith("semantic conventions 1.45.0 (messaging.system.name); exceptions are events")
    assert facts["resource"].startswith("service.name=Relay; of each process service.instance.id")
    assert facts["kill"].startswith("a kill loses no attempt")
    spans = any_receiver.spans("doctor Relay")
    assert len(spans) == 2
    assert {span.trace_id for span in spans} == {result.json["trace_id"]}
    assert {span.resource["service.name"] for span in spans} == {"Relay"}
    assert [log.trace_id for log in any_receiver.logs()] == [result.json["trace_id"]]
    assert [point.value for point in any_receiver.metrics("worker.doctor.checks")] == [1, 1]


def test_no_job_is_enqueued_and_no_spool_is_made(relay: Cli) -> None:
    with Receiver() as receiver:
        result = relay.ok("doctor", "relay", "--json", env=to(receiver))
        assert result.json["engine"]["text"].endswith("makes it")
        assert not relay.spool.exists()
        relay.ok("enqueue", "relay", "digests", "1", env={"OTEL_SDK_DISABLED": "true"})
        assert (
            relay.ok("doctor", "relay", "--json", env=to(receiver))
            .json["engine"]["text"]
            .startswith("3 queues, 1 job;")
        )
        assert {span.name for span in receiver.spans()} == {"doctor Relay"}


def test_a_refused_port_names_the_way_out(relay: Cli) -> None:
    env: dict[str, str | None] = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    result = relay.run("doctor", "relay", "--json", env=env)
    assert result.code == 1
    assert {test["state"] for test in ways_of(result).values()} == {"unreachable"}
    assert {test["answer"] for test in ways_of(result).values()} == {"Connection refused"}
    result = relay.run("doctor", "relay", "--json", env=env | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert result.code == 1
    assert {test["state"] for test in ways_of(result).values()} == {"unreachable"}
    assert all("UNAVAILABLE" in test["answer"] for test in ways_of(result).values())


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_who_says_nothing_is_waited_for_no_longer_than_wanted(relay: Cli, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        env: dict[str, str | None] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        result = relay.run("doctor", "relay", "--json", "--timeout", "0.5", env=env)
    assert result.code == 1
    assert {(test["state"], test["answer"]) for test in ways_of(result).values()} == {
        ("timeout", "no answer within 0.5 s")
    }


@pytest.mark.parametrize(
    ("status", "hint"),
    [(503, "tries again"), (404, "/v1/traces is appended"), (401, "OTEL_EXPORTER_OTLP_HEADERS"), (302, "redirects")],
)
def test_a_status_is_told_with_what_it_means(relay: Cli, status: int, hint: str) -> None:
    with Receiver() as receiver:
        receiver.status = status
        result = relay.run("doctor", "relay", "--json", env=to(receiver))
    assert result.code == 1
    found = ways_of(result)
    assert {test["state"] for test in found.values()} == {"refused"}
    assert all(test["answer"].startswith(str(status)) for test in found.values())
    assert hint in found["traces", "ring"]["hint"]
    assert hint in found["traces", "sdk"]["hint"]


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"])
def test_a_code_of_grpc_is_told(relay: Cli, code: str) -> None:
    with GrpcReceiver() as receiver:
        receiver.refuses = code
        result = relay.run("doctor", "relay", "--json", env=to(receiver))
    assert result.code == 1
    assert {test["state"] for test in ways_of(result).values()} == {"refused"}
    assert {test["answer"] for test in ways_of(result).values()} == {f"{code} not here"}


def test_a_partial_success_is_no_success(relay: Cli, any_receiver: Receiver | GrpcReceiver) -> None:
    if isinstance(any_receiver, GrpcReceiver):
        any_receiver.rejects = 1
    else:
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = 1
        any_receiver.body = answer.SerializeToString()
    result = relay.run("doctor", "relay", "--json", env=to(any_receiver, OTEL_METRICS_EXPORTER="none"))
    assert result.code == 1
    found = ways_of(result)
    assert set(found) == {("traces", "ring"), ("traces", "sdk")}
    assert {test["state"] for test in found.values()} == {"partial"}
    assert {test["answer"].partition(",")[2] for test in found.values()} == {" but 1 rejected"}


def test_a_web_page_is_no_receiver(relay: Cli) -> None:
    with Receiver() as receiver:
        receiver.kind, receiver.body = "text/html; charset=utf-8", b"<html>hello</html>"
        result = relay.run("doctor", "relay", "--json", env=to(receiver))
    assert result.code == 1
    assert {test["answer"] for test in ways_of(result).values()} == {"200 OK, but text/html"}


def test_protocols_that_do_not_match_are_found(relay: Cli) -> None:
    with Receiver() as receiver:
        result = relay.run(
            "doctor", "relay", "--json", "--timeout", "3", env=to(receiver, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
        )
    assert result.code == 1
    assert "arrived" not in {test["state"] for test in ways_of(result).values()}
    with GrpcReceiver() as receiver:
        result = relay.run(
            "doctor", "relay", "--json", "--timeout", "3", env=to(receiver, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        )
    assert result.code == 1
    assert "arrived" not in {test["state"] for test in ways_of(result).values()}


@contextmanager
def tls_receiver(place: Path) -> Iterator[tuple[Receiver, Path]]:
    """With a certificate of its own; gives the file that makes it trusted."""
    key, certificate = place / "key.pem", place / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Receiver() as receiver:
        receiver.encrypt(context)
        yield receiver, certificate


def test_tls_is_told_apart_from_a_port_without(relay: Cli, tmp_path: Path) -> None:
    with tls_receiver(tmp_path) as (receiver, certificate):
        where: dict[str, str | None] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://localhost:{receiver.port}",
            "REQUESTS_CA_BUNDLE": None,
            "CURL_CA_BUNDLE": None,
        }
        strange = relay.run("doctor", "relay", "--json", env=where)
        assert strange.code == 1
        assert {test["state"] for test in ways_of(strange).values()} == {"tls"}
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in ways_of(strange)["traces", "ring"]["hint"]
        trusted = {**where, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate)}
        assert relay.run("doctor", "relay", "--json", env=trusted).code == 0
        shadowed = relay.run("doctor", "relay", "--json", env={**trusted, "REQUESTS_CA_BUNDLE": _bundle()})
        assert {way: test["state"] for way, test in ways_of(shadowed).items() if way[1] == "ring"} == {
            ("traces", "ring"): "arrived",
            ("metrics", "ring"): "arrived",
        }
        assert "REQUESTS_CA_BUNDLE" in variables_of(shadowed)["OTEL_EXPORTER_OTLP_CERTIFICATE"]["why"]
        missing = relay.run("doctor", "relay", "--json", env={**where, "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such"})
        assert {test["state"] for test in ways_of(missing).values()} == {"broken"}
    with Receiver() as plain:
        result = relay.run(
            "doctor", "relay", "--json", env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{plain.port}"}
        )
        assert {test["state"] for test in ways_of(result).values()} == {"tls"}
        assert "http://" in ways_of(result)["traces", "sdk"]["hint"]


@pytest.mark.parametrize(
    ("variables", "kind", "why"),
    [
        ({}, "ring", "exporter process"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, "sdk", "TEMPORALITY_PREFERENCE=delta"),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, "sdk", "OTEL_TRACES_EXPORTER=console"),
    ],
)
def test_the_path_is_that_of_worker_run_and_says_why(
    relay: Cli, variables: dict[str, str], kind: str, why: str
) -> None:
    with Receiver() as receiver:
        result = relay.ok("doctor", "relay", "--json", env=to(receiver, **variables))
    assert result.json["path"]["kind"] == kind
    assert why in result.json["path"]["why"]
    assert {test["by"] for test in result.json["tests"]} == ({"ring", "sdk"} if kind == "ring" else {"sdk"})


def test_what_is_off_is_no_success(relay: Cli) -> None:
    result = relay.run("doctor", "relay", "--json", env={"OTEL_SDK_DISABLED": "true"})
    assert result.code == 1
    assert result.json["tests"] == []
    assert set(result.json["off"].values()) == {"OTEL_SDK_DISABLED=true"}
    assert not variables_of(result)["OTEL_EXPORTER_OTLP_ENDPOINT"]["in_force"]


def test_variables_in_force_and_in_vain_without_their_secrets(relay: Cli) -> None:
    with Receiver() as receiver:
        result = relay.ok(
            "doctor",
            "relay",
            "--json",
            env={
                **receiver.env(),
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:hush@127.0.0.1:{receiver.port}",
                "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hush, x=hush",
                "OTEL_EXPORTER_OTLP_HEADER": "api-key=hush",
                "OTEL_EXPORTER_OTLP_INSECURE": "true",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
                "OTEL_TRACES_SAMPLER_ARG": "0.1",
                "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "a=hush",
                "OTEL_PYTHON_DISTRO": "x",
                "WORKER_TRACE_LINKAGE": "link",
                "WORKER_TRACE_LINKAG": "hush",
            },
        )
    assert "hush" not in result.out
    found = variables_of(result)
    assert "OTEL_PYTHON_DISTRO" not in found, "this product does not read it"
    force = {name for name, variable in found.items() if variable["in_force"]}
    assert {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_ENDPOINT", "WORKER_TRACE_LINKAGE"} <= force
    assert found["OTEL_EXPORTER_OTLP_HEADERS"]["value"] == "api-key=…,x=…"
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == f"http://127.0.0.1:{receiver.port}"
    vain = {name: variable["why"] for name, variable in found.items() if not variable["in_force"]}
    assert "seconds" in vain.pop("OTEL_EXPORTER_OTLP_TIMEOUT")
    assert vain.pop("OTEL_BLRP_SCHEDULE_DELAY") == "OTEL_LOGS_EXPORTER=none: that signal is off"
    assert vain == {
        "OTEL_EXPORTER_OTLP_HEADER": "nothing reads it; did you mean OTEL_EXPORTER_OTLP_HEADERS?",
        "OTEL_EXPORTER_OTLP_INSECURE": "only grpc reads it; over http the endpoint says http:// or https://",
        "OTEL_TRACES_SAMPLER_ARG": "OTEL_TRACES_SAMPLER=parentbased_always_on takes no argument",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "OTEL_LOGS_EXPORTER=none: that signal is off",
        "WORKER_TRACE_LINKAG": "nothing reads it; did you mean WORKER_TRACE_LINKAGE?",
    }


def test_a_wrong_clock_is_seen(relay: Cli) -> None:
    with Receiver() as receiver:
        assert abs(relay.ok("doctor", "relay", "--json", env=to(receiver)).json["clock"]) < 5
        receiver.date = "Sat, 01 Jan 2000 00:00:00 GMT"
        result = relay.ok("doctor", "relay", env=to(receiver))
    assert "ahead of the receiver's" in result.out


def test_an_engine_that_cannot_be_used_is_a_three(relay: Cli) -> None:
    relay.spool.mkdir()
    relay.spool.chmod(0o777)
    with Receiver() as receiver:
        result = relay.run("doctor", "relay", "--json", env=to(receiver))
    assert result.code == 3
    assert result.json["engine"]["ok"] is False
    assert result.json["ok"] is False
    assert {test["state"] for test in ways_of(result).values()} == {"arrived"}


def test_plain_in_a_pipe_and_a_table_on_a_terminal(relay: Cli) -> None:
    with Receiver() as receiver:
        relay.environ |= receiver.env()
        plain = relay.ok("doctor", "relay")
        assert plain.err == ""
        tests, checks, known = plain.out.strip().split("\n\n")
        assert tests.splitlines()[0] == "signal\tcarries\tby\tto\tstate\ttime\tanswer\thint"
        assert [line.split("\t")[:2] for line in checks.splitlines()] == [
            ["check", "state"], ["path", "ok"], ["conventions", "ok"], ["resource", "ok"], ["kill", "ok"],
            ["engine", "ok"], ["clock", "ok"], ["trace", "ok"],
        ]  # fmt: skip
        assert known.splitlines()[0] == "variable\tvalue\tstate\twhy"
        assert "\x1b" not in plain.out
        shown = relay.terminal("doctor", "relay", columns=140)
    assert shown.code == 0
    assert "arrived" in shown.out
    assert "\x1b[" in shown.out
    assert json.dumps("hint") not in shown.out
