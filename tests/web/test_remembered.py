"""Answers that take long are remembered: how old they are is said, and an act through the page makes them new."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from framework.service.settings import load_settings
from framework.web import remembered
from framework.web.config import Config
from framework.web.site import Site
from tests.support.command import Cli

FORM = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A store with one job whose every answer counts as slow."""
    monkeypatch.setattr(remembered, "QUICK", -1.0)
    cli = Cli(tmp_path_factory.mktemp("remembered"))
    cli.store("digests", 1, "first")
    return cli


@pytest.fixture
async def client(store: Cli) -> AsyncIterator[httpx.AsyncClient]:
    site = Site(load_settings(), None, Config(local="me", allow_actions=True), url=f"spool:{store.spool}")
    transport = httpx.ASGITransport(site.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=FORM) as client:
        yield client


async def text_of(client: httpx.AsyncClient, path: str) -> str:
    answer = await client.get(path)
    assert answer.status_code == 200
    return answer.text


async def test_an_answer_stays_until_it_is_read_anew(
    store: Cli, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "AGAIN", 1e9)
    until = time.monotonic() + 60
    assert "first" in await text_of(client, "/jobs")
    assert ">1</td>" in await text_of(client, "/")
    store.store("digests", 1, "second")
    while "The store was read" not in (page := await text_of(client, "/jobs")):
        assert "second" not in page
        assert time.monotonic() < until, page
    while "The store was read" not in await text_of(client, "/"):
        assert time.monotonic() < until
    monkeypatch.setattr(remembered, "AGAIN", 0.0)
    monkeypatch.setattr(remembered, "SPARE", 0)
    while "second" not in (page := await text_of(client, "/jobs")):
        assert time.monotonic() < until, page
    while ">2</td>" not in (page := await text_of(client, "/")):
        assert time.monotonic() < until, page


async def test_after_an_act_nothing_old_is_shown(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "AGAIN", 1e9)
    assert "first" in await text_of(client, "/jobs")
    found = re.search(r'name="job" value="([^"]+)"', await text_of(client, "/job?id=first"))
    assert found
    done = await client.post("/act", data={"verb": "discard", "job": found[1]})
    assert "deleted 1 of 1" in done.text
    assert "No jobs pass." in await text_of(client, "/jobs")


async def test_an_answer_that_is_too_old_is_not_shown(
    store: Cli, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "AGAIN", 1e9)
    assert "first" in await text_of(client, "/jobs")
    store.store("digests", 1, "second")
    monkeypatch.setattr(remembered, "OLDEST", -1.0)
    assert "second" in await text_of(client, "/jobs")
