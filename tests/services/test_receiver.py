"""The receiver over real sockets."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from services.example_worker.answers import DEFAULT, Shares
from services.example_worker.receiver import LARGEST, Receiver
from services.example_worker.signing import sign
from tests.services.conftest import SECRET, StartReceiver


def post(
    client: httpx.Client,
    receiver: Receiver,
    delivery: str,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    signed = {"X-Signature-256": sign(SECRET, body), "X-Delivery": delivery, "X-Event": "push", **(headers or {})}
    return client.post(receiver.url, content=body, headers=signed)


@pytest.fixture
def client() -> httpx.Client:
    return httpx.Client(timeout=10, trust_env=False)


def test_takes_what_is_signed_and_counts_it(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("ok=1")
    traceparent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert post(client, receiver, "a", b'{"n": 1}', traceparent).status_code == 200
    assert post(client, receiver, "b").status_code == 200
    assert post(client, receiver, "a", b'{"n": 1}').status_code == 200
    assert client.get(receiver.url.replace("/hooks", "/stats")).json() == {
        "requests": 3,
        "delivered": 2,
        "duplicates": 1,
        "bad_signatures": 0,
        "aborted": 0,
        "traced": 1,
        "bytes": 18,
        "statuses": {"200": 3},
        "events": {"push": 3},
    }


def test_a_wrong_signature_is_401_and_counted(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("ok=1")
    for signature in ("", "sha256=00", sign("other", b"{}")):
        assert post(client, receiver, "a", headers={"X-Signature-256": signature}).status_code == 401
    stats = receiver.counts.snapshot()
    assert (stats["bad_signatures"], stats["delivered"], stats["statuses"]) == (3, 0, {"401": 3})


def test_answers_in_the_stated_shares(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("ok=60,503=20,429=10,404=10")
    seen = Counter(post(client, receiver, f"d-{number}").status_code for number in range(300))
    # Drawn from the ids, so these are the same in every run; bounds of four standard deviations all the same.
    assert 146 <= seen[200] <= 214
    assert 32 <= seen[503] <= 88
    assert 9 <= seen[429] <= 51
    assert 9 <= seen[404] <= 51
    assert sum(seen.values()) == 300


def test_the_fate_of_a_delivery_does_not_depend_on_the_others() -> None:
    shares = Shares.parse(DEFAULT)
    fates = [[shares.draw(1, f"d-{number}", time) for time in (1, 2, 3)] for number in range(50)]
    assert fates == [[shares.draw(1, f"d-{number}", time) for time in (1, 2, 3)] for number in range(50)]
    assert fates != [[shares.draw(2, f"d-{number}", time) for time in (1, 2, 3)] for number in range(50)]
    retried = Shares.parse("ok=1,503=1")
    assert {tuple(retried.draw(1, f"d-{n}", time) for time in (1, 2)) for n in range(50)} == {
        (200, 200), (200, 503), (503, 200), (503, 503)
    }  # fmt: skip


def test_retry_after_comes_in_both_forms(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("429=1", retry_after=7)
    number, date = (post(client, receiver, delivery).headers["Retry-After"] for delivery in ("a", "b"))
    assert number == "7"
    moment = parsedate_to_datetime(date)
    assert moment.tzinfo is not None
    assert -10 < (moment - datetime.now(UTC)).total_seconds() <= 7


def test_a_hanging_request_gets_no_answer(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("hang=1", hang=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        post(client, receiver, "a")
    assert receiver.counts.snapshot()["statuses"] == {"hang": 1}


def test_stop_lets_go_of_hanging_requests(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("hang=1", hang=3600)
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(httpx.TransportError):
            post(client, receiver, "a")
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    for _ in range(1000):
        if receiver.counts.snapshot()["requests"]:
            break
        ended.wait(0.01)
    receiver.stop()
    assert ended.wait(10)


def test_a_connection_is_used_again(start_receiver: StartReceiver) -> None:
    receiver = start_receiver("ok=1,404=1")
    with httpx.Client(trust_env=False, limits=httpx.Limits(max_connections=1)) as client:
        for number in range(20):
            post(client, receiver, str(number), b"x" * 50_000)
    assert receiver.counts.requests == 20
    assert receiver.connections == 1


def test_refuses_what_is_too_large_or_of_unknown_length(start_receiver: StartReceiver, client: httpx.Client) -> None:
    receiver = start_receiver("ok=1")
    assert client.post(receiver.url, content=iter([b"{}"])).status_code == 411  # chunked
    connection = http.client.HTTPConnection("127.0.0.1", receiver.server_port, timeout=10)
    connection.putrequest("POST", "/hooks")
    connection.putheader("Content-Length", str(LARGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert receiver.counts.requests == 0


def test_a_sender_that_dies_in_the_middle_is_no_bad_signature(start_receiver: StartReceiver) -> None:
    receiver = start_receiver("ok=1")
    with socket.create_connection(("127.0.0.1", receiver.server_port), timeout=10) as connection:
        connection.sendall(b"POST /hooks HTTP/1.1\r\nContent-Length: 1000\r\n\r\nonly this")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # closed without an answer
    stats = receiver.counts.snapshot()
    assert (stats["aborted"], stats["requests"], stats["bad_signatures"]) == (1, 0, 0)


def test_health_and_unknown_paths(start_receiver: StartReceiver, client: httpx.Client) -> None:
    base = start_receiver("ok=1").url.removesuffix("/hooks")
    assert client.get(f"{base}/health").status_code == 200
    assert client.get(f"{base}/elsewhere").status_code == 404


@pytest.mark.parametrize("text", ["", "ok", "ok=", "ok=x", "maybe=1", "99=1", "600=1", "ok=-1", "ok=inf", "ok=0"])
def test_wrong_shares_are_explained(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        Shares.parse(text)
