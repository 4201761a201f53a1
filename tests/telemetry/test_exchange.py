"""What one exchange with a collector costs at most, whatever it answers, for each way that something is sent."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider

from framework.telemetry.export.exchange import BODY, Bounded, pause_of, session_of
from framework.telemetry.export.otlp import Answer, destination
from framework.telemetry.export.sender import Batch, Sender
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.exporters import LONGEST, SHORTEST
from tests.support.programs import free_port
from tests.telemetry import hostile
from tests.telemetry.hostile import Hostile, says

PIECES = 4 << 20  # bytes: buffers of both sockets, and what is read


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between tries, where they are not what is tested."""
    monkeypatch.setattr("framework.telemetry.export.exchange.SHORTEST", 0.0)


def post(answer: hostile.Answer, *, seconds: float = 0.3) -> requests.Response:
    with Hostile(answer) as receiver:
        found = session_of("traces").post(receiver.url, data=b"x", timeout=seconds, allow_redirects=False)
        assert receiver.poured < PIECES
        return found


@pytest.mark.parametrize("answer", [hostile.HUGE, hostile.UNTIL_CLOSED, hostile.bomb("gzip"), hostile.bomb("deflate")])
def test_of_an_endless_body_a_part_is_read(answer):
    tracemalloc.start()
    try:
        found = post(answer, seconds=30)
        assert (found.status_code, len(found.content)) == (200, BODY)
        assert tracemalloc.get_traced_memory()[1] < PIECES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_a_body_that_cannot_be_read_is_none(encoding):
    assert post(says(f"200 OK\r\nContent-Encoding: {encoding}", b"hello")).content == b""


def test_a_plain_answer_is_read_as_it_is():
    found = post(says("202 Yes\r\nX: y", b"hello"))
    assert (found.status_code, found.reason, found.headers["X"], found.content) == (202, "Yes", "y", b"hello")


@pytest.mark.parametrize("answer", [hostile.DRIP, hostile.DRIP_HEADERS, hostile.CONTINUE])
def test_an_exchange_ends_at_its_deadline_whatever_drips(answer):
    """It would last for ever; that it ends is the test."""
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError)):
        post(answer)


@pytest.mark.parametrize(
    "answer",
    [hostile.HEADERS, says("99999 X"), says("200.5 X"), hostile.RESET,
     lambda _, peer: peer.sendall(b"\x15\x03\x01\r\n"), says("200 OK\r\nContent-Length: -5")],
)  # fmt: skip
def test_what_is_no_answer_is_an_error_that_requests_knows(answer):
    with pytest.raises(requests.RequestException):
        post(answer, seconds=5)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("nan", None), ("5", 5), ("0", SHORTEST), ("-1", SHORTEST),
        ("inf", LONGEST), ("-inf", SHORTEST), ("1e9", LONGEST), ("9" * 400, LONGEST), ("0.001", SHORTEST),
        (formatdate(1), SHORTEST), (formatdate(4e9), LONGEST), ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)  # fmt: skip
def test_a_pause_that_a_receiver_asks_for_has_limits(header, seconds):
    assert pause_of(header) == seconds


def gaps(asked: list[float]) -> Iterator[float]:
    return (later - earlier for earlier, later in pairwise(asked))


def span() -> Any:
    made = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    made.end()
    return made


def test_the_exporter_lets_a_second_pass_between_two_tries(monkeypatch):
    answers = iter([*(says(f"503 No\r\nRetry-After: {wanted}") for wanted in ("0", "inf")), *[hostile.OK] * 1000])
    with Hostile(lambda receiver, peer: next(answers)(receiver, peer)) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setattr("framework.telemetry.export.sender.LONGEST", SHORTEST)
        there = destination("traces")
        assert there is not None
        health: Any = type("Health", (), {"failed": lambda *_, **__: None, "worked": lambda *_: None})()
        sender = Sender("traces", there, lambda: Batch(b"x", lambda _: None, more=True), interval=0.001, health=health)
        sender.start()
        while len(receiver.asked) < 3:
            sender.nudge()
        sender.stop(0.0)
        sender.join()
    assert min(gaps(receiver.asked[:3])) >= SHORTEST


def test_the_sdks_exporter_lets_a_second_pass_too_also_where_the_connection_breaks(monkeypatch):
    answers = iter([says("503 No\r\nRetry-After: 0"), hostile.RESET, hostile.OK])
    with Hostile(lambda receiver, peer: next(answers)(receiver, peer)) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert exporters.otlp("traces").export([span()]).name == "SUCCESS"
    assert len(receiver.asked) == 3
    assert min(gaps(receiver.asked)) >= SHORTEST


def test_a_leaving_process_waits_for_nobody(monkeypatch):
    """Regression: each process of a tree spent its whole budget, a second, where no collector runs."""
    pauses: list[float] = []
    monkeypatch.setattr("framework.telemetry.export.exchange.time.sleep", pauses.append)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    exporter = exporters.otlp("traces")
    tries: list[float] = []
    send = Bounded.send

    def counted(self: Bounded, *args: Any, **kwargs: Any) -> Any:
        tries.append(0.0)
        return send(self, *args, **kwargs)

    monkeypatch.setattr(Bounded, "send", counted)
    exporter.leave()
    exporter._client._shutdown_event.wait = lambda backoff: pytest.fail("the SDK tries again, and waits")
    assert exporter.export([span()]).name == "FAILURE"
    assert len(tries) == 2, "once more, should the first have met a connection that the other side has closed"
    assert pauses == []


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_every_exporter_over_http_keeps_the_limits(monkeypatch, signal):
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    found = exporters.otlp(signal)
    session = found._client._transport._session
    assert isinstance(session.get_adapter("http://a"), Bounded)
    assert isinstance(session.get_adapter("https://a"), Bounded)


def test_a_credential_providers_session_keeps_the_limits(monkeypatch, tmp_path):
    (tmp_path / "theirs.py").write_text("import requests\nclass Mine(requests.Session): ...\n")
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_otlp_credential_provider]\nmine = theirs:Mine\nnone = os:getcwd\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    variable = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"
    monkeypatch.setenv(variable, "mine")
    session = session_of("traces")
    assert type(session).__name__ == "Mine"
    assert isinstance(session.get_adapter("https://a"), Bounded)
    monkeypatch.setenv(variable, "none")
    with pytest.raises(TypeError):
        session_of("traces")


@pytest.mark.parametrize(("count", "dropped"), [(-5, 0), (10**6, 10), (3, 3)])
def test_a_partial_success_drops_no_more_than_was_sent(tmp_path, receiver, count, dropped):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    from tests.telemetry.helpers import Relay, lease_of
    from tests.telemetry.rings import post as exporter_of
    from tests.telemetry.rings import ring_station, rings_in

    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = count
    receiver.body = answer.SerializeToString()
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    for _ in range(10):
        station.run(app, lease_of("ok"))
    station.close()
    found = exporter_of(tmp_path, rings)
    found.flush()
    assert found.exporter._sources[rings.path("deliveries/0")].cells.dropped["traces"] == dropped


GRPC = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from google.rpc.error_details_pb2 import RetryInfo

class Answers(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(answer)

def answer(request, context):
    global asked
    asked += 1
    if sys.argv[1] == "bomb":
        context.set_compression(grpc.Compression.Gzip)
        return bytes(40 << 20)
    info = RetryInfo()
    info.retry_delay.seconds = -5
    context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
    context.abort(grpc.StatusCode.UNAVAILABLE, "no")

asked = 0
server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.add_generic_rpc_handlers((Answers(),))
server.start()
sys.stdin.readline()
print(asked)
"""


@pytest.mark.parametrize("kind", ["bomb", "retry"])
def test_grpc_keeps_the_limits_for_the_exporter_and_the_sdk(monkeypatch, kind):
    command = [sys.executable, "-c", GRPC, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.stdout.readline().strip()}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
        there = destination("traces")
        assert there is not None
        answer: Answer = there.send(b"", 5)
        assert not answer.accepted
        assert ("larger" in answer.cause) == (kind == "bomb")
        assert exporters.otlp("traces").export([span()]).name == "FAILURE"
        asked = int(server.communicate("\n", timeout=30)[0])
    assert asked <= 3  # one, and two of the SDK in a second and a half
