"""A real receiver on a free port, and a relay whose subscriber it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from services.example_worker import WebhookRelay
from services.example_worker.answers import Shares
from services.example_worker.receiver import Receiver
from services.example_worker.settings import RelaySettings

SECRET = "correct horse battery staple"
StartReceiver = Callable[..., Receiver]


@pytest.fixture
def start_receiver() -> Iterator[StartReceiver]:
    """Starts receivers: `start_receiver("404=1", hang=5)`."""
    with ExitStack() as cleanup:

        def start(shares: str = "ok=1", *, secret: str = SECRET, hang: float = 30.0, retry_after: int = 7) -> Receiver:
            receiver = Receiver(secret=secret, shares=Shares.parse(shares), hang=hang, retry_after=retry_after)
            cleanup.enter_context(receiver)
            thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            cleanup.callback(thread.join, 10)
            cleanup.callback(receiver.stop)
            return receiver

        yield start


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Tells the relay of a receiver the way an operator would."""

    def tell(receiver: Receiver, *, secret: str = SECRET, timeout: float = 5.0) -> None:
        monkeypatch.setenv("RELAY_SUBSCRIBERS__SHOP__URL", receiver.url)
        monkeypatch.setenv("RELAY_SUBSCRIBERS__SHOP__SECRET", secret)
        monkeypatch.setenv("RELAY_TIMEOUT", str(timeout))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")

    return tell


@pytest.fixture
def relay() -> Callable[[httpx.AsyncClient], WebhookRelay]:
    """The service object with its resources set by hand: handlers are plain methods."""

    def make(client: httpx.AsyncClient) -> WebhookRelay:
        app = WebhookRelay()
        app.settings = RelaySettings()
        app.http = client
        return app

    return make
