"""One hostile store for the whole layer, and the servers in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.command import RELAY, Cli
from tests.web import hostile
from tests.web.server import TOKEN, Server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A service `relay` and a store of hostile values."""
    cli = Cli(tmp_path_factory.mktemp("web"))
    cli.write("relay.py", RELAY)
    hostile.fill(cli)
    return cli


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """While these servers run; they start at the same time."""
    try:
        for server in servers:
            server.await_address()
        yield
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate()


@pytest.fixture(scope="module")
def servers(store: Cli) -> Iterator[tuple[Server, Server, Server]]:
    """One as it comes, one with a token, a proxy on this machine and acts, one behind a proxy elsewhere."""
    plain = Server(store)
    closed = Server(store, "--allow-actions", "--proxy", "127.0.0.1", "--name", hostile.MARKUP, token=TOKEN)
    behind = Server(store, "--proxy", "10.1.2.3", "--open-probes")
    with running(plain, closed, behind):
        yield plain, closed, behind


@pytest.fixture
def plain(servers: tuple[Server, Server, Server]) -> Server:
    """`worker web` without any option."""
    return servers[0]


@pytest.fixture
def closed(servers: tuple[Server, Server, Server]) -> Server:
    """With a token, with a proxy that authenticates people, and with acts."""
    return servers[1]


@pytest.fixture
def behind(servers: tuple[Server, Server, Server]) -> Server:
    """Behind a proxy on another machine; its probes are open."""
    return servers[2]
